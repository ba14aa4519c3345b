"""Certificates: the vault's authority (CA), its servers, and its machines. X.509, ECDSA P-256.

    whose     life      subject                                              may
    CA        30 years  O vault, CN fingerprint of its key (both hex)        sign certificates
    server    1 year    O vault, CN server name                              be a TLS server
    machine   1 year    O domain, OU role, CN machine ID (hex)               be a TLS client

Each begins 25 hours before it was made, so that a clock in another time zone still takes it, and is
due for renewal at two thirds of its life. None outlives the CA that signed it. A machine's name is
a label, and stands in the vault's records alone. A client asks TLS for `server_name`, which is made
of the vault's ID, so a vault may move to another address, or be reached through a tunnel.

A CA's successor has a key of its own, which the old CA signs in a *cross certificate*: who knows
only the old one can check what the new one signs.

TLS is told not to look at times: `check_time` does, against a clock that is given (ns since 1970).
"""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from transfer.errors import FormatError, NotAuthorised

DAY = 24 * 3600 * 10**9
YEAR = 365 * DAY
MAX_CERTIFICATE, MAX_REQUEST, MAX_ANNOUNCED = 8192, 4096, 64
HASH = hashes.SHA256()
# What the library raises for bytes that are not what they claim to be.
ODD = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion, x509.ExtensionNotFound,
       x509.DuplicateExtension, x509.UnsupportedGeneralNameType)  # fmt: skip


class Role(StrEnum):
    MACHINE = "machine"
    READER = "reader"  # may read another machine's points
    COPIER = "copier"  # reserved
    OPERATOR = "operator"  # reserved


class Identity(NamedTuple):
    machine: bytes
    domain: bytes
    role: Role


class Certificate(NamedTuple):
    """*key* is the SHA-256 of the public key (its SubjectPublicKeyInfo); times are ns."""

    der: bytes
    serial: int
    key: bytes
    begins: int
    ends: int


class Issuer(NamedTuple):
    key: bytes  # PKCS #8, DER
    certificate: bytes

    def __repr__(self) -> str:
        return "<Issuer>"  # no key in a log or a traceback


def server_name(vault: bytes) -> str:
    """The name that a client of this vault asks for, whatever its address is."""
    return f"{vault.hex()}.vault.transfer.invalid"


# Keys and requests. A private key is PKCS #8, DER; a request is PKCS #10, DER.


