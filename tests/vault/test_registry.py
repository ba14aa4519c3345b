"""Machines register, renew, are recognised and revoked; who is nobody gets nothing."""

import fcntl
import hashlib
import threading

import pytest

from tests.vault.people import ADDRESS, DAY, HOUR, URL, FarVault, Machine, keyring_of
from tests.vault.stored import flip, records_of
from transfer.crypto import certificates, issuing, signing
from transfer.crypto.certificates import Role
from transfer.errors import (
    CredentialRefused,
    FormatError,
    NameTaken,
    NotAuthorised,
    NotFound,
    Refused,
    UsageError,
)
from transfer.formats import credential, record
from transfer.formats.credential import CredentialKind
from transfer.formats.record import MAX_CERTIFICATES, CertificateState
from transfer.vault import admission
from transfer.vault.open import open_vault, rebuild_catalog, verify_vault
from transfer.vault.registry import Registry

FOR, READ, REGISTER = CredentialKind.FOR, CredentialKind.READ, CredentialKind.REGISTER
USED, NEW, REVOKED = CertificateState.USED, CertificateState.NEW, CertificateState.REVOKED


@pytest.fixture
def far(path, clock):
    return FarVault(path, clock)


@pytest.fixture
def registry(far):
    return far.registry


def states(registry, name):
    return [one.state for one in registry.find(name).certificates]


# Registration.


def test_a_machine_registers_and_is_recognised(far, registry, clock):
    machine = Machine("db1")
    given = far.credential()
    answer = machine.register(registry, given)
    assert (answer.machine, answer.name, answer.domain, answer.role) == (
        machine.id, "db1", machine.domain, Role.MACHINE,
    )  # fmt: skip
    assert certificates.identity_of(machine.certificate) == (machine.id, machine.domain, "machine")
    clock.now += 5
    found = machine.call(registry)
    assert (found.machine, found.name, found.role) == (machine.id, "db1", "machine")
    assert (found.registered, found.last_used) == (clock.now - 5, clock.now)
    assert (found.last_address, found.credential) == (ADDRESS, given.id)
    assert registry.machines() == [found]


def test_a_credential_says_all_that_a_machine_needs(far, clock):
    given = far.credential()
    assert (given.vault, given.url, given.kind, given.machine) == (b"v" * 16, URL, REGISTER, None)
    assert given.cas == tuple(far.authority.trusted())
    assert given.expires == clock.now + 48 * HOUR
    assert credential.decode(credential.encode(given), clock.now) == given


def test_the_vault_keeps_no_secret_of_a_credential(far, path):
    given = far.credential()
    for file in (path / "records").rglob("*"):
        if file.is_file():
            assert given.secret not in file.read_bytes()
            assert credential.encode(given).split(b'"secret": "')[1][:40] not in file.read_bytes()
            assert file.stat().st_mode & 0o777 == 0o600
    assert given.secret.hex() not in repr(given) + str(given)
    assert repr(given.secret) not in repr(Machine("x").registration(given))


def test_one_credential_registers_many_machines_each_with_a_domain_of_its_own(far, registry):
    given = far.credential()
    machines = [Machine(f"machine {number}") for number in range(5)]
    for machine in machines:
        machine.register(registry, given)
    assert len({machine.call(registry).domain for machine in machines}) == 5
    assert [one.name for one in registry.machines()] == [one.name for one in machines]


def test_whoever_repeats_a_call_gets_the_same_certificate_until_the_credential_expires(
    far, registry, clock
):
    machine, given = Machine("db1"), far.credential()
    first = machine.register(registry, given)
    clock.now += 48 * HOUR
    assert machine.register(registry, given) == first
    machine.call(registry)
    assert machine.register(registry, given) == first
    clock.now += 1
    for call in (registry.examine, registry.register):
        with pytest.raises(CredentialRefused, match=r"expired at .*clock says"):
            call(machine.registration(given))


def test_examining_writes_nothing(far, registry, path):
    def content():
        return {file: file.read_bytes() for file in (path / "records").rglob("*") if file.is_file()}

    db1 = far.registered("db1")
    for given in (far.credential(), far.credential(READ, "db1"), far.credential(FOR, "db1")):
        other = Machine("other")
        before = content()
        registry.examine(other.registration(given))
        assert content() == before
    assert registry.machines() == [registry.find(db1.name)]


