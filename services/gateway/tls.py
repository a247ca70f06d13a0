"""Mutual TLS between gateways: both ends show a certificate of the stack's own authority (TLS 1.3 only)."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path


def server_context(pki: Path) -> ssl.SSLContext:
    """For the listener: refuses who shows no certificate of ours. Raises OSError (ssl.SSLError is one)."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(pki / "ca.pem"))
    context.verify_mode = ssl.CERT_REQUIRED
    return _with_identity(context, pki)


def client_context(pki: Path) -> ssl.SSLContext:
    """For dialling: checks the host's name, wherever the connection leads. Raises OSError."""
    return _with_identity(
        ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(pki / "ca.pem")), pki
    )


def _with_identity(context: ssl.SSLContext, pki: Path) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(str(pki / "host.pem"), str(pki / "host.key"))
    return context


def peer_host(transport: asyncio.BaseTransport) -> str | None:
    """The host whose gateway is at the other end: common name `host:<name>`; None for any other role."""
    certificate = transport.get_extra_info("peercert") or {}
    for part in certificate.get("subject", ()):
        for key, value in part:
            if key == "commonName" and value.startswith("host:"):
                return str(value.removeprefix("host:"))
    return None