def new_key() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def request(key: bytes) -> bytes:
    """A certificate request (PKCS #10) for *key*; whose it is, the vault decides."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(load_private(key), HASH).public_bytes(serialization.Encoding.DER)


def key_to_pem(key: bytes) -> bytes:
    """The form in which the ssl module takes a key."""
    return load_private(key).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def key_of(csr: bytes) -> bytes:
    """As `Certificate.key`. Raises FormatError unless *csr* is signed by its own P-256 key."""
    return fingerprint(requested_key(csr))


def requested_key(csr: bytes) -> ec.EllipticCurvePublicKey:
    if len(csr) > MAX_REQUEST:
        raise FormatError(f"a certificate request of {len(csr)} bytes; at most {MAX_REQUEST}")
    try:
        found = x509.load_der_x509_csr(csr)
        key = p256(found.public_key())
        sound = found.is_signature_valid
    except ODD as error:
        raise FormatError(f"a certificate request does not parse: {error}") from error
    if not sound:
        raise FormatError("a certificate request is not signed by its own key")
    return key


def load_private(key: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        loaded = serialization.load_der_private_key(key, None)
    except ODD as error:
        raise FormatError("a private key does not parse") from error
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise FormatError("a private key is not of P-256")
    p256(loaded.public_key())
    return loaded


def p256(key: object) -> ec.EllipticCurvePublicKey:
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise FormatError("a public key is not of P-256")
    return key


def fingerprint(key: ec.EllipticCurvePublicKey) -> bytes:
    spki = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(spki).digest()


# Reading certificates.


def read(der: bytes) -> Certificate:
    """Raises FormatError for what is no certificate of a P-256 key, or too large."""
    return _described(_load(der), der)


def _load(der: bytes) -> x509.Certificate:
    if len(der) > MAX_CERTIFICATE:
        raise FormatError(f"a certificate of {len(der)} bytes; at most {MAX_CERTIFICATE}")
    try:
        return x509.load_der_x509_certificate(der)
    except ODD as error:
        raise FormatError(f"a certificate does not parse: {error}") from error


def _described(found: x509.Certificate, der: bytes) -> Certificate:
    try:
        key = fingerprint(p256(found.public_key()))
        begins, ends = found.not_valid_before_utc, found.not_valid_after_utc
        return Certificate(
            der, found.serial_number, key, int(begins.timestamp()) * 10**9,
            int(ends.timestamp()) * 10**9,
        )  # fmt: skip
    except ODD as error:
        raise FormatError(f"a certificate does not parse: {error}") from error


def identity_of(certificate: Certificate) -> Identity:
    """Whose machine certificate it is. Raises FormatError for any other certificate."""
    found = _load(certificate.der)
    try:
        purposes = list(found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        parts = {part.oid: str(part.value) for part in found.subject}
        if len(found.subject.rdns) != 3 or purposes != [ExtendedKeyUsageOID.CLIENT_AUTH]:
            raise ValueError("it is not for a machine")
        machine = _id_in(parts, NameOID.COMMON_NAME)
        domain = _id_in(parts, NameOID.ORGANIZATION_NAME)
        return Identity(machine, domain, Role(parts.get(NameOID.ORGANIZATIONAL_UNIT_NAME, "")))
    except ODD as error:
        raise FormatError(f"not a machine's certificate: {error}") from error


def _id_in(parts: dict[x509.ObjectIdentifier, str], oid: x509.ObjectIdentifier) -> bytes:
    text = parts.get(oid, "")
    found = bytes.fromhex(text)
    if len(found) != 16 or found.hex() != text:
        raise ValueError(f"{text!r} is no ID")
    return found


def renewal_due(certificate: Certificate, now: int) -> bool:
    life = certificate.ends - certificate.begins
    return now >= certificate.begins + life * 2 // 3


def check_time(certificate: Certificate, now: int, whose: str, grace: int = 0) -> None:
    """Raise NotAuthorised, which names both clocks, unless *certificate* is good at *now* (ns).

    *grace* is for how long (ns) it still passes after its end.
    """
    clock = f"this machine's clock says {when(now)}"
    if now < certificate.begins:
        begins = when(certificate.begins)
        raise NotAuthorised(
            f"{whose} certificate is not valid before {begins}; {clock}",
            "set the clock that is wrong",
        )
    if now > certificate.ends + grace:
        raise NotAuthorised(
            f"{whose} certificate ended on {when(certificate.ends)}; {clock}",
            "register again, or set the clock that is wrong",
        )


def moment(nanoseconds: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=nanoseconds // 10**9)


def when(nanoseconds: int) -> str:
    """RFC 3339, UTC, to the second."""
    return moment(nanoseconds).strftime("%Y-%m-%dT%H:%M:%SZ")


# A change of the CA.


def accepted(
    pinned: Sequence[bytes], announced: Sequence[tuple[bytes, bytes]], now: int
) -> list[bytes]:
    """The CAs to trust from now on: *pinned*, and those that one of them vouches for.

    *announced* has CA certificates, each with its cross certificate. What does not hold, or has
    ended at *now*, is left out, unless nothing would be left. Raises FormatError if a pinned one
    is no certificate.
    """
    trusted = {der: _load(der) for der in pinned}
    left = list(announced[:MAX_ANNOUNCED])
    found = True
    while found:  # a successor may have been signed by one that is itself announced
        found = False
        for pair in left:
            if pair[0] not in trusted and _vouched(*pair, list(trusted.values()), now):
                trusted[pair[0]] = _load(pair[0])
                found = True
    return [der for der in trusted if read(der).ends >= now] or list(pinned)


def _vouched(new: bytes, cross: bytes, trusted: list[x509.Certificate], now: int) -> bool:
    try:
        certificate, signed = _load(new), _load(cross)
        described = _described(certificate, new), _described(signed, cross)
        for each in described:
            check_time(each, now, "a CA's")
        same = described[0].key == described[1].key and certificate.subject == signed.subject
        authority = same and _is_authority(certificate) and _is_authority(signed)
        return (
            authority
            and _signed_by(certificate, certificate)
            and any(_signed_by(signed, one) for one in trusted)
        )
    except (FormatError, NotAuthorised, *ODD):
        return False


def _is_authority(certificate: x509.Certificate) -> bool:
    extensions = certificate.extensions
    return (
        extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        and extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    )


def _signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except InvalidSignature:
        return False
    except ODD:  # another issuer's name, or another kind of key
        return False
    return True
