from __future__ import annotations

import datetime
import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from infra.pki import LEAF_LIFE_D, RENEW_BEFORE_D, Authority, Leaf, PkiError, alternatives_of, utc_now

NAMES = ("pc2", "10.77.1.12", "localhost", "127.0.0.1")


def leaf_in(folder: Path, name: str = "host") -> Leaf:
    return Leaf(folder / f"{name}.pem", folder / f"{name}.key")


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def shift(days: float):
    return lambda: utc_now() + datetime.timedelta(days=days)


def test_a_leaf_carries_role_names_and_both_usages(tmp_path: Path) -> None:
    leaf = leaf_in(tmp_path)
    assert Authority(tmp_path, "t").ensure_leaf(leaf, "host:pc2", NAMES)
    found = load(leaf.cert)
    assert found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "host:pc2"
    assert alternatives_of(found) == frozenset(NAMES)
    usages = set(found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    assert usages == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    for path in (leaf.key, leaf.cert, tmp_path / "ca.key", tmp_path / "ca.pem"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_chain_verifies_and_another_authority_is_refused(tmp_path: Path) -> None:
    leaf = leaf_in(tmp_path / "a")
    Authority(tmp_path / "a", "t").ensure_leaf(leaf, "host:pc2", NAMES)
    Authority(tmp_path / "b", "t").ensure()

    def verify(ca: Path) -> None:
        builder = PolicyBuilder().store(Store([load(ca)])).time(utc_now())
        builder.build_server_verifier(x509.DNSName("pc2")).verify(load(leaf.cert), [])

    verify(tmp_path / "a" / "ca.pem")
    with pytest.raises(VerificationError):
        verify(tmp_path / "b" / "ca.pem")


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> str | None:
    """One mutual handshake over a socket pair; the refusal, None when both accept."""
    left, right = socket.socketpair()
    failures: list[Exception] = []

    def serve() -> None:
        try:
            with server.wrap_socket(right, server_side=True) as secure:
                secure.sendall(secure.recv(4))
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(left, server_hostname=name) as secure:
            secure.sendall(b"ping")
            if secure.recv(4) != b"ping":
                return "closed"
    except OSError as error:
        return str(error)
    finally:
        left.close()
        thread.join()
    return str(failures[0]) if failures else None


def context(side: ssl.Purpose, ca: Path, leaf: Leaf | None) -> ssl.SSLContext:
    made = ssl.create_default_context(side, cafile=str(ca))
    made.verify_mode = ssl.CERT_REQUIRED
    if leaf is not None:
        made.load_cert_chain(str(leaf.cert), str(leaf.key))
    return made


def test_mutual_tls_with_the_leaves(tmp_path: Path) -> None:
    ours, host, operator = tmp_path / "a", leaf_in(tmp_path / "a"), leaf_in(tmp_path / "a", "operator")
    Authority(ours, "t").ensure_leaf(host, "host:pc2", NAMES)
    Authority(ours, "t").ensure_leaf(operator, "operator", ("operator",))
    stranger = leaf_in(tmp_path / "b")
    Authority(tmp_path / "b", "t").ensure_leaf(stranger, "operator", ("operator",))

    def try_with(client_leaf: Leaf | None, name: str, trusted: Path = ours) -> str | None:
        server = context(ssl.Purpose.CLIENT_AUTH, ours / "ca.pem", host)
        client = context(ssl.Purpose.SERVER_AUTH, trusted / "ca.pem", client_leaf)
        return handshake(server, client, name)

    assert try_with(operator, "pc2") is None
    assert try_with(host, "10.77.1.12") is None
    assert try_with(operator, "mainpc") is not None
    assert try_with(stranger, "pc2") is not None
    assert try_with(None, "pc2") is not None
    assert try_with(operator, "pc2", tmp_path / "b") is not None


@pytest.mark.parametrize(
    ("days", "names", "anew"),
    [
        (0, NAMES, False),
        (0, tuple(reversed(NAMES)), False),
        (LEAF_LIFE_D - RENEW_BEFORE_D - 1, NAMES, False),
        (LEAF_LIFE_D - RENEW_BEFORE_D + 1, NAMES, True),
        (0, ("pc2", "10.77.2.12"), True),
    ],
)
def test_a_leaf_is_renewed_near_its_end_and_for_other_names(
    tmp_path: Path, days: float, names: tuple[str, ...], anew: bool
) -> None:
    leaf = leaf_in(tmp_path)
    Authority(tmp_path, "t").ensure_leaf(leaf, "host:pc2", NAMES)
    before = leaf.cert.read_bytes()
    assert Authority(tmp_path, "t", clock=shift(days)).ensure_leaf(leaf, "host:pc2", names) is anew
    assert (leaf.cert.read_bytes() != before) is anew


def test_a_renewed_authority_renews_its_leaves(tmp_path: Path) -> None:
    leaf = leaf_in(tmp_path)
    Authority(tmp_path, "t").ensure_leaf(leaf, "host:pc2", NAMES)
    old = (tmp_path / "ca.pem").read_bytes()
    later = Authority(tmp_path, "t", clock=shift(3640))
    assert later.ensure_leaf(leaf, "host:pc2", NAMES)
    assert (tmp_path / "ca.pem").read_bytes() != old
    load(leaf.cert).verify_directly_issued_by(load(tmp_path / "ca.pem"))


def test_a_key_without_its_certificate_is_made_anew(tmp_path: Path) -> None:
    authority, leaf = Authority(tmp_path, "t"), leaf_in(tmp_path)
    authority.ensure_leaf(leaf, "host:pc2", NAMES)
    leaf.key.write_bytes(b"cut sho")
    assert authority.ensure_leaf(leaf, "host:pc2", NAMES)
    (tmp_path / "ca.pem").unlink()
    authority.ensure()
    assert authority.ensure_leaf(leaf, "host:pc2", NAMES)


def test_a_damaged_authority_is_said_plainly(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "t")
    authority.ensure()
    (tmp_path / "ca.key").write_bytes(b"no key")
    with pytest.raises(PkiError, match="damaged"):
        authority.ensure_leaf(leaf_in(tmp_path), "operator", ())
