"""What a limb does over its host's network: Toxiproxy's control port, handshakes, signs of life, Redis.

Toxiproxy's control port can hang while a toxic is removed, so every call has a deadline
(https://github.com/Shopify/toxiproxy#http-api).
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import struct
import time
from pathlib import Path

import msgspec

from chaos import messages as m
from infra.topology import Port

CONTROL_S = 1.5
"""Deadline of one call to Toxiproxy's control port."""
_MAX_FRAME_BYTES = 1 << 20


class Trouble(Exception):
    """The server said no: definite."""


class Hung(Exception):
    """No answer in time: indeterminate."""


def local() -> str:
    """The address for programs of this host only."""
    return os.environ.get("THREENINES_LOCAL", "127.0.0.1")


# -- Toxiproxy


class _Toxics(msgspec.Struct):
    name: str
    listen: str
    upstream: str
    enabled: bool
    toxics: tuple[m.Toxic, ...] = ()


def toxiproxy(ask: m.Proxies | m.AddToxic | m.SetWay | m.ClearWay | m.ResetWays) -> object:
    """One change of the ways, or a look at them. Raises Hung, Trouble."""
    match ask:
        case m.Proxies():
            found = msgspec.json.decode(_control("GET", "/proxies"), type=dict[str, _Toxics])
            return [
                m.ProxyView(
                    name=p.name, listen=p.listen, upstream=p.upstream, enabled=p.enabled, toxics=p.toxics
                )
                for p in found.values()
            ]
        case m.ResetWays():
            _control("POST", "/reset")
        case m.SetWay():
            _control("POST", f"/proxies/{ask.proxy}", msgspec.json.encode({"enabled": ask.enabled}))
        case m.AddToxic():
            _control("DELETE", f"/proxies/{ask.proxy}/toxics/{ask.toxic.name}", missing=True)
            _control("POST", f"/proxies/{ask.proxy}/toxics", msgspec.json.encode(ask.toxic))
        case m.ClearWay():
            view = msgspec.json.decode(_control("GET", f"/proxies/{ask.proxy}"), type=_Toxics)
            for toxic in view.toxics:
                if ask.toxics is None or toxic.name in ask.toxics:
                    _control("DELETE", f"/proxies/{ask.proxy}/toxics/{toxic.name}", missing=True)
            if not view.enabled:
                _control("POST", f"/proxies/{ask.proxy}", b'{"enabled":true}')
    return None


def _control(method: str, path: str, body: bytes | None = None, *, missing: bool = False) -> bytes:
    connection = http.client.HTTPConnection(local(), int(Port.TOXIPROXY), timeout=CONTROL_S)
    try:
        connection.request(method, path, body, {"User-Agent": "threenines"})
        answer = connection.getresponse()
        text = answer.read()
    except TimeoutError:
        raise Hung(f"Toxiproxy's control port did not answer {method} {path} in {CONTROL_S:g} s") from None
    except (OSError, http.client.HTTPException) as error:
        raise Trouble(f"Toxiproxy's control port: {str(error) or type(error).__name__}") from None
    finally:
        connection.close()
    if answer.status >= 400 and not (missing and answer.status == 404):
        raise Trouble(f"Toxiproxy refused {method} {path}: {_words(text)}")
    return text


def _words(text: bytes) -> str:
    return " ".join(text.decode(errors="replace").split())[:200]


# -- TLS, counted byte by byte


def handshake(ask: m.Handshake) -> m.HandshakeView:
    """Begins TLS and says how long that took, in how many pieces the answer came, and how it failed."""
    begin = time.monotonic()
    end = begin + ask.timeout_ms / 1000
    bytes_in = pieces = 0
    close_ms: float | None = None

    def view(outcome: str) -> m.HandshakeView:
        took_ms = (time.monotonic() - begin) * 1000
        return m.HandshakeView(
            outcome=outcome, took_ms=took_ms, bytes_in=bytes_in, pieces_in=pieces, close_ms=close_ms
        )

    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = _context().wrap_bio(incoming, outgoing, server_hostname=ask.name)
    try:
        with socket.create_connection((ask.address or local(), ask.port), timeout=_left(end)) as link:
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while True:
                try:
                    tls.do_handshake()
                except ssl.SSLWantReadError:
                    _flush(link, outgoing, end)
                else:
                    _flush(link, outgoing, end)
                    break
                link.settimeout(_left(end))
                piece = link.recv(65536)
                if not piece:
                    return view("closed")
                bytes_in += len(piece)
                pieces += 1
                incoming.write(piece)
            done = view("ok")
            if ask.close:
                close_ms = _closing(link, end)
                return msgspec.structs.replace(done, close_ms=close_ms)
            return done
    except TimeoutError:
        return view("timeout")
    except ConnectionRefusedError:
        return view("refused")
    except ConnectionResetError:
        return view("reset")
    except OSError as error:  # ssl.SSLError too
        return view(str(error) or type(error).__name__)


def _closing(link: socket.socket, end: float) -> float | None:
    """How long the other side takes to close after we have; None when it did not in time."""
    begin = time.monotonic()
    link.shutdown(socket.SHUT_WR)
    try:
        while True:
            link.settimeout(_left(end))
            if not link.recv(65536):
                return (time.monotonic() - begin) * 1000
    except TimeoutError:
        return None
    except ConnectionResetError:
        return (time.monotonic() - begin) * 1000


