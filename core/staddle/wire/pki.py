"""The grid's own certificate authority: ECDSA P-256 certificates (RFC 5280) for its members."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
from typing import NamedTuple, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from staddle.api.transport import Credentials
from staddle.errors import ConfigError, Corrupt, Denied, Locked
from staddle.platform.durable import make_directories, write_new_durable
from staddle.platform.shortage import is_shortage
from staddle.wire.identity import Identity, check_identity, identity_of

CA_DAYS = 7300
MEMBER_DAYS = 1825
_SKEW = dt.timedelta(hours=1)  # a member's clock may be behind the manager's
_CA_FILES = ("ca.crt", "ca.key", "token.key")
_TOKEN_KEY_BYTES = 32
_SERVES = ("manager", "agent")


UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What the parser of certificates and requests raises for bytes that are none, or none that it knows."""


class Issued(NamedTuple):
    """A new identity, as PEM. `key_pem` is empty when the key never left its owner (`sign_csr`)."""

    cert_pem: bytes
    key_pem: bytes


class CertificateAuthority:
    """Signs certificates for one grid. Keep its directory on the manager only.

    Attributes:
        grid: 16-byte grid id; stands in every certificate.
        cert_pem: the CA certificate.
        token_key: 32-byte key that join tokens are signed with.
    """

    def __init__(self, cert_pem: bytes, key: ec.EllipticCurvePrivateKey, token_key: bytes) -> None:
        self._cert = x509.load_pem_x509_certificate(cert_pem)
        self._key = key
        self.cert_pem = cert_pem
        self.token_key = token_key
        self.grid = _grid_of(self._cert)

    @classmethod
    def load(cls, directory: str) -> Self:
        """Load what `make_ca` wrote. Raises ConfigError (not there) or Corrupt (damaged)."""
        parts = []
        for name in _CA_FILES:
            try:
                with open(os.path.join(directory, name), "rb") as file:
                    parts.append(file.read())
            except OSError as error:
                raise ConfigError(
                    f"no certificate authority in {directory}: {name}: {(error.strerror or '').lower()}",
                    hint="restore pki/ from a copy of this home",
                ) from error
        damaged = Corrupt(
            f"the certificate authority in {directory} is damaged",
            hint="restore pki/ from a copy of this home",
            retry="operator",
        )
        try:
            key = serialization.load_pem_private_key(parts[1], password=None)
            made = cls(parts[0], key, parts[2]) if isinstance(key, ec.EllipticCurvePrivateKey) else None
        except UNREADABLE as error:
            raise damaged from error
        if made is None or len(parts[2]) != _TOKEN_KEY_BYTES:
            raise damaged
        return made

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the CA certificate (DER), 32 bytes."""
        return fingerprint_of(self.cert_pem)

    def issue(self, name: str, role: str, days: float = MEMBER_DAYS) -> Issued:
        """Make a key and a certificate for a member.

        Args:
            name: its name in the grid.
            role: `manager`, `agent`, `client` or `admin`. Only the first two may serve links over `tcp`.
            days: how long it is valid; a negative number makes one that has expired.

        Raises: ValueError for a bad name or role.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        return Issued(self._sign(key.public_key(), check_identity(self.grid, role, name), days), _pem_of(key))

    def sign_csr(self, csr_pem: bytes, name: str, role: str, days: float = MEMBER_DAYS) -> Issued:
        """Sign a member's own key. Only the key is taken from the request; who it is, the caller says.

        Raises: Denied if the request is not signed by its key or the key is of another kind.
        """
        try:
            csr = x509.load_pem_x509_csr(csr_pem)
            key = csr.public_key()
            sound = csr.is_signature_valid
        except UNREADABLE as error:
            raise Denied("the certificate request cannot be read", retry="never") from error
        if not sound or not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
            raise Denied("the certificate request is not signed by a P-256 key of its own", retry="never")
        return Issued(self._sign(key, check_identity(self.grid, role, name), days), b"")

    def _sign(self, key: ec.EllipticCurvePublicKey, who: Identity, days: float) -> bytes:
        now = dt.datetime.now(dt.UTC)
        end = min(now + dt.timedelta(days=days), self._cert.not_valid_after_utc)
        usage = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if who.role in _SERVES:
            usage.append(ExtendedKeyUsageOID.SERVER_AUTH)
        subject = [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, _organisation(self.grid)),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, who.role),
            x509.NameAttribute(NameOID.COMMON_NAME, who.name),
        ]
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name(subject))
            .issuer_name(self._cert.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(now, end) - _SKEW)
            .not_valid_after(end)
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(who.uri)]), critical=False
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
        )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def make_ca(directory: str, grid: bytes) -> CertificateAuthority:
    """Make the authority of a new grid: `ca.crt`, `ca.key` and `token.key` (mode 0600) in `directory`.

    Raises: Locked if there is one already; it is never overwritten.
    """
    make_directories(directory)
    if any(os.path.exists(os.path.join(directory, name)) for name in _CA_FILES):
        raise Locked(f"{directory} holds a certificate authority already")
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key()
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, _organisation(grid)),
            x509.NameAttribute(NameOID.COMMON_NAME, "Staddle CA"),
        ]
    )
    now = dt.datetime.now(dt.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + dt.timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    contents = (cert.public_bytes(serialization.Encoding.PEM), _pem_of(key), os.urandom(_TOKEN_KEY_BYTES))
    for file_name, data in zip(_CA_FILES, contents, strict=True):
        write_private(os.path.join(directory, file_name), data)
    return CertificateAuthority.load(directory)


def new_csr() -> tuple[bytes, bytes]:
    """A fresh key and a request for it: `(csr_pem, key_pem)`. The key never leaves the member."""
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.PEM), _pem_of(key)


