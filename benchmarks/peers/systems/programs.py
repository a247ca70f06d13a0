"""The programs of a system, per host: started where they do not run, killed by name."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.peers.site import Site
from infra.substrates.base import SubstrateError


@dataclass(frozen=True, slots=True)
class Program:
    """A command line with a name, and what it finds in its environment."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


class Programs:
    """What this system has started."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._running: dict[tuple[str, str], subprocess.Popen[bytes]] = {}

    def ensure(self, host: str, program: Program) -> None:
        """Starts it unless it runs."""
        if not self.runs(host, program.name):
            process = self._site.spawn(host, program.argv, name=program.name, env=program.env)
            self._running[host, program.name] = process

    def runs(self, host: str, name: str) -> bool:
        """Whether it was started and has not ended."""
        process = self._running.get((host, name))
        return process is not None and process.poll() is None

    def kill(self, host: str, name: str) -> None:
        """SIGKILL, and waits for its end. Raises SubstrateError when it does not run."""
        process = self._running.get((host, name))
        if process is None or process.poll() is not None:
            raise SubstrateError(f"{host}/{name}", "it does not run, so it cannot be killed", "see its log")
        process.kill()
        process.wait()


def accepts(address: str, port: int) -> bool:
    """Whether somebody takes connections there."""
    try:
        socket.create_connection((address, port), 0.5).close()
    except OSError:
        return False
    return True
