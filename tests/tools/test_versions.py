"""Versions: what real tools print, and which ranges take them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.tools.versions import accepts, format_version, parse_version, probe_version
from tests.tools.fakes import write_program


@pytest.mark.parametrize(
    ("printed", "version"),
    [
        ("v3.259.0\n", (3, 259, 0)),
        ("etcd Version: 3.7.3\nGit SHA: Not provided\nGo Version: go1.26.8\n", (3, 7, 3)),
        ("etcdctl version: 3.7.3\nAPI version: 3.7\n", (3, 7, 3)),
        ("toxiproxy-server version 2.12.0", (2, 12, 0)),
        ("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64", (7, 0, 15)),
        ("redis-cli 7.0.15", (7, 0, 15)),
        ("prometheus, version 2.42.0+ds (branch: debian/sid, revision: 2.42.0+ds-5+deb12u1)", (2, 42, 0)),
        ("alertmanager, version 0.25.0 (branch: x)", (0, 25, 0)),
        ("toxiproxy-server version git", None),
        ("version 7", None),
        ("", None),
    ],
)
def test_reads_what_tools_print(printed: str, version: tuple[int, ...] | None) -> None:
    assert parse_version(printed) == version


@pytest.mark.parametrize(
    ("accept", "version", "fits"),
    [
        (">=3.6,<4", (3, 6, 0), True),
        (">=3.6,<4", (3, 7, 3), True),
        (">=3.6,<4", (3, 5, 29), False),
        (">=3.6,<4", (4, 0), False),
        (">=3.6,<4", (3, 10, 1), True),  # ten comes after nine
        ("==2.12.0", (2, 12), True),  # missing parts are zero
        ("==2.12.0", (2, 12, 1), False),
        (">=0.25,<1", (0, 3, 0), False),
        (">2.0", (2, 0, 0), False),
        ("<=2.0", (2, 0, 0), True),
        (" >= 1.0 , < 2 ", (1, 5), True),
    ],
)
def test_ranges(accept: str, version: tuple[int, ...], fits: bool) -> None:
    assert accepts(accept, version) is fits


@pytest.mark.parametrize("accept", ["", "3.6", "~=3.6", ">=3.x", ">=1,", ">= "])
def test_what_is_no_range_is_refused(accept: str) -> None:
    with pytest.raises(ValueError, match="not a version range"):
        accepts(accept, (3, 6))


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=5))
def test_a_version_reads_back(parts: list[int]) -> None:
    text = format_version(tuple(parts))
    assert text is not None
    assert parse_version(f"tool v{text} (go1.2.3)") == tuple(parts)
    assert accepts(f"=={text}", tuple(parts))
    assert not accepts(f">{text}", tuple(parts))


@pytest.mark.parametrize(
    ("script", "version"),
    [
        ("echo tool 1.2.3", (1, 2, 3)),
        ("echo tool 1.2.3 >&2", (1, 2, 3)),  # some say it on stderr
        ("echo tool 1.2.3; exit 1", None),  # who fails has no version
        ("printf '\\377\\376 1.2.3'", (1, 2, 3)),  # not text
    ],
)
def test_asks_programs(tmp_path: Path, script: str, version: tuple[int, ...] | None) -> None:
    program = write_program(tmp_path / "tool", f"#!/bin/sh\n{script}\n")
    assert probe_version(program, ()) == version


def test_what_does_not_start_has_no_version(tmp_path: Path) -> None:
    truncated = write_program(tmp_path / "tool", "\x7fELF")
    assert probe_version(truncated, ()) is None
    assert probe_version(tmp_path / "absent", ()) is None