def write_credentials(directory: str, ca_pem: bytes, issued: Issued) -> Credentials:
    """Write `ca.crt`, `own.crt` and `own.key` (mode 0600) and return their paths.

    Raises: Locked if there are credentials already.
    """
    make_directories(directory)
    paths = [os.path.join(directory, name) for name in ("ca.crt", "own.crt", "own.key")]
    for path, data in zip(paths, (ca_pem, issued.cert_pem, issued.key_pem), strict=True):
        write_private(path, data, may_exist=path.endswith("ca.crt"))
    return Credentials(ca_file=paths[0], cert_file=paths[1], key_file=paths[2])


def identity_of_cert(cert_pem: bytes) -> Identity:
    """Grid, role and name in a certificate. Raises Denied if it names no member, UNREADABLE if it is none."""
    cert = x509.load_pem_x509_certificate(cert_pem)
    try:
        names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise Denied("the certificate names no member of a Staddle grid") from None
    return identity_of(names.get_values_for_type(x509.UniformResourceIdentifier))


def own_identity(credentials: Credentials) -> Identity:
    """Who our certificate says we are, valid or not. Raises ConfigError or Denied."""
    try:
        with open(credentials.cert_file, "rb") as file:
            return identity_of_cert(file.read())
    except (OSError, *UNREADABLE) as error:
        if is_shortage(error):
            raise
        raise ConfigError(f"cannot read our certificate {credentials.cert_file}: {_why(error)}") from error


def _why(error: Exception) -> str:
    """The library's own words are about its parser."""
    return (error.strerror or "").lower() if isinstance(error, OSError) else "it is damaged"


def check_own(credentials: Credentials) -> Identity:
    """Our own identity, if our certificate is of our CA and valid now.

    A server that refuses a certificate cannot always say why (asyncio drops the TLS alert), so we look first.

    Raises: Denied, ConfigError (a file cannot be read).
    """
    try:
        with open(credentials.cert_file, "rb") as file:
            cert_pem = file.read()
        with open(credentials.ca_file, "rb") as file:
            authority = x509.load_pem_x509_certificate(file.read())
        cert = x509.load_pem_x509_certificate(cert_pem)
    except (OSError, *UNREADABLE) as error:
        if is_shortage(error):
            raise
        raise ConfigError(f"cannot read our certificate {credentials.cert_file}: {_why(error)}") from error
    try:
        cert.verify_directly_issued_by(authority)
    except (InvalidSignature, *UNREADABLE):
        raise Denied(
            f"{credentials.cert_file} belongs to another grid: it is not of the CA in {credentials.ca_file}",
            hint="join the grid again with a token of its manager",
        ) from None
    if cert.not_valid_after_utc < dt.datetime.now(dt.UTC):
        raise Denied(
            f"{credentials.cert_file} has expired ({cert.not_valid_after_utc:%Y-%m-%d})",
            hint="join the grid again with a token of its manager",
        )
    return identity_of_cert(cert_pem)


def fingerprint_of(cert_pem: bytes) -> bytes:
    """SHA-256 of a certificate (DER), 32 bytes. Raises Denied if it is not one certificate."""
    try:
        cert = x509.load_pem_x509_certificate(cert_pem)
        cert.verify_directly_issued_by(cert)
    except (InvalidSignature, *UNREADABLE) as error:
        raise Denied("not a certificate of an authority") from error
    return cert.fingerprint(hashes.SHA256())


def write_private(path: str, data: bytes, *, may_exist: bool = False) -> None:
    """Write a file that only its owner may read, durably.

    Raises: Locked if it exists, unless it `may_exist` with the same bytes.
    """
    try:
        write_new_durable(path, data)
    except FileExistsError:
        with contextlib.suppress(OSError), open(path, "rb") as file:
            if may_exist and file.read() == data:
                return
        raise Locked(f"{path} exists already", hint="move it away if it is no longer needed") from None


def _organisation(grid: bytes) -> str:
    return f"Staddle grid {grid.hex()}"


def _grid_of(cert: x509.Certificate) -> bytes:
    (attribute,) = cert.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return bytes.fromhex(str(attribute.value).rpartition(" ")[2])


def _pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