def test_an_unknown_credential_and_a_wrong_secret_give_the_same_answer(far, registry):
    given = far.credential()
    answers = []
    for changed in ({"secret": bytes(32)}, {"credential": bytes(16)}, {"secret": b""}):
        with pytest.raises(CredentialRefused, match="does not know") as refused:
            registry.register(Machine("db1").registration(given)._replace(**changed))
        answers.append((refused.value.message, refused.value.hint))
    assert len(set(answers)) == 1


def test_a_newer_credential_of_the_scope_makes_the_older_one_void(far, registry):
    far.registered("db1")
    far.registered("db2")
    old, others = far.credential(), [far.credential(FOR, "db1"), far.credential(READ, "db1")]
    for kind, machine in ((FOR, "db2"), (READ, "db2")):
        others.append(far.credential(kind, machine))
    new = far.credential()
    with pytest.raises(CredentialRefused, match="superseded"):
        registry.examine(Machine("x").registration(old))
    for given in (new, *others):
        registry.examine(Machine("x").registration(given))
    far.credential(FOR, "db1")
    with pytest.raises(CredentialRefused, match="superseded"):
        registry.examine(Machine("x").registration(others[0]))
    for given in (new, *others[1:]):
        registry.examine(Machine("x").registration(given))


def test_a_name_belongs_to_one_living_machine(far, registry):
    first = far.registered("db1")
    other = Machine("other")
    other.name = "db1"
    for given in (far.credential(), far.credential(READ, "db1")):
        with pytest.raises(NameTaken):
            registry.examine(other.registration(given))
    registry.revoke("db1")
    other.register(registry, far.credential())
    assert registry.find("db1").machine == other.id
    assert registry.find(first.id.hex()).machine == first.id
    assert len(registry.machines()) == 2


@pytest.mark.parametrize("name", ["", "a/b", "a@b", "a\nb", "x" * 65, "\u202e"])
def test_a_name_that_is_none_is_refused(far, registry, name):
    machine = Machine("x")
    machine.name = name
    with pytest.raises(UsageError, match="no machine name"):
        registry.examine(machine.registration(far.credential()))


def test_a_known_machine_needs_a_credential_of_its_own_for_another_key(far, registry):
    machine = far.registered("db1")
    machine.new_request()
    with pytest.raises(CredentialRefused, match="another key") as refused:
        registry.register(machine.registration(far.credential()))
    assert "--for db1" in refused.value.hint


@pytest.mark.parametrize("revoked", [False, True])
def test_a_domain_is_one_machines_own(far, registry, revoked):
    far.registered("db1")
    if revoked:
        registry.revoke("db1")
    copied = Machine("db1")
    copied.id, copied.name = b"other machine ID", "other"
    with pytest.raises(CredentialRefused, match="domain belongs to another"):
        registry.examine(copied.registration(far.credential()))


@pytest.mark.parametrize(
    "change",
    ["another's key", "another credential", "another machine", "another request", "no signature"],
)
def test_who_has_not_the_domains_key_cannot_register_its_keyring(far, registry, change):
    """A keyring is no secret: it lies in the vault, and with everyone who had a copy of it."""
    machine, given = Machine("db1"), far.credential()
    good = machine.registration(given)
    key, parts = machine.signing_key, [given.vault, given.id, machine.id, machine.csr]
    if change == "another's key":
        key = keyring_of("thief")[1]
    elif change == "another credential":
        parts[1] = bytes(16)
    elif change == "another machine":
        parts[2] = bytes(16)
    elif change == "another request":
        parts[3] = Machine("x").csr
    forged = bytes(64) if change == "no signature" else None
    forged = forged or signing.sign(key, credential.proof_message(*parts))
    with pytest.raises(CredentialRefused, match="proves"):
        registry.register(good._replace(proof=forged))
    registry.register(good)


def test_a_keyring_that_is_none_is_refused(far, registry):
    asked = Machine("db1").registration(far.credential())
    forged = bytearray(asked.keyring)
    forged[-1] ^= 1
    with pytest.raises(Refused, match="signature"):
        registry.register(asked._replace(keyring=bytes(forged)))
    for changes in ({"keyring": None}, {"proof": None}, {"keyring": b"x"}, {"csr": b"x"}):
        with pytest.raises(FormatError):
            registry.register(asked._replace(**changes))
    assert registry.machines() == []


