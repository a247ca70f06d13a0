"""A host with one agent that answers at once, and stalls when told: snapshot, socket and HTTP API."""

from __future__ import annotations

import contextlib
import http.server
import os
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from services.agent.wire import FrameDecoder, Reply, encode, pack
from services.registry.model import Entry
from services.registry.snapshot import SnapshotWriter
from tests.loadtests.kit import instance
from verification.links import locustfile

ROOT = Path(__file__).parents[2]
AGENT = "echo"


class FakeHost:
    """`gate` is open while the agent answers; `asked` counts what it was asked."""

    def __init__(self, run: Path, name: str, local: str) -> None:
        self.run, self.name, self.local = run, name, local
        self.gate = threading.Event()
        self.gate.set()
        self.asked = 0

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "THREENINES_RUN": str(self.run),
            "THREENINES_HOST": self.name,
            "THREENINES_LOCAL": self.local,
            "PYTHONPATH": str(ROOT),
        }

    def locust(self, *arguments: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        """Locust on this host; its output comes by pipes."""
        return subprocess.Popen(
            [sys.executable, "-m", "locust", "-f", locustfile(), "--only-summary", *arguments],
            env=self.environment(),
            cwd=self.run,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def ended_after(self, process: subprocess.Popen[bytes], history: Path, seconds: int) -> str:
        """Ends Locust when its history has so many seconds; what it said on standard error."""
        while not history.exists() or history.read_bytes().count(b'"ok","f":"load-second"') < seconds:
            assert process.poll() is None, process.communicate()[1].decode()
            time.sleep(0.05)
        process.terminate()
        return process.communicate(timeout=100)[1].decode()

    def stall(self, seconds: float) -> None:
        """No answer for so long."""
        self.gate.clear()
        threading.Timer(seconds, self.gate.set).start()


@contextlib.contextmanager
def fake_host(run: Path, name: str = "mainpc", local: str = "127.83.12.21") -> Iterator[FakeHost]:
    """Such a host, until the block ends."""
    (run / "agents").mkdir(parents=True)
    host = FakeHost(run, name, local)

    class Agent(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            decoder = FrameDecoder()
            while data := self.request.recv(65536):
                for request in decoder.feed(data):
                    host.asked += 1
                    host.gate.wait()
                    self.request.sendall(encode(Reply(request.id, pack({"text": "x"}))))

    class Api(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            one = {"name": AGENT, "category": "core", "methods": ["ask"], "host": name, "role": "primary"}
            self._answer(200, {"agents": [one], "revision": 1, "stale": False})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            host.asked += 1
            host.gate.wait()
            if self.path == f"/v1/call/{AGENT}/ask":
                self._answer(200, {"text": "x"})
            else:
                self._answer(404, {"error": {"code": "not-found", "message": "no such agent"}})

        def _answer(self, status: int, body: object) -> None:
            data = msgspec.json.encode(body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    class Threads(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True
        block_on_close = False

    agent = Threads(str(run / "agents" / f"{AGENT}.sock"), Agent)
    api = http.server.ThreadingHTTPServer((local, 7700), Api)
    for server in (agent, api):
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    writer = SnapshotWriter(run / "discovery.snap")
    writer.publish(
        {AGENT: Entry(name=AGENT, instances=(instance(AGENT, host=name),))}, revision=1, fresh_for_ms=600_000
    )
    try:
        yield host
    finally:
        host.gate.set()
        writer.close()
        for server in (agent, api):
            server.shutdown()
            server.server_close()
