"""Certificates as TLS and our own code take them: who is who, and nobody else."""

import ipaddress
import ssl
import tempfile
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from transfer.crypto import certificates, issuing
from transfer.crypto.certificates import DAY, YEAR, Identity, Role
from transfer.errors import FormatError, NotAuthorised, UsageError

VAULT, OTHER = b"v" * 16, b"w" * 16
NOW = 1_700_000_000 * 10**9
IDENTITY = Identity(b"m" * 16, b"\xff" * 16, Role.MACHINE)
CA = issuing.new_ca(VAULT, NOW)
NEW, CROSS = issuing.successor(CA, VAULT, NOW + YEAR)
FOREIGN = issuing.new_ca(VAULT, NOW)
KEY, SERVER_KEY = certificates.new_key(), certificates.new_key()
MACHINE = issuing.issue_machine(CA, certificates.request(KEY), IDENTITY, NOW)


def server(ca=CA, hosts=(), now=NOW):
    return issuing.issue_server(ca, SERVER_KEY, VAULT, hosts, now)


def extensions(der):
    return x509.load_der_x509_certificate(der).extensions


# What stands in them.


def test_a_machines_certificate_tells_who_it_is():
    found = certificates.read(MACHINE)
    assert certificates.identity_of(found) == IDENTITY
    assert found.key == certificates.key_of(certificates.request(KEY))
    assert found.serial == x509.load_der_x509_certificate(MACHINE).serial_number
    usage = extensions(MACHINE).get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [one.dotted_string for one in usage] == ["1.3.6.1.5.5.7.3.2"]
    assert not extensions(MACHINE).get_extension_for_class(x509.BasicConstraints).value.ca
    assert len(MACHINE) < 1024


@pytest.mark.parametrize("role", Role)
def test_every_role_comes_back(role):
    identity = IDENTITY._replace(role=role)
    der = issuing.issue_machine(CA, certificates.request(KEY), identity, NOW)
    assert certificates.identity_of(certificates.read(der)) == identity


def test_lives_begin_25_hours_ago_and_are_of_thirty_years_and_of_one():
    for der, life in ((CA.certificate, 30 * YEAR), (MACHINE, YEAR), (server(), YEAR)):
        found = certificates.read(der)
        assert (found.begins, found.ends) == (NOW - 25 * DAY // 24, NOW + life)


def test_a_leaf_never_outlives_its_ca():
    late = NOW + 30 * YEAR - 5 * DAY
    der = issuing.issue_machine(CA, certificates.request(KEY), IDENTITY, late)
    assert certificates.read(der).ends == certificates.read(CA.certificate).ends
    assert certificates.read(server(now=late)).ends == certificates.read(CA.certificate).ends
    _, cross = issuing.successor(CA, VAULT, late)
    assert certificates.read(cross).ends == certificates.read(CA.certificate).ends
    ended = issuing.issue_machine(CA, certificates.request(KEY), IDENTITY, NOW + 40 * YEAR)
    assert certificates.read(ended).ends == certificates.read(CA.certificate).ends


def test_a_server_is_for_its_vault_this_machine_and_its_hosts():
    der = server(hosts=["vault.example", "192.0.2.7", "2001:db8::1"])
    names = extensions(der).get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [
        f"{VAULT.hex()}.vault.transfer.invalid", "localhost", "vault.example",
    ]  # fmt: skip
    addresses = ["127.0.0.1", "::1", "192.0.2.7", "2001:db8::1"]
    assert set(names.get_values_for_type(x509.IPAddress)) == set(
        map(ipaddress.ip_address, addresses)
    )
    usage = extensions(der).get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [one.dotted_string for one in usage] == ["1.3.6.1.5.5.7.3.1"]


def test_renewal_is_due_at_two_thirds():
    found = certificates.read(MACHINE)
    due = found.begins + (found.ends - found.begins) * 2 // 3
    assert not certificates.renewal_due(found, due - 1)
    assert certificates.renewal_due(found, due)


def test_times_are_exact_and_both_clocks_are_named():
    found = certificates.read(MACHINE)
    for good in (found.begins, NOW, found.ends):
        certificates.check_time(found, good, "its")
    with pytest.raises(NotAuthorised) as early:
        certificates.check_time(found, found.begins - 1, "its")
    assert "its certificate is not valid before 2023-11-13T21:13:20Z" in early.value.message
    assert "clock says 2023-11-13T21:13:19Z" in early.value.message
    with pytest.raises(NotAuthorised, match=r"its certificate ended on 2024-11-13T22.*says"):
        certificates.check_time(found, found.ends + 1, "its")
    certificates.check_time(found, found.ends + 5, "its", grace=5)
    with pytest.raises(NotAuthorised):
        certificates.check_time(found, found.ends + 6, "its", grace=5)


def test_no_key_is_shown():
    assert repr(CA) == "<Issuer>"


# Requests.


def csr_of(key, name=(), algorithm=certificates.HASH):
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, one) for one in name])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.DER)


