"""What the harness did, as JSON lines: each is written before anybody judges what came of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from chaos.errors import ChaosError
from chaos.ledger import boottime_ns

MAX_LINE_BYTES = 1 << 20


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One line. `time_ns` is CLOCK_BOOTTIME; `at` is for people."""

    event: str
    time_ns: int
    at: str
    trial: str = ""
    fault: str = ""
    text: str = ""
    holds: bool | None = None
    measures: tuple[tuple[str, float | str, str], ...] = ()


class Journal:
    """Appends to one file; safe between threads (one write a line)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            if path.stat().st_size and path.read_bytes()[-1:] != b"\n":
                os.write(self._handle, b"\n")  # the last session was cut off in the middle of a line
        except OSError as error:
            raise _unusable(path, error) from error

    def write(
        self,
        event: str,
        *,
        trial: str = "",
        fault: str = "",
        text: str = "",
        holds: bool | None = None,
        measures: tuple[tuple[str, float | str, str], ...] = (),
    ) -> None:
        """Writes one line. Raises ChaosError."""
        entry = Entry(
            event=event,
            time_ns=boottime_ns(),
            at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            trial=trial,
            fault=fault,
            text=text,
            holds=holds,
            measures=measures,
        )
        try:
            os.write(self._handle, msgspec.json.encode(entry) + b"\n")
        except OSError as error:
            raise _unusable(self.path, error) from error

    def close(self) -> None:
        """Closes the file."""
        os.close(self._handle)


def read_journal(path: Path) -> Iterator[Entry]:
    """The whole lines of a journal; what was cut in the middle is left out. Raises ChaosError."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise _unusable(path, error) from error
    for line in raw.split(b"\n"):
        try:
            yield msgspec.json.decode(line, type=Entry)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue


def _unusable(path: Path, error: OSError) -> ChaosError:
    reason = (error.strerror or str(error)).lower()
    return ChaosError(f"journal {path}", reason, "make room, or name another file")
