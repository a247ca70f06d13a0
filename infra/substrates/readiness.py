"""When a unit serves: its port listens, its HTTPS path answers 200, or its Unix socket accepts.

Listening ports are read from /proc/PID/net/tcp, which shows the network of that process: a look from outside
that works for addresses only the host itself can reach, and leaves no half-made connection in a log.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import select
import socket
import ssl
import sys
from dataclasses import dataclass
from pathlib import Path

from infra.plan import ReadyKind
from infra.substrates.base import Credentials
from infra.substrates.census import Process, identify

_LISTEN = "0A"
_ASK_S = 2.0
_CAUSE = re.compile(r"no space left|read-only file system|disk quota|address already in use", re.I)
"""What the machine refuses stands above what a server makes of it (a stack of a dozen lines, say)."""
_TELLING = re.compile(r"error|fatal|panic|cannot|can't|failed|refused|denied|in use|no such|exception", re.I)


@dataclass(frozen=True)
class Target:
    """What to ask. The port may listen on `address` or `local`; `path` is an HTTP path or a socket's."""

    kind: ReadyKind
    host: str
    address: str
    local: str
    port: int | None
    path: str | None
    credentials: Credentials

    def obstacle(self, process: Process) -> str | None:
        """Why the unit that runs as `process` does not serve yet, None when it does."""
        if self.kind is ReadyKind.NONE:
            return None
        if self.kind is ReadyKind.UNIX:
            return _unix_obstacle(self.path or "")
        port = int(self.port or 0)  # getaddrinfo takes no subclass of int
        if not listeners(process.pid, port, (self.address, self.local)):
            return f"port {port} does not listen"
        if self.kind is ReadyKind.TCP:
            return None
        return self._https_obstacle(port)

    def _https_obstacle(self, port: int) -> str | None:
        path = self.path or "/"
        try:
            context = ssl.create_default_context(cafile=str(self.credentials.ca))
            context.load_cert_chain(str(self.credentials.cert), str(self.credentials.key))
            with (
                socket.create_connection((self.address, port), timeout=_ASK_S) as plain,
                context.wrap_socket(plain, server_hostname=self.host) as secure,
            ):
                connection = http.client.HTTPConnection(self.address, port, timeout=_ASK_S)
                connection.sock = secure
                connection.request("GET", path, headers={"Connection": "close"})
                answer = connection.getresponse()
                text = answer.read(300).decode(errors="replace").strip()
        except (OSError, http.client.HTTPException) as error:
            return f"{path} on port {port}: {str(error) or type(error).__name__}"
        if answer.status == http.client.OK:
            return None
        return f"{path} on port {port} answers {answer.status} {' '.join(text.split())}".rstrip()


def listeners(pid: int, port: int, addresses: tuple[str, ...]) -> frozenset[int]:
    """The inodes of sockets that listen on `port` of one of `addresses` in the network of process `pid`."""
    wanted = {_hex(address) for address in (*addresses, "0.0.0.0")}
    found = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                place, _, number = fields[1].rpartition(":")
                if fields[3] == _LISTEN and int(number, 16) == port and _ipv4_part(place) in wanted:
                    found.add(int(fields[9]))
    return frozenset(found)


def holder(inodes: frozenset[int]) -> tuple[int, str] | None:
    """Process id and command of one that holds a socket of `inodes`; None when it cannot be seen."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError):
            for handle in os.scandir(f"/proc/{name}/fd"):
                if os.readlink(handle.path) in wanted:
                    return int(name), Path(f"/proc/{name}/comm").read_text(encoding="utf-8").strip()
    return None


def pause(process: Process | None, timeout_s: float) -> None:
    """Waits for a moment, or less when `process` ends meanwhile."""
    handle = None
    if process is not None:
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(process.pid)
    poll = select.poll()
    if handle is not None and identify(process.pid if process else 0) is not None:
        poll.register(handle, select.POLLIN)
    poll.poll(timeout_s * 1000)
    if handle is not None:
        os.close(handle)


def telling_line(log: str, most: int = 300) -> str:
    """The last line of a server's log that speaks of trouble, else its last line; JSON cut to its message."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    if not lines:
        return ""
    causes = [line for line in lines if _CAUSE.search(line)]
    telling = causes or [line for line in lines if _TELLING.search(line)] or lines
    line = telling[-1]
    with contextlib.suppress(ValueError, AttributeError):
        fields = json.loads(line)
        line = ": ".join(str(fields[key]) for key in ("msg", "error") if key in fields) or line
    return line[:most]


def _unix_obstacle(path: str) -> str | None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(_ASK_S)
        try:
            client.connect(path)
        except OSError as error:
            return f"{path}: {error.strerror or error}"
    return None


def _hex(address: str) -> str:
    """An address as the table shows it: the network's bytes, read as one number of this machine."""
    return f"{int.from_bytes(socket.inet_aton(address), sys.byteorder):08X}"


def _ipv4_part(place: str) -> str:
    """The IPv4 address in a table's field; IPv6's any-address counts as IPv4's."""
    return place if len(place) == 8 else ("00000000" if set(place) == {"0"} else place[-8:])