def test_a_request_says_nothing_of_who_it_is():
    der = issuing.issue_machine(
        CA, csr_of(ec.generate_private_key(ec.SECP256R1()), ["root"]), IDENTITY, NOW
    )
    assert certificates.identity_of(certificates.read(der)) == IDENTITY


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (ec.generate_private_key(ec.SECP384R1()), hashes.SHA256()),
        (rsa.generate_private_key(65537, 2048), hashes.SHA256()),
        (ed25519.Ed25519PrivateKey.generate(), None),
    ],
)
def test_a_request_for_another_kind_of_key_is_refused(key, algorithm):
    csr = csr_of(key, algorithm=algorithm)
    for use in (certificates.key_of, lambda csr: issuing.issue_machine(CA, csr, IDENTITY, NOW)):
        with pytest.raises(FormatError, match="P-256"):
            use(csr)


def test_a_request_for_somebody_elses_key_is_refused():
    mine, theirs = certificates.request(KEY), certificates.request(certificates.new_key())
    spki = x509.load_der_x509_csr(mine).public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )  # fmt: skip
    other = x509.load_der_x509_csr(theirs).public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )  # fmt: skip
    forged = mine.replace(spki, other)
    assert forged != mine
    for use in (certificates.key_of, lambda csr: issuing.issue_machine(CA, csr, IDENTITY, NOW)):
        with pytest.raises(FormatError, match="not signed"):
            use(forged)


def test_a_large_request_is_not_looked_at():
    big = csr_of(ec.generate_private_key(ec.SECP256R1()), ["x" * 60] * 60)
    assert len(big) > certificates.MAX_REQUEST
    with pytest.raises(FormatError, match="at most 4096"):
        certificates.key_of(big)


@given(st.binary(max_size=99), st.integers(0, 200), st.integers(1, 255))
def test_garbage_is_refused_and_never_a_crash(garbage, at, change):
    for good, use in ((certificates.request(KEY), certificates.key_of),
                      (MACHINE, lambda der: certificates.identity_of(certificates.read(der))),
                      (KEY, certificates.key_to_pem)):  # fmt: skip
        damaged = bytearray(good)
        damaged[at % len(good)] ^= change
        for raw in (garbage, bytes(damaged), good[:at]):
            try:
                use(raw)
            except FormatError:
                pass
    with pytest.raises(FormatError):
        certificates.read(garbage)


def test_a_large_certificate_is_not_looked_at():
    with pytest.raises(FormatError, match="at most 8192"):
        certificates.read(bytes(8193))


# Whose it is.


