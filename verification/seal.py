"""What a run left, sealed when it ended: a raw record that is cut, changed, added or lost later is found.

`seal.json` names every raw file with its SHA-256; its own stands in `run.json`, as that of the plan does. Who
can write both can forge both: evidence for others is signed (`verification.evidence`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from reports.model import encode
from verification.errors import HarnessError

FILE = "seal.json"
SCHEMA = "threenines.seal/1"
PATTERNS = (
    "history/*.jsonl",
    *(
        f"scenarios/{depth}{name}"
        for depth in ("*/", "*/*/")
        for name in ("planned.yaml", "scenario.yaml", "played.json", "journal.jsonl", "history/*.jsonl")
    ),
)
"""The raw records of a run: what the judge reads besides the plan."""
MEND = "restore it or repeat the run"


class SealError(HarnessError):
    """A run whose raw records are not those with which it ended."""


class Seal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`seal.json`: SHA-256 by path, relative to the run's folder."""

    files: dict[str, str]
    schema: str = SCHEMA


def raw_files(run_folder: Path) -> Iterator[str]:
    """Paths of the raw records, relative to the folder, in order."""
    found = {path for pattern in PATTERNS for path in run_folder.glob(pattern) if path.is_file()}
    yield from sorted(path.relative_to(run_folder).as_posix() for path in found)


def make(run_folder: Path) -> bytes:
    """The seal of what lies there now, for `seal.json`. Raises SealError."""
    return encode(Seal(files={name: _sha256(run_folder, name) for name in raw_files(run_folder)}))


def check(run_folder: Path, seal_sha256: str | None) -> None:
    """That the raw records are those that were sealed; None: the run is not at its end, or older than seals.

    Raises SealError, which names the first file that is not.
    """
    if seal_sha256 is None:
        return
    path = run_folder / FILE
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise SealError(str(path), f"cannot be read ({error.strerror})", MEND) from None
    if hashlib.sha256(raw).hexdigest() != seal_sha256:
        raise SealError(str(path), "is not the seal that run.json names", MEND)
    try:
        seal = msgspec.json.decode(raw, type=Seal)
    except msgspec.MsgspecError as error:
        raise SealError(str(path), f"has another shape than {SCHEMA} ({error})", "use that version") from None
    here = set(raw_files(run_folder))
    for name in sorted(here | set(seal.files)):
        if name not in here:
            raise SealError(str(run_folder / name), "was there when the run ended, and is gone", MEND)
        if name not in seal.files:
            raise SealError(str(run_folder / name), "was added after the run had ended", "take it away")
        if _sha256(run_folder, name) != seal.files[name]:
            raise SealError(str(run_folder / name), "was changed after the run had ended", MEND)


def _sha256(run_folder: Path, name: str) -> str:
    try:
        with open(run_folder / name, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SealError(str(run_folder / name), f"cannot be read ({error.strerror})", MEND) from None
