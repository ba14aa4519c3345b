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
import ipaddress
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from transfer.errors import FormatError, NotAuthorised, UsageError

DAY = 24 * 3600 * 10**9
YEAR = 365 * DAY
CA_LIFE, LEAF_LIFE, BACKDATED = 30 * YEAR, YEAR, 25 * 3600 * 10**9
MAX_CERTIFICATE, MAX_REQUEST, MAX_HOSTS, MAX_ANNOUNCED = 8192, 4096, 16, 64
_LOCAL = ("localhost", "127.0.0.1", "::1")
_HASH = hashes.SHA256()
_ODD = (ValueError, TypeError, UnsupportedAlgorithm, x509.ExtensionNotFound,
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


# Keys and requests.


def new_key() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def request(key: bytes) -> bytes:
    """A certificate request (PKCS #10) for *key*; whose it is, the vault decides."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(_private(key), _HASH).public_bytes(serialization.Encoding.DER)


def key_of(csr: bytes) -> bytes:
    """As `Certificate.key`. Raises FormatError unless *csr* is signed by its own P-256 key."""
    return _fingerprint(_requested(csr))


def _requested(csr: bytes) -> ec.EllipticCurvePublicKey:
    if len(csr) > MAX_REQUEST:
        raise FormatError(f"a certificate request of {len(csr)} bytes; at most {MAX_REQUEST}")
    try:
        found = x509.load_der_x509_csr(csr)
        key = _p256(found.public_key())
        sound = found.is_signature_valid
    except _ODD as error:
        raise FormatError(f"a certificate request does not parse: {error}") from error
    if not sound:
        raise FormatError("a certificate request is not signed by its own key")
    return key


def _private(key: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        loaded = serialization.load_der_private_key(key, None)
    except _ODD as error:
        raise FormatError("a private key does not parse") from error
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise FormatError("a private key is not of P-256")
    _p256(loaded.public_key())
    return loaded


def _p256(key: object) -> ec.EllipticCurvePublicKey:
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise FormatError("a public key is not of P-256")
    return key


def _fingerprint(key: ec.EllipticCurvePublicKey) -> bytes:
    spki = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(spki).digest()


# Making certificates.


def new_ca(vault: bytes, now: int) -> Issuer:
    key = new_key()
    return Issuer(key, _ca_certificate(_private(key), vault, now, None))


def successor(old: Issuer, vault: bytes, now: int) -> tuple[Issuer, bytes]:
    """A new CA, and its cross certificate."""
    new = new_ca(vault, now)
    return new, _ca_certificate(_private(new.key), vault, now, old)


def _ca_certificate(
    key: ec.EllipticCurvePrivateKey, vault: bytes, now: int, signer: Issuer | None
) -> bytes:
    """Signed by *signer*, or by itself."""
    public = key.public_key()
    subject = _name(vault, _fingerprint(public)[:16].hex())
    builder = _begun(subject, public, now, CA_LIFE, signer)
    usage = x509.KeyUsage(False, False, False, False, False, True, False, False, False)
    builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
    return _signed(builder.add_extension(usage, critical=True), key, signer)


def issue_server(ca: Issuer, key: bytes, vault: bytes, hosts: Iterable[str], now: int) -> bytes:
    """For `server_name`, this machine, and *hosts*: names or IP addresses.

    Raises UsageError for a host that is neither, and for more than MAX_HOSTS.
    """
    names = [general_name(host) for host in dict.fromkeys((*_LOCAL, *hosts))]
    if len(names) > MAX_HOSTS + len(_LOCAL):
        raise UsageError(f"more than {MAX_HOSTS} hosts", "name fewer")
    name = server_name(vault)
    builder = _leaf(
        ca, _name(vault, name), _private(key).public_key(), now, ExtendedKeyUsageOID.SERVER_AUTH
    )
    alternative = x509.SubjectAlternativeName([x509.DNSName(name), *names])
    return _signed(builder.add_extension(alternative, critical=False), None, ca)


def issue_machine(ca: Issuer, csr: bytes, identity: Identity, now: int) -> bytes:
    """Raises FormatError for a request that is no request; what else it says is ignored."""
    unit = x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, identity.role)
    subject = _name(identity.domain, identity.machine.hex(), unit)
    builder = _leaf(ca, subject, _requested(csr), now, ExtendedKeyUsageOID.CLIENT_AUTH)
    return _signed(builder, None, ca)


def general_name(host: str) -> x509.GeneralName:
    """Of a host: its IP address, or its name. Raises UsageError for what is neither."""
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    labels = host.removesuffix(".").split(".")
    if len(host) > 253 or not all(_is_label(label) for label in labels):
        raise UsageError(f"{host!r} is no host name and no IP address", "name one without a port")
    return x509.DNSName(host)


def _is_label(label: str) -> bool:
    plain = label.replace("-", "").replace("_", "")
    return 1 <= len(label) <= 63 and label.isascii() and plain.isalnum() and label[0] != "-"


def _leaf(
    ca: Issuer, subject: x509.Name, key: ec.EllipticCurvePublicKey, now: int,
    purpose: x509.ObjectIdentifier,
) -> x509.CertificateBuilder:  # fmt: skip
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    builder = _begun(subject, key, now, LEAF_LIFE, ca)
    builder = builder.add_extension(x509.BasicConstraints(False, None), critical=True)
    builder = builder.add_extension(usage, critical=True)
    return builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)


def _begun(
    subject: x509.Name, key: ec.EllipticCurvePublicKey, now: int, life: int, signer: Issuer | None
) -> x509.CertificateBuilder:
    above = x509.load_der_x509_certificate(signer.certificate) if signer else None
    signer_key = _p256(above.public_key()) if above else key
    ends = _moment(now + life)
    if above is not None:
        ends = min(ends, above.not_valid_after_utc)
    builder = x509.CertificateBuilder(above.subject if above else subject, subject, key)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(min(_moment(now - BACKDATED), ends)).not_valid_after(ends)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    above_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer_key)
    return builder.add_extension(above_key, critical=False)


def _signed(
    builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey | None, signer: Issuer | None
) -> bytes:
    """By *signer*, or else by *key*."""
    signing = _private(signer.key) if signer else key
    assert signing is not None
    return builder.sign(signing, _HASH).public_bytes(serialization.Encoding.DER)


def _name(organisation: bytes, common: str, *more: x509.NameAttribute[str]) -> x509.Name:
    first = x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation.hex())
    return x509.Name([first, *more, x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _moment(nanoseconds: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=nanoseconds // 10**9)


# Reading certificates.


def read(der: bytes) -> Certificate:
    """Raises FormatError for what is no certificate of a P-256 key, or too large."""
    return _described(_load(der), der)


def _load(der: bytes) -> x509.Certificate:
    if len(der) > MAX_CERTIFICATE:
        raise FormatError(f"a certificate of {len(der)} bytes; at most {MAX_CERTIFICATE}")
    try:
        return x509.load_der_x509_certificate(der)
    except _ODD as error:
        raise FormatError(f"a certificate does not parse: {error}") from error


def _described(found: x509.Certificate, der: bytes) -> Certificate:
    try:
        key = _fingerprint(_p256(found.public_key()))
        begins, ends = found.not_valid_before_utc, found.not_valid_after_utc
        return Certificate(
            der, found.serial_number, key, int(begins.timestamp()) * 10**9,
            int(ends.timestamp()) * 10**9,
        )  # fmt: skip
    except _ODD as error:
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
    except _ODD as error:
        raise FormatError(f"not a machine's certificate: {error}") from error


def _id_in(parts: dict[x509.ObjectIdentifier, str], oid: x509.ObjectIdentifier) -> bytes:
    found = bytes.fromhex(parts.get(oid, ""))
    if len(found) != 16 or found.hex() != parts[oid]:
        raise ValueError(f"{parts[oid]!r} is no ID")
    return found


def renewal_due(certificate: Certificate, now: int) -> bool:
    life = certificate.ends - certificate.begins
    return now >= certificate.begins + life * 2 // 3


def check_time(certificate: Certificate, now: int, what: str, grace: int = 0) -> None:
    """Raise NotAuthorised, which names both clocks, unless *certificate* is good at *now* (ns).

    *grace* is for how long after its end it still passes.
    """
    clock = f"this machine's clock says {when(now)}"
    if now < certificate.begins:
        raise NotAuthorised(
            f"{what} is not valid before {when(certificate.begins)}; {clock}", "set the clock right"
        )
    if now > certificate.ends + grace:
        raise NotAuthorised(
            f"{what} ended on {when(certificate.ends)}; {clock}",
            "register again, or set the clock right",
        )


def when(nanoseconds: int) -> str:
    """RFC 3339, UTC, to the second."""
    return _moment(nanoseconds).strftime("%Y-%m-%dT%H:%M:%SZ")


# A change of the CA.


def accepted(
    pinned: Sequence[bytes], announced: Sequence[tuple[bytes, bytes]], now: int
) -> list[bytes]:
    """The CAs to trust from now on: *pinned*, and those that one of them vouches for.

    *announced* has CA certificates, each with its cross certificate. What does not hold, or has
    ended at *now*, is left out. Raises FormatError if a pinned one is no certificate.
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
    return list(trusted)


def _vouched(new: bytes, cross: bytes, trusted: list[x509.Certificate], now: int) -> bool:
    try:
        certificate, signed = _load(new), _load(cross)
        described = _described(certificate, new), _described(signed, cross)
        for each in described:
            check_time(each, now, "a CA's certificate")
        same = described[0].key == described[1].key and certificate.subject == signed.subject
        authority = same and _is_authority(certificate) and _is_authority(signed)
        return (
            authority
            and _signed_by(certificate, certificate)
            and any(_signed_by(signed, one) for one in trusted)
        )
    except (FormatError, NotAuthorised, *_ODD):
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
    except _ODD:  # another issuer's name, or another kind of key
        return False
    return True