def odd(subject, usage=(x509.ExtendedKeyUsageOID.CLIENT_AUTH,)):
    """A certificate of the CA with another *subject* than ours have."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateBuilder(
        x509.load_der_x509_certificate(CA.certificate).subject, x509.Name(subject),
        key.public_key(), 1, datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    if usage:
        builder = builder.add_extension(x509.ExtendedKeyUsage(list(usage)), critical=False)
    signed = builder.sign(certificates.load_private(CA.key), hashes.SHA256())
    return certificates.read(signed.public_bytes(serialization.Encoding.DER))


def part(oid, text):
    return x509.NameAttribute(oid, text)


GOOD = [
    part(NameOID.ORGANIZATION_NAME, "ff" * 16),
    part(NameOID.ORGANIZATIONAL_UNIT_NAME, "machine"),
    part(NameOID.COMMON_NAME, "6d" * 16),
]


def test_odd_subjects_are_refused():
    assert certificates.identity_of(odd(GOOD)) == IDENTITY
    for subject in (
        GOOD[:2], GOOD[1:], [*GOOD, GOOD[2]], [GOOD[0], GOOD[1], GOOD[1]],
        [*GOOD[:2], part(NameOID.COMMON_NAME, "6d" * 15)],
        [*GOOD[:2], part(NameOID.COMMON_NAME, "6D" * 16)],
        [*GOOD[:2], part(NameOID.COMMON_NAME, "xx" * 16)],
        [*GOOD[:2], part(NameOID.COMMON_NAME, " ".join(["6d"] * 16))],
        [part(NameOID.ORGANIZATION_NAME, "ff"), *GOOD[1:]],
        [GOOD[0], part(NameOID.ORGANIZATIONAL_UNIT_NAME, "root"), GOOD[2]],
    ):  # fmt: skip
        with pytest.raises(FormatError, match="not a machine's"):
            certificates.identity_of(odd(subject))


def test_a_certificate_for_another_purpose_is_no_machines():
    both = [x509.ExtendedKeyUsageOID.CLIENT_AUTH, x509.ExtendedKeyUsageOID.SERVER_AUTH]
    for usage in ((), both, both[1:]):
        with pytest.raises(FormatError, match="not a machine's"):
            certificates.identity_of(odd(GOOD, usage))
    for der in (server(), CA.certificate, CROSS):
        with pytest.raises(FormatError, match="not a machine's"):
            certificates.identity_of(certificates.read(der))


# A change of the CA.


def test_a_successor_that_the_old_ca_signed_is_taken():
    now = NOW + YEAR
    pinned = [CA.certificate]
    assert certificates.accepted(pinned, [], now) == pinned
    assert certificates.accepted(pinned, [(NEW.certificate, CROSS)] * 2, now) == [
        CA.certificate, NEW.certificate,
    ]  # fmt: skip
    third, cross = issuing.successor(NEW, VAULT, now)
    announced = [(third.certificate, cross), (NEW.certificate, CROSS)]
    assert certificates.accepted(pinned, announced, now) == [
        CA.certificate, NEW.certificate, third.certificate,
    ]  # fmt: skip
    assert certificates.accepted(pinned, announced[:1], now) == pinned


def test_what_no_pinned_ca_signed_is_not_taken():
    now, pinned = NOW + YEAR, [CA.certificate]
    evil, evil_cross = issuing.successor(FOREIGN, VAULT, now)
    machine = certificates.read(MACHINE).der
    for announced in (
        (FOREIGN.certificate, FOREIGN.certificate),
        (evil.certificate, evil_cross),
        (FOREIGN.certificate, CROSS),  # vouches for another key
        (evil.certificate, CROSS),
        (NEW.certificate, NEW.certificate),
        (NEW.certificate, evil_cross),
        (CROSS, CROSS),  # signed by the old CA, not by itself
        (machine, machine),  # signed by the old CA, and no CA
        (NEW.certificate, machine),
        (b"", b""), (NEW.certificate, b"x"), (bytes(9000), CROSS),
    ):  # fmt: skip
        assert certificates.accepted(pinned, [announced], now) == pinned
    for damaged in (CROSS[:-1] + bytes([CROSS[-1] ^ 1]),):
        assert certificates.accepted(pinned, [(NEW.certificate, damaged)], now) == pinned


def test_a_successor_is_taken_in_its_time_only_and_ended_cas_go():
    pinned, announced = [CA.certificate], [(NEW.certificate, CROSS)]
    assert certificates.accepted(pinned, announced, NOW) == pinned  # not valid yet
    both = [CA.certificate, NEW.certificate]
    assert certificates.accepted(pinned, announced, NOW + 30 * YEAR) == both
    assert certificates.accepted(pinned, announced, NOW + 30 * YEAR + 10**9) == pinned
    assert certificates.accepted(both, announced, NOW + 30 * YEAR + 10**9) == both[1:]


def test_few_announced_cas_are_looked_at():
    many = [(b"%d" % number, b"") for number in range(certificates.MAX_ANNOUNCED)]
    pair = (NEW.certificate, CROSS)
    now = NOW + YEAR
    assert certificates.accepted([CA.certificate], [*many[1:], pair], now)[1:] == [NEW.certificate]
    assert certificates.accepted([CA.certificate], [*many, pair], now) == [CA.certificate]


def test_a_host_is_a_name_or_an_address():
    for host in ("a", "vault-1.example.org", "192.0.2.7", "::1", "_x.example"):
        issuing.general_name(host)
    for host in ("", "a b", "https://a", "a:8443", "x" * 254, "[::1]"):
        with pytest.raises(UsageError):
            issuing.general_name(host)


# TLS.


def context(purpose, trusted, chain=(), key=KEY):
    found = ssl.SSLContext(purpose)
    found.minimum_version = ssl.TLSVersion.TLSv1_3
    found.verify_mode = ssl.CERT_REQUIRED
    found.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VerifyFlags(0x200000)  # no times
    for one in trusted:
        found.load_verify_locations(cadata=one)
    if chain:
        with tempfile.NamedTemporaryFile() as file:
            file.write("".join(map(ssl.DER_cert_to_PEM_cert, chain)).encode())
            file.write(certificates.key_to_pem(key))
            file.flush()
            found.load_cert_chain(file.name)
    return found


def shake(server_chain, client_chain=(MACHINE,), server_trusts=(CA.certificate,),
          client_trusts=(CA.certificate,), server_key=SERVER_KEY, name=None):  # fmt: skip
    """Shake hands in memory; the certificates that server and client see, or SSLError."""
    here, there = ssl.MemoryBIO(), ssl.MemoryBIO()
    at_server = context(ssl.PROTOCOL_TLS_SERVER, server_trusts, server_chain, server_key).wrap_bio(
        here, there, server_side=True
    )
    at_client = context(ssl.PROTOCOL_TLS_CLIENT, client_trusts, client_chain).wrap_bio(
        there, here, server_hostname=name or certificates.server_name(VAULT)
    )
    left = [at_client, at_server]
    for _ in range(10):
        for side in list(left):
            try:
                side.do_handshake()
                left.remove(side)
            except ssl.SSLWantReadError:
                pass
    assert not left
    at_server.write(b"hello")
    assert at_client.read(5) == b"hello"
    assert at_client.version() == "TLSv1.3"
    return at_server.getpeercert(True), at_client.getpeercert(True)


def test_a_machine_and_its_vault_know_each_other():
    own = server()
    assert shake([own]) == (MACHINE, own)
    for name in ("localhost", "127.0.0.1", "vault.example", "192.0.2.7"):
        shake([server(hosts=["vault.example", "192.0.2.7"])], name=name)


def test_a_client_of_the_old_ca_follows_the_new_chain():
    own = server(NEW, now=NOW + YEAR)
    shake([own, CROSS])
    shake([own, CROSS], client_trusts=[NEW.certificate])
    shake([own, CROSS], client_trusts=[CA.certificate, NEW.certificate])
    with pytest.raises(ssl.SSLCertVerificationError):
        shake([own])
    third, cross = issuing.successor(NEW, VAULT, NOW + YEAR)
    shake([server(third), cross, CROSS])


def test_a_machine_of_the_old_ca_is_known_and_one_of_the_new_as_well():
    new = issuing.issue_machine(NEW, certificates.request(KEY), IDENTITY, NOW + YEAR)
    for machine in (MACHINE, new):
        shake([server()], [machine], server_trusts=[CA.certificate, NEW.certificate])


@pytest.mark.parametrize("ca", [FOREIGN, issuing.new_ca(OTHER, NOW)])
def test_a_foreign_ca_is_refused_by_both(ca):
    with pytest.raises(ssl.SSLCertVerificationError):
        shake([server(ca)])
    foreign = issuing.issue_machine(ca, certificates.request(KEY), IDENTITY, NOW)
    with pytest.raises(ssl.SSLError):
        shake([server()], [foreign])


def test_a_vault_is_not_taken_for_another():
    own = issuing.issue_server(CA, SERVER_KEY, OTHER, ["vault.example"], NOW)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"[Hh]ostname mismatch"):
        shake([own])


def test_a_machine_cannot_pass_for_the_vault_nor_the_vault_for_a_machine():
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        shake([MACHINE], server_key=KEY)
    own = issuing.issue_server(CA, KEY, VAULT, [], NOW)
    with pytest.raises(ssl.SSLError, match=r"(?i)unsupported.certificate|certificate.verify"):
        shake([server()], [own])


def test_a_machine_cannot_sign_for_others():
    fake = certificates.Issuer(KEY, MACHINE)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake([server(fake), MACHINE])
