"""Who may vouch for evidence: this machine's own signing key, and the public keys that it trusts.

A folder of two files: `key.pem` (Ed25519, RFC 8032, as PKCS #8; readable by its owner alone) and
`trusted.json` (names and public keys). A public key is written as the Base64 of its 32 bytes; its fingerprint
is the beginning of their SHA-256.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import os
import stat
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from infra.substrates.files import write_atomic
from verification.errors import HarnessError

TRUST_SCHEMA = "threenines.trust/1"
KEY_FILE, TRUST_FILE = "key.pem", "trusted.json"
KEY_BYTES = 32


class EvidenceError(HarnessError):
    """Evidence or a key that cannot be used: where, what, mend."""


class TrustedKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A machine whose evidence counts here."""

    name: str
    public_key: str

    @property
    def fingerprint(self) -> str:
        """The beginning of the key's SHA-256."""
        return fingerprint(self.public_key)


class Trust(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`trusted.json`."""

    keys: tuple[TrustedKey, ...] = ()
    schema: str = TRUST_SCHEMA

    def holder(self, public_key: str) -> TrustedKey | None:
        """Whose key this is; None for a stranger's."""
        return next((key for key in self.keys if key.public_key == public_key), None)


def fingerprint(public_key: str) -> str:
    """16 hexadecimal digits by which people compare keys."""
    return hashlib.sha256(base64.b64decode(public_key)).hexdigest()[:16]


def make_key(folder: Path) -> str:
    """Makes this machine's key and trusts it; answers with the public one. Raises EvidenceError."""
    path = folder / KEY_FILE
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise EvidenceError(
            str(path), "there is a key already", "use it, or move it away and trust the new one everywhere"
        ) from None
    except OSError as error:
        raise EvidenceError(
            str(path), f"cannot be written ({error.strerror})", "mend the rights", exit_status=3
        ) from error
    public = _text(key.public_key())
    trust(folder, "this-machine", public)
    return public


def public_key(folder: Path) -> str:
    """This machine's public key. Raises EvidenceError."""
    return _text(_private(folder).public_key())


def sign(folder: Path, data: bytes) -> bytes:
    """The signature of this machine over `data`. Raises EvidenceError."""
    return _private(folder).sign(data)


def signed(public: str, signature: bytes, data: bytes) -> bool:
    """Whether the holder of this public key signed exactly `data`."""
    with contextlib.suppress(InvalidSignature, ValueError):
        Ed25519PublicKey.from_public_bytes(base64.b64decode(public)).verify(signature, data)
        return True
    return False


def trusted(folder: Path) -> Trust:
    """The keys that are trusted; none when nobody was ever trusted. Raises EvidenceError."""
    path = folder / TRUST_FILE
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Trust)
    except FileNotFoundError:
        return Trust()
    except (OSError, msgspec.MsgspecError) as error:
        raise EvidenceError(
            str(path), f"cannot be read ({error})", "restore it, or remove it and trust again"
        ) from error
    if found.schema != TRUST_SCHEMA:
        raise EvidenceError(
            str(path), f"is {found.schema!r}; this version reads {TRUST_SCHEMA}", "use that version"
        )
    return found


def trust(folder: Path, name: str, public: str) -> TrustedKey:
    """Trusts a public key under a name. Raises EvidenceError for what is no key, or a name that is taken."""
    key = TrustedKey(name=name, public_key=_checked(public))
    known = trusted(folder)
    if any(one.name == name and one != key for one in known.keys):
        raise EvidenceError(
            f"key {name}",
            "another key has this name",
            f"choose another name, or take it out of {folder / TRUST_FILE}",
        )
    others = tuple(one for one in known.keys if one.public_key != key.public_key)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomic(folder / TRUST_FILE, msgspec.json.format(msgspec.json.encode(Trust(keys=(*others, key)))))
    return key


def _checked(text: str) -> str:
    try:
        raw = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != KEY_BYTES:
        raise EvidenceError(
            "public key", "is not the Base64 of 32 bytes", "copy what `threenines evidence keygen` printed"
        )
    return base64.b64encode(raw).decode()


def _private(folder: Path) -> Ed25519PrivateKey:
    path = folder / KEY_FILE
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise EvidenceError(str(path), f"others may read it (mode {mode:04o})", f"chmod 600 {path}")
        key = load_pem_private_key(path.read_bytes(), password=None)
    except FileNotFoundError:
        raise EvidenceError(
            str(path), "there is no key", "make one with `threenines evidence keygen`"
        ) from None
    except (OSError, ValueError) as error:
        raise EvidenceError(str(path), f"is no key ({error})", "restore it, or make a new one") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise EvidenceError(str(path), "is no Ed25519 key", "make one with `threenines evidence keygen`")
    return key


def _text(key: Ed25519PublicKey) -> str:
    return base64.b64encode(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
