"""Versions of tools: read from what a tool prints, compared with a range such as `>=3.6,<4`."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

Version = tuple[int, ...]

PROBE_TIMEOUT_S = 20.0
_NUMBER = re.compile(r"(?<![\d.])(\d+(?:\.\d+)+)")
_CLAUSE = re.compile(r"^\s*(>=|<=|==|>|<)\s*(\d+(?:\.\d+)*)\s*$")


def parse_version(text: str) -> Version | None:
    """The first dotted number in `text`: `Redis server v=7.0.15 sha=…` gives (7, 0, 15)."""
    match = _NUMBER.search(text)
    return tuple(int(part) for part in match.group(1).split(".")) if match else None


def format_version(version: Version | None) -> str | None:
    """(3, 7, 3) as `3.7.3`; nothing for nothing."""
    return ".".join(str(part) for part in version) if version is not None else None


def accepts(accept: str, version: Version) -> bool:
    """Whether `version` meets every clause of `accept`. Missing parts count as 0: 3.6 is 3.6.0.

    Raises ValueError when `accept` is not a comma-separated list of comparisons.
    """
    return all(_clause_holds(clause, version) for clause in accept.split(","))


def _clause_holds(clause: str, version: Version) -> bool:
    match = _CLAUSE.match(clause)
    if match is None:
        raise ValueError(f"not a version range: {clause!r}")
    operator, bound_text = match.groups()
    bound = tuple(int(part) for part in bound_text.split("."))
    width = max(len(bound), len(version))
    left, right = (v + (0,) * (width - len(v)) for v in (version, bound))
    return {
        ">=": left >= right,
        "<=": left <= right,
        "==": left == right,
        ">": left > right,
        "<": left < right,
    }[operator]


def probe_version(
    program: Path, arguments: Sequence[str], env: Mapping[str, str] | None = None
) -> Version | None:
    """Ask a program for its version; nothing when it does not start, fails, hangs or answers without one."""
    try:
        answer = subprocess.run(
            [str(program), *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=PROBE_TIMEOUT_S,
            env=env,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if answer.returncode != 0:
        return None
    return parse_version(answer.stdout) or parse_version(answer.stderr)
