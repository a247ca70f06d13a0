"""`agents/<name>.pid`: which process is an agent, safe against reuse of process ids (docs/contracts.md)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class PidFile:
    """The content: a process is meant only while `start_ticks` is field 22 of its `/proc/PID/stat`."""

    pid: int
    start_ticks: int
    incarnation: int


def start_ticks(pid: int) -> int:
    """When a process started, in clock ticks since boot. Raises OSError when there is none."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        # The second field is the name in parentheses, which may hold anything.
        return int(file.read().rpartition(b")")[2].split()[19])


def write(path: Path, pid: int, incarnation: int) -> None:
    """Writes the file by rename. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(f"{pid} {start_ticks(pid)} {incarnation}\n")
    temporary.rename(path)


def read(path: Path) -> PidFile | None:
    """The content, or None when there is no file or it is no such file."""
    try:
        fields = path.read_text().split()
        return PidFile(int(fields[0]), int(fields[1]), int(fields[2]) if len(fields) > 2 else 0)
    except (OSError, ValueError, IndexError):
        return None


def alive(content: PidFile) -> bool:
    """True when the process it names still runs."""
    try:
        return start_ticks(content.pid) == content.start_ticks
    except (OSError, ValueError, IndexError):
        return False
