"""The probe's standard output: records and answers, in order, handed over once per turn of the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os

import msgspec

from loadtests.protocol import Done, Hello
from loadtests.record import Kind, Record, encode_line, now_ns, raw

PIPE_BYTES = 1 << 20


class Output:
    """Lines for the harness. A harness that has gone away ends the probe (`closed` is set)."""

    def __init__(self, descriptor: int, host: str) -> None:
        self.host = host
        self.closed = asyncio.Event()
        self._descriptor = descriptor
        self._buffer = bytearray()
        self._scheduled = False
        self._loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):  # not a pipe, or not allowed: the default size does
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def invoke(
        self, process: str, f: str, key: str | None, value: object = None, time_ns: int | None = None
    ) -> None:
        """Records that an operation begins."""
        self._record(process, Kind.INVOKE, f, key, value, time_ns)

    def end(
        self,
        process: str,
        kind: Kind,
        f: str,
        key: str | None,
        value: object = None,
        time_ns: int | None = None,
    ) -> None:
        """Records how it ended."""
        self._record(process, kind, f, key, value, time_ns)

    def answer(self, answer: Done | Hello) -> None:
        """Answers a command."""
        self._buffer += msgspec.json.encode(answer) + b"\n"
        self.flush()

    def flush(self) -> None:
        """Writes what is collected."""
        self._scheduled = False
        data, self._buffer = self._buffer, bytearray()
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except BrokenPipeError:
            self.closed.set()

    def _record(
        self, process: str, kind: Kind, f: str, key: str | None, value: object, time_ns: int | None
    ) -> None:
        self._buffer += encode_line(
            Record(
                process=process,
                type=kind,
                f=f,
                key=key,
                value=raw(value),
                time_ns=now_ns() if time_ns is None else time_ns,
                host=self.host,
            )
        )
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.flush)
