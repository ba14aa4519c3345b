"""Making certificates; see certificates.py for what stands in them."""

import ipaddress
from collections.abc import Iterable

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from transfer.crypto.certificates import (
    HASH,
    YEAR,
    Identity,
    Issuer,
    fingerprint,
    load_private,
    moment,
    new_key,
    p256,
    requested_key,
    server_name,
)
from transfer.errors import UsageError

CA_LIFE, LEAF_LIFE, BACKDATED = 30 * YEAR, YEAR, 25 * 3600 * 10**9
MAX_HOSTS = 16
_LOCAL = ("localhost", "127.0.0.1", "::1")


def new_ca(vault: bytes, now: int) -> Issuer:
    key = new_key()
    return Issuer(key, _ca_certificate(key, vault, now, None))


def successor(old: Issuer, vault: bytes, now: int) -> tuple[Issuer, bytes]:
    """A new CA, and its cross certificate."""
    new = new_ca(vault, now)
    return new, _ca_certificate(new.key, vault, now, old)


def _ca_certificate(key: bytes, vault: bytes, now: int, signer: Issuer | None) -> bytes:
    """Signed by *signer*, or by itself."""
    public = load_private(key).public_key()
    subject = _name(vault, fingerprint(public)[:16].hex())
    builder = _begun(subject, public, now, CA_LIFE, signer)
    usage = x509.KeyUsage(False, False, False, False, False, True, False, False, False)
    builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
    builder = builder.add_extension(usage, critical=True)
    return _signed(builder, signer.key if signer else key)


def issue_server(ca: Issuer, key: bytes, vault: bytes, hosts: Iterable[str], now: int) -> bytes:
    """For `server_name`, this machine, and *hosts*, as `checked_hosts` takes them."""
    named = dict.fromkeys((*_LOCAL, *checked_hosts(hosts)))
    name = server_name(vault)
    builder = _leaf(
        ca, _name(vault, name), load_private(key).public_key(), now, ExtendedKeyUsageOID.SERVER_AUTH
    )
    alternative = x509.SubjectAlternativeName(
        [x509.DNSName(name), *(general_name(host) for host in named)]
    )
    return _signed(builder.add_extension(alternative, critical=False), ca.key)


def checked_hosts(hosts: Iterable[str]) -> list[str]:
    """Sorted, each once. Raises UsageError for one that is no host, and for too many."""
    found = sorted(set(hosts))
    if len(found) > MAX_HOSTS:
        raise UsageError(f"{len(found)} hosts; at most {MAX_HOSTS} fit", "name fewer")
    for host in found:
        general_name(host)
    return found


def issue_machine(ca: Issuer, csr: bytes, identity: Identity, now: int) -> bytes:
    """Raises FormatError for a request that is no request; what else it says is ignored."""
    unit = x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, identity.role)
    subject = _name(identity.domain, identity.machine.hex(), unit)
    builder = _leaf(ca, subject, requested_key(csr), now, ExtendedKeyUsageOID.CLIENT_AUTH)
    return _signed(builder, ca.key)


def general_name(host: str) -> x509.GeneralName:
    """Of a host: its IP address, or its name. Raises UsageError for what is neither."""
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    labels = host.split(".")
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
    signer_key = p256(above.public_key()) if above else key
    ends = moment(now + life)
    if above is not None:
        ends = min(ends, above.not_valid_after_utc)
    builder = x509.CertificateBuilder(above.subject if above else subject, subject, key)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(min(moment(now - BACKDATED), ends)).not_valid_after(ends)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    above_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer_key)
    return builder.add_extension(above_key, critical=False)


def _signed(builder: x509.CertificateBuilder, key: bytes) -> bytes:
    return builder.sign(load_private(key), HASH).public_bytes(serialization.Encoding.DER)


def _name(organisation: bytes, common: str, *more: x509.NameAttribute[str]) -> x509.Name:
    first = x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation.hex())
    return x509.Name([first, *more, x509.NameAttribute(NameOID.COMMON_NAME, common)])
