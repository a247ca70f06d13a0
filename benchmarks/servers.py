"""Real servers for benchmarks, on loopback ports, in a folder of their own; gone at the end of the block."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def tool(name: str) -> str:
    """The project's own build of a tool, else the one on PATH. Raises FileNotFoundError with the mend."""
    own = ROOT / ".tools" / "bin" / name
    found = str(own) if own.exists() else shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name}: not here; run `make setup`")
    return found


def memory_folder() -> str | None:
    """Where the run folder of a host belongs: a file system in memory, if there is one."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def redis_server(pki: Path | None = None) -> Iterator[int]:
    """An empty Redis without persistence, with `pki` behind mutual TLS alone; yields its port."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-redis-") as folder:
        command = [tool("redis-server"), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        if pki is None:
            command += ["--port", str(port)]
        else:
            command += ["--port", "0", "--tls-port", str(port), "--tls-ca-cert-file", str(pki / "ca.pem")]
            command += ["--tls-cert-file", str(pki / "host.pem"), "--tls-key-file", str(pki / "host.key")]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 10
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 0.2).close()
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.02)
            yield port
        finally:
            process.kill()
            process.wait()
