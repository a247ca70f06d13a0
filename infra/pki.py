"""One certificate authority per stack, and its leaf certificates.

Leaves carry the role in the common name (`host:<name>`, `operator`, `monitor`), names and addresses as
subject alternative names, and extended key usage for client *and* server: etcd's JSON gateway dials itself
with the server's certificate. Keys are P-256. (RFC 5280; RFC 9525 for names in certificates)
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_LIFE_D = 3650
LEAF_LIFE_D = 397
RENEW_BEFORE_D = 30

Writer = Callable[[Path, bytes, int], None]
Clock = Callable[[], datetime.datetime]


class PkiError(Exception):
    """A key or certificate cannot be used. The text names the file and the mend."""


@dataclass(frozen=True)
class Leaf:
    """Files of a leaf certificate and its key."""

    cert: Path
    key: Path


def utc_now() -> datetime.datetime:
    """The wall clock: certificates have no other."""
    return datetime.datetime.now(datetime.UTC)


def write_private(path: Path, content: bytes, mode: int) -> None:
    """Writes a file that only its owner can read, whole or not at all."""
    from infra.substrates.files import write_atomic

    write_atomic(path, content, mode)


class Authority:
    """The authority of a stack, in a folder of its own: `ca.pem`, `ca.key`. Callers hold a lock."""

    def __init__(
        self, folder: Path, stack: str, *, clock: Clock = utc_now, write: Writer = write_private
    ) -> None:
        self.folder = folder
        self.stack = stack
        self._clock = clock
        self._write = write

    @property
    def certificate_path(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def key_path(self) -> Path:
        return self.folder / "ca.key"

    def ensure(self) -> bytes:
        """The authority's certificate (PEM), made when there is none or it ends soon."""
        try:
            certificate, _ = self._load()
        except FileNotFoundError:
            return self._make()
        if self._ends_soon(certificate):
            return self._make()
        return certificate.public_bytes(serialization.Encoding.PEM)

    def ensure_leaf(self, leaf: Leaf, common_name: str, names: tuple[str, ...]) -> bool:
        """Makes the leaf unless it is there, signed by this authority, for exactly these names, and lasts.

        `names` are DNS names and addresses. Says whether it was made anew. Raises PkiError for an authority
        that is damaged.
        """
        self.ensure()
        authority, signer = self._load()
        if self._serves(leaf, authority, common_name, names):
            return False
        key = ec.generate_private_key(ec.SECP256R1())
        now = self._clock()
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(self.stack, common_name))
            .issuer_name(authority.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=LEAF_LIFE_D))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),
                critical=False,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
            )
        )
        if names:
            alternatives = x509.SubjectAlternativeName([_general(n) for n in names])
            builder = builder.add_extension(alternatives, critical=False)
        signed = builder.sign(signer, hashes.SHA256())
        self._write(leaf.key, _key_pem(key), 0o600)
        self._write(leaf.cert, signed.public_bytes(serialization.Encoding.PEM), 0o600)
        return True

    def _serves(
        self, leaf: Leaf, authority: x509.Certificate, common_name: str, names: tuple[str, ...]
    ) -> bool:
        try:
            found = x509.load_pem_x509_certificate(leaf.cert.read_bytes())
            key = serialization.load_pem_private_key(leaf.key.read_bytes(), password=None)
            found.verify_directly_issued_by(authority)
        except (FileNotFoundError, ValueError, TypeError, InvalidSignature):
            return False
        return (
            key.public_key() == found.public_key()
            and not self._ends_soon(found)
            and found.subject == _name(self.stack, common_name)
            and alternatives_of(found) == frozenset(names)
        )

    def _make(self) -> bytes:
        key = ec.generate_private_key(ec.SECP256R1())
        now = self._clock()
        name = _name(self.stack, f"threenines {self.stack} authority")
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=CA_LIFE_D))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        self._write(self.key_path, _key_pem(key), 0o600)
        self._write(self.certificate_path, pem, 0o600)
        return pem

    def _load(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        certificate_pem, key_pem = self.certificate_path.read_bytes(), self.key_path.read_bytes()
        try:
            certificate = x509.load_pem_x509_certificate(certificate_pem)
            key = serialization.load_pem_private_key(key_pem, password=None)
        except (ValueError, TypeError) as error:
            raise PkiError(
                f"{self.folder}: the authority is damaged ({error}); remove that folder"
            ) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise PkiError(f"{self.folder}: ca.key does not belong to ca.pem; remove that folder")
        return certificate, key

    def _ends_soon(self, certificate: x509.Certificate) -> bool:
        return certificate.not_valid_after_utc - self._clock() < datetime.timedelta(days=RENEW_BEFORE_D)


def alternatives_of(certificate: x509.Certificate) -> frozenset[str]:
    """The subject alternative names of a certificate, addresses as text."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()
    addresses = extension.get_values_for_type(x509.IPAddress)
    return frozenset(extension.get_values_for_type(x509.DNSName)) | {str(a) for a in addresses}


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _name(stack: str, common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, f"threenines {stack}"[:64]),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64]),
        ]
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