def test_a_machine_id_has_16_bytes(far, registry):
    machine = Machine("db1")
    for machine.id in (b"", b"m" * 15, b"m" * 17):
        with pytest.raises(FormatError, match="it has 16"):
            registry.register(machine.registration(far.credential()))


def test_a_vault_takes_a_limited_number_of_machines(far, registry, monkeypatch):
    monkeypatch.setattr(admission, "MAX_MACHINES", 2)
    one = far.registered("one")
    far.registered("two")
    with pytest.raises(Refused, match="takes no more"):
        far.registered("three")
    assert one.call(registry).name == "one"


# A machine that was lost, and readers.


def test_a_lost_machine_comes_back_as_itself_and_its_old_certificate_dies_at_first_use(
    far, registry
):
    lost = far.registered("db1")
    lost.call(registry)
    thief = lost.stolen()
    back = Machine("new hardware")
    old_id = back.id
    given = far.credential(FOR, "db1")
    answer = back.register(registry, given)
    assert (back.id, back.name, back.domain) == (lost.id, "db1", lost.domain)
    assert back.id != old_id
    assert states(registry, "db1") == [USED, NEW]
    thief.call(registry)  # the answer may have been lost
    assert back.register(registry, given) == answer
    back.call(registry)
    assert states(registry, "db1") == [REVOKED, USED]
    with pytest.raises(NotAuthorised, match="newer one is in use"):
        thief.call(registry)
    with pytest.raises(NotAuthorised):
        registry.renew(thief.certificate, thief.csr)
    assert back.register(registry, given) == answer
    assert [one.name for one in registry.machines()] == ["db1"]


def test_a_thiefs_renewals_do_not_outlive_the_machine_that_comes_back(far, registry):
    lost = far.registered("db1")
    lost.call(registry)
    thief = lost.stolen()
    back = Machine("x")
    back.register(registry, far.credential(FOR, "db1"))
    thief.renew(registry)
    thief.call(registry)
    thief.renew(registry)  # issued last, and never used
    assert back.call(registry).name == "db1"
    with pytest.raises(NotAuthorised, match="newer one is in use"):
        thief.call(registry)
    assert states(registry, "db1") == [REVOKED, USED, REVOKED, REVOKED]


def test_a_credential_gives_no_certificate_that_was_revoked(far, registry):
    far.registered("db1")
    back, given = Machine("x"), far.credential(FOR, "db1")
    back.register(registry, given)
    first = back.csr
    back.renew(registry)
    back.call(registry)
    back.csr = first
    with pytest.raises(CredentialRefused, match="certificate of this credential was revoked"):
        back.register(registry, given)


def test_a_machine_that_kept_its_key_gets_a_new_certificate_all_the_same(far, registry):
    """Its old one may be a thief's as well, and dies with the first use of the new one."""
    lost, back = far.registered("db1"), Machine("x")
    lost.call(registry)
    back.csr = lost.csr
    back.register(registry, far.credential(FOR, "db1"))
    back.call(registry)
    with pytest.raises(NotAuthorised):
        lost.call(registry)