def _context() -> ssl.SSLContext:
    folder = Path(os.environ["THREENINES_PKI"])
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(str(folder / "host.pem"), str(folder / "host.key"))
    return context


def _flush(link: socket.socket, outgoing: ssl.MemoryBIO, end: float) -> None:
    data = outgoing.read()
    if data:
        link.settimeout(_left(end))
        link.sendall(data)


def _left(end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


# -- the stack's own wire (docs/contracts.md, Wire)


def ping(ask: m.Ping) -> m.PingView:
    """A sign of life of a program with a socket in the run folder."""
    begin = time.monotonic()
    name = ask.target.removeprefix("agent/")
    outcome, body = _exchange(_socket_of(ask.target), name, "_ping", b"\xc0", ask.timeout_ms)
    incarnation = 0
    if outcome == "ok":
        try:
            told = msgspec.msgpack.decode(body, type=dict[str, int | str | None])
            incarnation = int(told.get("incarnation") or 0)
        except (msgspec.MsgspecError, ValueError):
            outcome = "garbage"
    return m.PingView(outcome=outcome, took_ms=(time.monotonic() - begin) * 1000, incarnation=incarnation)


def call(ask: m.Call) -> m.CallView:
    """Calls an agent's method."""
    begin = time.monotonic()
    packed = msgspec.msgpack.encode(msgspec.json.decode(ask.body))
    outcome, body = _exchange(_socket_of(f"agent/{ask.agent}"), ask.agent, ask.method, packed, ask.timeout_ms)
    text = ""
    if outcome == "ok":
        try:
            text = msgspec.json.encode(msgspec.msgpack.decode(body)).decode()
        except (msgspec.MsgspecError, ValueError, TypeError, UnicodeDecodeError):
            outcome = "garbage"
    return m.CallView(outcome=outcome, took_ms=(time.monotonic() - begin) * 1000, body=text)


def _socket_of(target: str) -> Path:
    run = Path(os.environ["THREENINES_RUN"])
    kind, _, name = target.partition("/")
    return run / "agents" / f"{name}.sock" if kind == "agent" else run / f"{kind}.sock"


def _exchange(path: Path, agent: str, method: str, body: bytes, timeout_ms: int) -> tuple[str, bytes]:
    """Outcome and the answer's body, or the failure's words."""
    end = time.monotonic() + timeout_ms / 1000
    request = msgspec.msgpack.encode([0, 1, agent, method, timeout_ms, msgspec.Raw(body)])
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(_left(end))
            link.connect(str(path))
            link.sendall(struct.pack(">I", len(request)) + request)
            size = struct.unpack(">I", _read(link, 4, end))[0]
            if not 0 < size <= _MAX_FRAME_BYTES:
                return "garbage", b""
            frame = _read(link, size, end)
    except TimeoutError:
        return "timeout", b""
    except (ConnectionRefusedError, FileNotFoundError):
        return "refused", b""
    except ConnectionResetError:
        return "reset", b""
    except EOFError:
        return "closed", b""
    try:
        kind, _, *rest = msgspec.msgpack.decode(frame, type=list[msgspec.Raw])
        if msgspec.msgpack.decode(kind) == 1:
            return "ok", bytes(rest[0])
        return str(msgspec.msgpack.decode(rest[0])), b""
    except (msgspec.MsgspecError, ValueError, IndexError, UnicodeDecodeError):
        return "garbage", b""


def _read(link: socket.socket, count: int, end: float) -> bytes:
    data = b""
    while len(data) < count:
        link.settimeout(_left(end))
        piece = link.recv(count - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


# -- Redis (RESP, https://redis.io/docs/latest/develop/reference/protocol-spec/)


def redis(ask: m.Redis) -> m.RedisView:
    """One command and its answer in words. Raises Hung, Trouble."""
    end = time.monotonic() + ask.timeout_ms / 1000
    parts = [word.encode() for word in ask.command]
    request = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(p), p) for p in parts)
    try:
        with (
            socket.create_connection((ask.address, ask.port), timeout=_left(end)) as plain,
            _context().wrap_socket(plain, server_hostname=ask.name) as link,
        ):
            link.settimeout(_left(end))
            link.sendall(request)
            with link.makefile("rb") as answers:
                return m.RedisView(text=" ".join(_resp(answers.readline, answers.read)))
    except TimeoutError:
        raise Hung(f"Redis on {ask.name} did not answer in {ask.timeout_ms} ms") from None
    except (OSError, ValueError) as error:
        raise Trouble(f"Redis on {ask.name}: {error}") from None


def _resp(line_of: object, read: object) -> list[str]:
    assert callable(line_of)
    assert callable(read)
    line = line_of().decode(errors="replace").rstrip("\r\n")
    if not line:
        raise ValueError("it closed the connection")
    if line[0] == "$":
        size = int(line[1:])
        return [read(size + 2)[:-2].decode(errors="replace")] if size >= 0 else ["nil"]
    if line[0] == "*":
        return [word for _ in range(max(0, int(line[1:]))) for word in _resp(line_of, read)]
    return [line if line[0] == "-" else line[1:]]
