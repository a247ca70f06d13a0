"""Who may ask what: the role comes from the client's certificate, or from the port that was used."""

from __future__ import annotations

import ssl
from enum import StrEnum
from pathlib import Path

from aiohttp import web


class ApiRole(StrEnum):
    """Roles of callers."""

    OPERATOR = "operator"
    HOST = "host"
    MONITOR = "monitor"
    LOCAL = "local"  # the plain port, which only programs of this host reach


class Right(StrEnum):
    """What a route needs."""

    READ = "read"
    CALL = "call"
    REGISTER = "register"
    ADMINISTER = "administer"


RIGHTS: dict[ApiRole, frozenset[Right]] = {
    ApiRole.OPERATOR: frozenset({Right.READ, Right.CALL, Right.ADMINISTER}),
    ApiRole.HOST: frozenset({Right.READ, Right.CALL}),
    ApiRole.MONITOR: frozenset({Right.READ}),
    ApiRole.LOCAL: frozenset({Right.READ, Right.CALL, Right.REGISTER}),
}


class ApiError(Exception):
    """An answer that is no success: HTTP status, code and one line for people."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


def role_of_name(common_name: str) -> ApiRole | None:
    """The role that a certificate's common name tells (docs/contracts.md, Certificates)."""
    if common_name == "operator":
        return ApiRole.OPERATOR
    if common_name == "monitor":
        return ApiRole.MONITOR
    if common_name.startswith("host:") and len(common_name) > len("host:"):
        return ApiRole.HOST
    return None


def role_of(request: web.Request) -> ApiRole:
    """The caller's role. Raises ApiError 403 for a certificate of ours that tells no role that we know."""
    transport = request.transport
    if transport is None:
        raise ApiError(403, "forbidden", "the connection is gone")
    if transport.get_extra_info("ssl_object") is None:
        return ApiRole.LOCAL
    certificate = transport.get_extra_info("peercert") or {}
    names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    role = role_of_name(names[0]) if len(names) == 1 else None
    if role is None:
        raise ApiError(403, "forbidden", f"certificate of {names!r} has no role here")
    return role


def require(request: web.Request, right: Right) -> None:
    """Raises ApiError 403 unless the caller may."""
    role = role_of(request)
    if right not in RIGHTS[role]:
        raise ApiError(403, "forbidden", f"{role} may not {right} here")


def server_tls(pki: Path) -> ssl.SSLContext:
    """For the host address: every client shows a certificate of the stack. Raises OSError, ssl.SSLError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(pki / "host.pem", pki / "host.key")
    context.load_verify_locations(pki / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_tls(pki: Path) -> ssl.SSLContext:
    """For asking others as this host. Raises OSError, ssl.SSLError."""
    context = ssl.create_default_context(cafile=str(pki / "ca.pem"))
    context.load_cert_chain(pki / "host.pem", pki / "host.key")
    return context