def test_forty_lost_machines_come_back_at_once(far, registry):
    names = [f"db{number:02}" for number in range(40)]
    ordinary = far.credential()
    for name in names:
        Machine(name).register(registry, ordinary)
    given = [far.credential(FOR, name) for name in names]
    back = [Machine(f"new {name}") for name in names]

    def register(at):
        registries = Registry(far.path, far.authority, far.clock)  # as in another process
        back[at].register(registries, given[at])
        back[at].call(registries)

    threads = [threading.Thread(target=register, args=(at,)) for at in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [machine.name for machine in back] == names
    assert all(states(registry, name) == [REVOKED, USED] for name in names)


@pytest.mark.parametrize("kind", [FOR, READ])
def test_a_credential_for_a_machine_is_good_for_one_key(far, registry, kind):
    far.registered("db1")
    given = far.credential(kind, "db1")
    first, second = Machine("first"), Machine("second")
    answer = first.register(registry, given)
    first.id = Machine("first").id
    second.name = "first"
    with pytest.raises(CredentialRefused, match="used before"):
        second.register(registry, given)
    second.csr = first.csr  # who holds the request, but is another machine
    if kind is READ:
        with pytest.raises(CredentialRefused, match="used before"):
            second.register(registry, given)
    assert first.register(registry, given) == answer


def test_a_reader_is_a_machine_of_its_own_in_the_others_domain(far, registry):
    db1, reader = far.registered("db1"), Machine("reader")
    answer = reader.register(registry, far.credential(READ, "db1"))
    assert (answer.machine, answer.name) == (Machine("reader").id, "reader")
    assert (answer.domain, answer.role) == (db1.domain, Role.READER)
    assert certificates.identity_of(reader.certificate).role is Role.READER
    assert reader.call(registry).role == "reader"
    reader.renew(registry)
    assert certificates.identity_of(reader.certificate).role is Role.READER
    db1.call(registry)


@pytest.mark.parametrize("kind", [FOR, READ])
def test_who_joins_a_domain_brings_no_keyring(far, registry, kind):
    far.registered("db1")
    asked = Machine("other").registration(far.credential(kind, "db1"))
    raw = Machine("other").keyring
    for changes in ({"keyring": raw}, {"proof": bytes(64)}, {"keyring": b""}):
        with pytest.raises(FormatError, match="brings no keyring"):
            registry.examine(asked._replace(**changes))
    registry.register(asked)


def test_a_revoked_machine_does_not_come_back_but_can_be_read(far, registry):
    db1 = far.registered("db1")
    given, ordinary = far.credential(FOR, "db1"), far.credential()
    registry.revoke("db1")
    with pytest.raises(NotAuthorised, match="was revoked"):
        far.credential(FOR, "db1")
    for one in (given, ordinary):
        with pytest.raises(CredentialRefused, match="was revoked"):
            registry.examine(db1.registration(one))
    reader = Machine("reader")
    reader.register(registry, far.credential(READ, "db1"))
    assert reader.call(registry).domain == db1.domain


def test_a_machine_is_named_by_name_or_id_and_never_guessed(far, registry):
    db1 = far.registered("db1")
    assert registry.find("db1") == registry.find(db1.id.hex())
    with pytest.raises(NotFound, match="no machine db2"):
        far.credential(FOR, "db2")
    for _ in range(2):
        registry.revoke("db1")
        again = Machine("x")
        again.name, again.id = "db1", hashlib.sha256(b"%d" % len(registry.machines())).digest()[:16]
        again.keyring, again.signing_key = keyring_of(again.id.hex())
        again.register(registry, far.credential())
    registry.revoke("db1")
    with pytest.raises(NotFound, match="several"):
        far.credential(READ, "db1")
    far.credential(READ, db1.id.hex())


def test_an_id_is_never_taken_by_who_calls_itself_so(far, registry):
    db1 = far.registered("db1")
    far.registered(db1.id.hex())
    assert registry.find(db1.id.hex()).machine == db1.id


# Certificates.


def test_a_new_certificate_is_the_same_for_the_same_key(far, registry):
    machine = far.registered("db1")
    machine.call(registry)
    old = machine.certificate
    machine.new_request()
    first = registry.renew(old, machine.csr)
    assert registry.renew(old, machine.csr) == first != old.der
    registry.authorise(old, ADDRESS)
    new = certificates.read(first)
    registry.authorise(new, ADDRESS)
    assert states(registry, "db1") == [REVOKED, USED]
    with pytest.raises(NotAuthorised):
        registry.authorise(old, ADDRESS)


def test_a_machine_that_keeps_its_key_is_renewed_when_that_is_due(far, registry, clock):
    machine = far.registered("db1")
    machine.call(registry)
    old = machine.certificate
    assert registry.renew(old, machine.csr) == old.der
    clock.days(250)
    assert registry.renew(old, machine.csr) != old.der


def test_a_key_of_before_a_registration_gets_no_certificate_of_before_it(far, registry):
    lost, back = far.registered("db1"), Machine("x")
    back.register(registry, far.credential(FOR, "db1"))
    again = certificates.read(registry.renew(back.certificate, lost.csr))
    assert again != lost.certificate
    back.call(registry)
    registry.authorise(again, ADDRESS)


def test_many_renewals_push_out_what_is_worth_least(far, registry):
    machine = far.registered("db1")
    machine.call(registry)
    back = Machine("x")
    back.register(registry, far.credential(FOR, "db1"))
    for _ in range(3 * MAX_CERTIFICATES):
        machine.new_request()
        last = registry.renew(machine.certificate, machine.csr)
    assert len(registry.find("db1").certificates) == MAX_CERTIFICATES
    machine.call(registry)
    registry.authorise(certificates.read(last), ADDRESS)
    back.call(registry)
    for _ in range(3 * MAX_CERTIFICATES):
        back.renew(registry)
        back.call(registry)
    assert len(registry.find("db1").certificates) == MAX_CERTIFICATES


def test_a_certificate_of_before_the_vaults_clock_names_both_clocks(far, registry, clock):
    machine = far.registered("db1")
    clock.now -= 24 * HOUR
    machine.call(registry)  # another time zone
    clock.now -= 2 * HOUR
    with pytest.raises(NotAuthorised, match=r"not valid before 2023-11-13T21:13:20Z; .* says 2023"):
        machine.call(registry)


def test_who_has_ended_may_only_renew_and_only_for_a_year(far, registry, clock):
    machine = far.registered("db1")
    machine.call(registry)
    clock.days(366)
    with pytest.raises(NotAuthorised, match="ended on 2024-11-13"):
        machine.call(registry)
    machine.call(registry, renewing=True)
    clock.days(365)
    for call in (lambda: machine.call(registry, renewing=True), lambda: machine.renew(registry)):
        with pytest.raises(NotAuthorised, match="ended on"):
            call()


def test_another_certificate_with_a_machines_name_is_unknown(far, registry, clock):
    """Signed by the vault's own authority, and not by way of the registry: a stolen CA key."""
    machine = far.registered("db1")
    issuer, identity = far.authority.issuer(), certificates.identity_of(machine.certificate)
    for changed in (identity, identity._replace(machine=b"m" * 16)):
        forged = issuing.issue_machine(issuer, machine.csr, changed, clock())
        with pytest.raises(NotAuthorised, match="does not know"):
            registry.authorise(certificates.read(forged), ADDRESS)


def test_a_servers_certificate_is_no_machines(far, registry):
    own = certificates.read(far.authority.server([]).chain[0])
    with pytest.raises(NotAuthorised, match="not a machine's certificate"):
        registry.authorise(own, ADDRESS)


def test_last_use_is_noted_once_an_hour_and_new_addresses_with_it(far, registry, clock, path):
    machine = far.registered("db1")
    machine.call(registry)
    (file,) = (path / "records" / "machines").iterdir()
    first = file.stat().st_ino, file.stat().st_mtime_ns
    clock.now += HOUR - 1
    registry.authorise(machine.certificate, "other")
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == first
    clock.now += 1
    assert registry.authorise(machine.certificate, "o" * 99).last_address == "o" * 64
    assert registry.find("db1").last_used == clock.now


def test_a_last_use_that_the_clock_has_not_reached_is_noted_again(far, registry, clock):
    machine = far.registered("db1")
    machine.call(registry)
    clock.now -= 5
    assert machine.call(registry).last_used == clock.now


# Revocation.


def test_a_revoked_machine_is_answered_no_more_whoever_asks(far, registry, clock):
    machine, beside = far.registered("db1"), Registry(far.path, far.authority, far.clock)
    machine.call(registry)
    revoked = beside.revoke("db1")
    assert revoked.revoked == clock.now
    clock.now += 5
    assert beside.revoke("db1") == beside.revoke(machine.id.hex()) == revoked
    for renewing in (False, True):
        with pytest.raises(NotAuthorised, match="db1 was revoked on 2023"):
            machine.call(registry, renewing)
    with pytest.raises(NotAuthorised, match="revoked"):
        registry.renew(machine.certificate, machine.csr)
    with pytest.raises(NotFound):
        registry.revoke("db2")


# Damage.


def test_a_damaged_machine_is_told_where_to_look_and_others_work(far, registry, path):
    machine, other = far.registered("db1"), far.registered("db2")
    file = path / "records" / "machines" / machine.id.hex()
    good = file.read_bytes()
    file.write_bytes(good[:-1] + b"x")
    for call in (machine.call, machine.renew):
        with pytest.raises(NotAuthorised) as refused:
            call(registry)
        assert machine.id.hex() in refused.value.message
        assert "transfer vault verify" in refused.value.hint
    assert other.call(registry).name == "db2"
    assert [one.name for one in registry.machines()] == ["db2"]
    (named,) = registry.damaged()
    assert machine.id.hex() in named
    with pytest.raises(CredentialRefused, match="cannot read"):
        registry.examine(machine.registration(far.credential()))
    file.write_bytes(good)
    machine.call(registry)
    assert registry.damaged() == []


def test_a_record_under_another_ones_name_is_damage(far, registry, path):
    machine, other = far.registered("db1"), far.registered("db2")
    records = path / "records" / "machines"
    (records / other.id.hex()).write_bytes((records / machine.id.hex()).read_bytes())
    with pytest.raises(NotAuthorised, match="another name"):
        other.call(registry)


def test_a_damaged_credential_voids_older_ones_until_a_new_one_is_made(far, registry, path):
    """It may be what superseded them."""
    first = far.credential()
    second = far.credential()
    (file,) = (path / "records" / "credentials").glob(f"*-{second.id.hex()}")
    file.write_bytes(b"gone")
    for given in (first, second):
        with pytest.raises(CredentialRefused, match="cannot read"):
            registry.examine(Machine("db1").registration(given))
    Machine("db1").register(registry, far.credential())
    with pytest.raises(CredentialRefused):
        registry.examine(Machine("db2").registration(first))


def test_numbers_grow_even_if_all_records_of_credentials_are_lost(far, registry, path):
    lost = far.registered("db1")
    for _ in range(3):
        back = Machine("x")
        back.register(registry, far.credential(FOR, "db1"))
        back.call(registry)
    thief = back.stolen()
    for file in (path / "records" / "credentials").iterdir():
        file.unlink()
    again = Machine("y")
    again.register(registry, far.credential(FOR, "db1"))
    again.call(registry)
    with pytest.raises(NotAuthorised):
        thief.call(registry)
    with pytest.raises(NotAuthorised):
        lost.call(registry)


def test_one_who_changes_anything_waits_for_others_who_do(far, registry, path):
    far.credential()
    with (path / "registry.lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        other = threading.Thread(target=far.credential)
        other.start()
        other.join(0.1)
        assert other.is_alive()
    other.join()
    assert len(list((path / "records" / "credentials").iterdir())) == 2


def test_a_credential_that_has_expired_says_so_for_90_days(far, registry, clock):
    given = far.credential()
    clock.days(91)
    far.credential()
    with pytest.raises(CredentialRefused, match="expired"):
        registry.examine(Machine("x").registration(given))
    clock.days(2)
    far.credential()
    with pytest.raises(CredentialRefused, match="does not know"):
        registry.examine(Machine("x").registration(given))


def test_old_credentials_are_forgotten_but_for_the_newest_of_each_scope(far, registry, clock, path):
    far.registered("db1")
    long = far.credential(FOR, "db1", valid=10 * 365 * DAY)
    short = far.credential(FOR, "db1")
    for _ in range(4):
        far.credential()
    clock.days(93)
    assert len(list((path / "records" / "credentials").iterdir())) == 7
    last = far.credential()
    kept = {record.decode_credential(file.read_bytes()).id
            for file in (path / "records" / "credentials").iterdir()}  # fmt: skip
    assert kept == {long.id, short.id, last.id}
    with pytest.raises(CredentialRefused, match="superseded"):
        registry.examine(Machine("x").registration(long))


async def test_a_rebuild_and_a_lost_catalog_keep_all_who_are_registered(path, clock):
    await (await open_vault(path, create=True)).close()
    far = FarVault(path, clock)
    machine, given = far.registered("db1"), far.credential(FOR, "db1")
    known = far.registry.machines()
    for one in path.glob("catalog.sqlite*"):
        one.unlink()
    await rebuild_catalog(path)
    again = FarVault(path, clock)
    assert again.registry.machines() == known
    machine.call(again.registry)
    Machine("x").register(again.registry, given)
    assert (await verify_vault(path)).damaged == []


async def test_verify_names_every_damaged_record_of_machines_and_credentials(path, clock):
    await (await open_vault(path, create=True)).close()
    far = FarVault(path, clock)
    far.registered("db1")
    files = [file for kind in ("machines", "credentials") for file in records_of(path, kind)]
    assert len(files) == 2
    for file in files:
        flip(file, 40)
    report = await verify_vault(path)
    places = sorted(one.place for one in report.damaged)
    assert places == sorted(str(file.relative_to(path / "records")) for file in files)
