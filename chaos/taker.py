"""`python -m chaos.taker RESOURCE AMOUNT SECONDS PARENT FOLDER`: holds a resource until its time ends.

It ends with the process PARENT too. Nothing of it can stay: memory and processor go with the process, and
so does the disk, because the file has no name. RESOURCE is cpu (one process of them), memory (AMOUNT MiB) or
disk (all but AMOUNT MiB of FOLDER's).
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

MB = 1 << 20
LOOK_S = 0.1
HELD_DESCRIPTOR = 9
"""Where the nameless file of a disk taker is open, so that others can see its size."""
_STEP_MB = 16


def main(arguments: list[str]) -> int:
    resource, amount, seconds, parent, folder = arguments
    end = time.monotonic() + float(seconds)

    def over() -> bool:
        return os.getppid() != int(parent) or time.monotonic() >= end

    with contextlib.suppress(OSError):  # when memory ends, this process goes first
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    try:
        if resource == "cpu":
            burn(over)
        elif resource == "memory":
            hold_memory(int(amount), over)
        else:
            hold_disk(Path(folder), int(amount), over)
    except (OSError, MemoryError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def burn(over: Callable[[], bool]) -> None:
    """Keeps one processor busy."""
    while not over():
        until = time.monotonic() + LOOK_S
        number = 1
        while time.monotonic() < until:
            for _ in range(2000):
                number = (number * 1103515245 + 12345) & 0x7FFFFFFF


def hold_memory(amount_mb: int, over: Callable[[], bool]) -> None:
    """Makes that much memory resident."""
    held: list[mmap.mmap] = []
    while not over() and len(held) * _STEP_MB < amount_mb:
        piece = mmap.mmap(-1, min(_STEP_MB, amount_mb - len(held) * _STEP_MB) * MB)
        for page in range(0, len(piece), mmap.PAGESIZE):
            piece[page] = 1
        held.append(piece)
    while not over():
        time.sleep(LOOK_S)


def hold_disk(folder: Path, floor_mb: int, over: Callable[[], bool]) -> None:
    """Takes the file system's free space down to the floor."""
    os.dup2(nameless(folder), HELD_DESCRIPTOR)
    size = 0
    while not over():
        room = os.fstatvfs(HELD_DESCRIPTOR)
        spare = room.f_bavail * room.f_frsize - floor_mb * MB
        if spare < room.f_frsize:
            time.sleep(LOOK_S)
            continue
        step = min(spare, 64 * MB)
        try:
            os.posix_fallocate(HELD_DESCRIPTOR, size, step)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            time.sleep(LOOK_S)
        else:
            size += step


def nameless(folder: Path) -> int:
    """An open file without a name."""
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o600)
    except OSError:  # a file system without them
        handle, path = tempfile.mkstemp(dir=folder)
        Path(path).unlink()
        return handle


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
