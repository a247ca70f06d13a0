"""hostd's administration of agents, over real mutual TLS, with nothing behind it."""

from __future__ import annotations

import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from infra.pki import Authority, Leaf


class FakeHostd:
    """Serves `/v1/agents` for one host; remembers what it was asked to change."""

    def __init__(self, host: str, address: str, port: int, pki: Path) -> None:
        self.host = host
        self.definitions: dict[str, dict[str, Any]] = {}
        self.incarnations: dict[str, int] = {}
        self.states: dict[str, str] = {}
        self.changes: list[str] = []
        self.refuse: dict[str, tuple[int, dict[str, Any]]] = {}
        leaf = Leaf(cert=pki / f"{host}.pem", key=pki / f"{host}.key")
        Authority(pki, "test").ensure_leaf(leaf, f"host:{host}", (host, address, "localhost"))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(leaf.cert, leaf.key)
        context.load_verify_locations(pki / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        self.server = ThreadingHTTPServer((address, port), _handler(self))
        self.server.socket = context.wrap_socket(
            self.server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def _handler(hostd: FakeHostd) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _answer(self, status: int, body: object) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _instance(self, name: str) -> dict[str, Any]:
            state = hostd.states.get(name, "up")
            number = hostd.incarnations.get(name, 1)
            return {"name": name, "host": hostd.host, "state": state, "incarnation": number}

        def _respond(self) -> None:
            path = urlsplit(self.path).path
            name = path.removeprefix("/v1/agents").strip("/")
            size = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(size)
            if name in hostd.refuse:
                self._answer(*hostd.refuse[name])
            elif path == "/v1/definitions":
                homes = {known: spec["home"] for known, spec in hostd.definitions.items()}
                self._answer(200, {"homes": homes})
            elif self.command == "GET" and not name:
                agents = [self._instance(known) for known in hostd.definitions]
                self._answer(200, {"agents": agents, "revision": 7, "stale": False})
            elif self.command == "PUT":
                definition = json.loads(body)
                if hostd.definitions.get(name) != definition:
                    hostd.changes.append(f"PUT {name}")
                    hostd.incarnations[name] = hostd.incarnations.get(name, 0) + 1
                hostd.definitions[name] = definition
                hostd.states.pop(name, None)
                self._answer(200, self._instance(name))
            elif name not in hostd.definitions:
                self._answer(404, {"error": {"code": "not-found", "message": f"no agent {name}"}})
            elif self.command == "DELETE":
                hostd.changes.append(f"DELETE {name}")
                del hostd.definitions[name]
                self._answer(200, {})
            else:
                view = {"definition": hostd.definitions[name], "instances": [self._instance(name)]}
                self._answer(200, view)

        do_GET = do_PUT = do_DELETE = _respond

    return Handler
