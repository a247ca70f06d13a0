"""The load generator's raw history: collected in memory, written aside from the calls."""

from __future__ import annotations

import os

from loadtests.record import Kind, Record, encode_line, now_ns, raw


class LoadHistory:
    """Appends records to a file descriptor; `flush` is for a moment when no call is being timed."""

    def __init__(self, descriptor: int, host: str) -> None:
        self.host = host
        self._descriptor = descriptor
        self._lines: list[bytes] = []
        self._intact = True

    def pair(
        self,
        process: str,
        f: str,
        key: str,
        begun: object,
        begun_ns: int,
        kind: Kind,
        ended: object,
        ended_ns: int,
    ) -> None:
        """An operation that is over."""
        self._add(process, Kind.INVOKE, f, key, begun, begun_ns)
        self._add(process, kind, f, key, ended, ended_ns)

    def mark(self, kind: Kind, f: str, value: object) -> None:
        """A record of the generator itself, now."""
        self._add(f"load-{self.host}", kind, f, self.host, value, now_ns())

    def flush(self) -> None:
        """Writes what is collected. A reader that has gone away makes this do nothing."""
        lines, self._lines = self._lines, []
        view = memoryview(b"".join(lines))
        try:
            while view and self._intact:
                view = view[os.write(self._descriptor, view) :]
        except BrokenPipeError:
            self._intact = False

    def _add(self, process: str, kind: Kind, f: str, key: str, value: object, time_ns: int) -> None:
        record = Record(
            process=process, type=kind, f=f, key=key, value=raw(value), time_ns=time_ns, host=self.host
        )
        self._lines.append(encode_line(record))
