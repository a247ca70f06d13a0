"""A `command:` agent as a stranger would write it: standard library only, with an HTTP health check.

`GET /health` answers 200; `POST /echo` answers what it was sent; `POST /upper` its `text` in capitals;
`POST /count` how many requests there were. Reads HOST and PORT.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MAX_BYTES = 1 << 20


class Echo(BaseHTTPRequestHandler):
    """Answers one connection, kept alive."""

    protocol_version = "HTTP/1.1"
    timeout = 60
    served = 0
    lock = threading.Lock()

    def do_GET(self) -> None:
        """The health check."""
        if self.path == "/health":
            self._answer(200, {"status": "ok", "served": Echo.served})
        else:
            self._answer(404, {"error": f"no {self.path}"})

    def do_POST(self) -> None:
        """A method: its name is the path."""
        try:
            size = int(self.headers.get("Content-Length", ""))
        except ValueError:
            size = -1
        if not 0 <= size <= MAX_BYTES:
            self.close_connection = True
            self._answer(413 if size > MAX_BYTES else 400, {"error": "Content-Length"})
            return
        try:
            body = json.loads(self.rfile.read(size) or b"null")
        except ValueError as error:
            self._answer(400, {"error": f"no JSON: {error}"})
            return
        with Echo.lock:
            Echo.served += 1
        match self.path:
            case "/echo":
                self._answer(200, body)
            case "/upper" if isinstance(body, dict) and isinstance(body.get("text"), str):
                self._answer(200, {"text": body["text"].upper()})
            case "/upper":
                self._answer(422, {"error": 'needs {"text": string}'})
            case "/count":
                self._answer(200, {"served": Echo.served})
            case _:
                self._answer(404, {"error": f"no {self.path}"})

    def _answer(self, status: int, body: object) -> None:
        payload = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: a health check four times a second is no news."""


def main() -> int:
    """Serves until it is killed."""
    try:
        host, port = os.environ.get("HOST", "127.0.0.1"), int(os.environ["PORT"])
        server = ThreadingHTTPServer((host, port), Echo)
    except (KeyError, ValueError):
        print("http_echo: PORT must be a number", file=sys.stderr)
        return 64
    except OSError as error:
        print(f"http_echo: {host}:{port}: {error.strerror}", file=sys.stderr)
        return 3
    server.daemon_threads = True
    print(f"http_echo: serves on {host}:{port}", flush=True)
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
