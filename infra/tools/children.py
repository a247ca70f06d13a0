"""Child processes of the set-up: each with a log of its own, all of them stoppable, failures explained."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from infra.tools.errors import SetupError

_TAIL_BYTES = 64 * 1024
STOP_GRACE_S = 5.0
"""What a child gets between the asking and the killing."""

# First match wins: pattern in the child's output, what is wrong, how to mend it.
EXPLANATIONS: tuple[tuple[re.Pattern[str], str, str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), what, mend)
    for pattern, what, mend in (
        (
            r"no space left on device|disk quota exceeded|ENOSPC",
            "the disk is full",
            "free about 6 GB and run make setup again",
        ),
        (
            r"do not match the hashes|checksum mismatch|SECURITY ERROR|hash sum mismatch",
            "a download does not match its pinned hash",
            "do not use it; compare the lock files with the repository's",
        ),
        (
            r"no such host|temporary failure (in name resolution|resolving)|could not resolve|"
            r"name or service not known|network is unreachable|no route to host|"
            r"connection (refused|reset|timed out)|i/o timeout|"
            r"dial tcp|tls handshake timeout|NewConnectionError|ReadTimeoutError|ConnectTimeoutError|"
            r"cannot connect to proxy|unexpected EOF|failed to fetch",
            "a download failed, the network may be gone",
            "run make setup again when it is back: finished steps are kept",
        ),
        (
            r"permission denied|operation not permitted|read-only file system",
            "a file may not be written",
            "check who owns the checkout and the caches",
        ),
        (
            r"\bkilled\b|cannot allocate memory|out of memory",
            "memory ran out",
            "give the machine 4 GB or more and run make setup again",
        ),
    )
)


def explain(output: str) -> tuple[str, str] | None:
    """What is wrong and how to mend it, when the output shows a failure that we know."""
    for pattern, what, mend in EXPLANATIONS:
        if pattern.search(output):
            return what, mend
    return None


class Stopped(Exception):
    """The set-up was told to stop; whoever gets this just leaves."""


class Children:
    """Runs programs for the steps, from several threads, until `stop`."""

    def __init__(self, logs: Path, grace_s: float = STOP_GRACE_S) -> None:
        self._logs = logs
        self._grace_s = grace_s
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def run(
        self,
        where: str,
        argv: Sequence[str | Path],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> str:
        """Run to the end and return the output, its last 64 KiB at most; the whole is in the step's log.

        Raises SetupError when the program is missing or fails, Stopped after `stop`.
        """
        log = self._logs / f"{where.replace('/', '_')}.log"
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as sink:
                sink.write(f"$ {' '.join(str(a) for a in argv)}\n".encode())
                sink.flush()
                start = sink.tell()
                code = self._wait(self._spawn(argv, cwd, env, sink.fileno()))
            output = _read_from(log, start)
        except FileNotFoundError as error:
            raise SetupError(where, f"{argv[0]} is not installed", "install it or put it on PATH") from error
        except OSError as error:
            raise error_of(where, error) from error
        if self._stopped:
            raise Stopped
        if code != 0:
            raise self._failure(where, argv, code, output, log)
        return output

    def stop(self) -> None:
        """End every child and refuse new ones. Safe to call more than once and from any thread."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for child in running:
            _signal_group(child, signal.SIGTERM)
        for child in running:
            try:
                child.wait(self._grace_s)
            except subprocess.TimeoutExpired:
                _signal_group(child, signal.SIGKILL)

    def _spawn(
        self, argv: Sequence[str | Path], cwd: Path | None, env: Mapping[str, str] | None, sink: int
    ) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._stopped:
                raise Stopped
            child = subprocess.Popen(
                [str(part) for part in argv],
                cwd=cwd,
                env=dict(env) if env is not None else None,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._running.add(child)
            return child

    def _wait(self, child: subprocess.Popen[bytes]) -> int:
        try:
            return child.wait()
        finally:
            with self._lock:
                self._running.discard(child)

    @staticmethod
    def _failure(where: str, argv: Sequence[str | Path], code: int, output: str, log: Path) -> SetupError:
        known = explain(output)
        if known is not None:
            return SetupError(where, known[0], f"{known[1]} (log: {log})")
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        last = lines[-1][:200] if lines else "it said nothing"
        return SetupError(where, f"{Path(argv[0]).name} ended with status {code}: {last}", f"see {log}")


def error_of(where: str, error: OSError) -> SetupError:
    """An error of the operating system as one of ours."""
    known = explain(str(error.strerror or error))
    if known is not None:
        return SetupError(where, f"{known[0]} ({error.filename or ''})".replace(" ()", ""), known[1])
    return SetupError(where, str(error), "mend that and run make setup again")


def require_free_space(where: str, path: Path, need_bytes: int) -> None:
    """Raise SetupError when the file system of `path` has less than `need_bytes` left."""
    existing = path
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < need_bytes:
        raise SetupError(
            where,
            f"{free // 10**6} MB are free under {existing}, {need_bytes // 10**6} MB are needed",
            "free some and run make setup again",
        )


def _signal_group(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


def _read_from(log: Path, start: int) -> str:
    with log.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(start, end - _TAIL_BYTES))
        return file.read().decode(errors="replace")
