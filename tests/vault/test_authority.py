"""The CA's files, and five years of a vault whose machines come and go."""

import os
import shutil
import threading

import pytest

from tests.vault.people import DAY, VAULT, FarVault
from tests.vault.stored import flip
from transfer.crypto import certificates
from transfer.crypto.issuing import MAX_HOSTS
from transfer.errors import DamagedData, NotAuthorised, UsageError, VaultUnavailable
from transfer.vault import authority as module
from transfer.vault.authority import Authority

YEAR = 365 * DAY


@pytest.fixture
def far(path, clock):
    return FarVault(path, clock)


@pytest.fixture
def authority(far):
    return far.authority


def files(path):
    return sorted(one.name for one in (path / "ca").iterdir())


def test_a_ca_is_made_when_it_is_first_needed_and_stays(authority, path, clock):
    assert authority.hosts() == []
    assert not (path / "ca").exists()
    first = authority.issuer()
    assert Authority(path, VAULT, clock).issuer() == first == authority.issuer()
    assert authority.trusted() == [first.certificate]
    assert authority.announced() == []
    assert files(path) == ["0001", "lock"]


def test_only_the_owner_reads_the_cas_files(authority, path):
    authority.server([])
    authority.set_hosts(["a"])
    assert (path / "ca").stat().st_mode & 0o777 == 0o700
    for file in (path / "ca").iterdir():
        assert file.stat().st_mode & 0o777 == 0o600
    os.chmod(path / "ca", 0o755)
    authority.renew()
    assert (path / "ca").stat().st_mode & 0o777 == 0o700


def test_no_key_is_shown(authority):
    key = authority.server([]).key
    for one in (authority.server([]), authority.issuer()):
        assert repr(one).startswith("<") and repr(key)[2:20] not in repr(one)


def test_many_who_need_the_first_ca_at_once_get_the_same(path, clock):
    path.mkdir()
    found = []

    def ask():
        found.append(Authority(path, VAULT, clock).issuer())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and len(found) == 8


def test_a_lost_ca_is_never_replaced_while_there_are_machines_unless_one_asks_for_it(far, path):
    far.registered("db1")
    shutil.rmtree(path / "ca")
    for need in (far.authority.issuer, far.authority.trusted, lambda: far.authority.server([])):
        with pytest.raises(DamagedData, match="has machines"):
            need()
    far.authority.renew()
    assert far.authority.issuer()


def test_a_successor_signs_from_then_on_and_the_old_one_vouches_for_it(authority, clock):
    old = authority.issuer()
    new = authority.renew()
    assert authority.issuer().certificate == new
    assert authority.trusted() == [new, old.certificate]
    ((announced, cross),) = authority.announced()
    assert announced == new
    assert certificates.accepted([old.certificate], [(new, cross)], clock()) == [
        old.certificate, new,
    ]  # fmt: skip
    third = authority.renew()
    assert authority.trusted() == [third, new, old.certificate]
    assert [one[0] for one in authority.announced()] == [new, third]


def test_a_ca_at_two_thirds_of_its_life_gets_a_successor_and_an_ended_one_is_trusted_no_more(
    authority, clock
):
    first = authority.issuer()
    clock.now += 20 * YEAR - DAY
    assert authority.issuer() == first
    clock.now += 2 * DAY
    second = authority.issuer()
    assert authority.trusted() == [second.certificate, first.certificate]
    clock.now += 10 * YEAR
    assert authority.trusted() == [second.certificate]
    clock.now += 100 * YEAR  # nobody asked for a lifetime
    third = authority.issuer().certificate
    assert authority.trusted() == [third]
    assert certificates.accepted([second.certificate], authority.announced(), clock()) == [
        second.certificate
    ]


def test_a_servers_certificate_stays_until_it_is_due_or_for_other_hosts(authority, clock):
    first = authority.server(["b.example", "192.0.2.7"])
    assert authority.server(["192.0.2.7", "b.example", "b.example"]) == first
    other = authority.server(["b.example"])
    assert other.key != first.key and other.chain != first.chain
    clock.days(240)
    assert authority.server(["b.example"]) == other
    clock.days(5)
    due = authority.server(["b.example"])
    assert certificates.read(due.chain[0]).ends > clock() + YEAR - 2 * DAY
    authority.renew()
    renewed = authority.server(["b.example"])
    assert len(renewed.chain) == 2 and len(due.chain) == 1
    assert renewed.chain[1] == authority.announced()[0][1]
    authority.renew()
    crosses = [cross for _, cross in authority.announced()]
    assert authority.server([]).chain[1:] == crosses[::-1]


def test_hosts_are_kept_and_replaced(authority):
    authority.set_hosts(["b", "a", "b"])
    assert authority.hosts() == ["a", "b"]
    authority.set_hosts([])
    assert authority.hosts() == []


@pytest.mark.parametrize("host", ["", "a b", "a/b", "-a", "a:1", "*", "é", "a..b", "a" * 64])
def test_a_host_that_is_none_is_refused(authority, host):
    for use in (authority.set_hosts, authority.server):
        with pytest.raises(UsageError, match="no host name"):
            use(["good", host])
    assert authority.hosts() == []


def test_a_limited_number_of_hosts_fits(authority):
    hosts = [f"{number:03}." + ".".join("x" * 63 for _ in range(3)) for number in range(MAX_HOSTS)]
    authority.set_hosts(hosts)
    assert certificates.read(authority.server(authority.hosts()).chain[0])
    with pytest.raises(UsageError, match="at most 16"):
        authority.set_hosts([*hosts, "one.more"])


# Damage.


def test_a_damaged_ca_is_named_and_never_replaced(authority, path):
    authority.issuer()
    authority.renew()
    kept = (path / "ca" / "0001").read_bytes()
    for change in (b"", kept[:-9], b"{}", kept.replace(b'"check":', b'"check":1')):
        (path / "ca" / "0001").write_bytes(change)
        for call in (
            authority.issuer,
            authority.trusted,
            authority.renew,
            lambda: authority.server([]),
        ):
            with pytest.raises(DamagedData) as damaged:
                call()
            assert str(path / "ca" / "0001") in damaged.value.message
            assert "put" in damaged.value.hint
    (path / "ca" / "0001").unlink()
    with pytest.raises(DamagedData, match="missing"):
        authority.issuer()
    assert files(path) == ["0002", "lock"]
    (path / "ca" / "0001").write_bytes(kept)
    assert len(authority.trusted()) == 2


def test_every_flipped_bit_of_a_ca_is_noticed(authority, path):
    authority.issuer()
    file = path / "ca" / "0001"
    for bit in range(0, 8 * file.stat().st_size, 7):
        flip(file, bit // 8, 1 << bit % 8)
        with pytest.raises(DamagedData):
            authority.issuer()
        flip(file, bit // 8, 1 << bit % 8)


def test_a_damaged_server_certificate_is_made_again(authority, path):
    before = authority.server([])
    (path / "ca" / "server").write_bytes(b"{}")
    assert authority.server([]).chain != before.chain


@pytest.mark.parametrize("nth", range(4))
def test_a_write_that_fails_leaves_what_was_there(authority, path, monkeypatch, nth):
    """The disk fails at the nth of: CA, server, hosts, successor; then it works again."""
    real, calls = module.write_durably, []

    def write(where, raw):
        calls.append(where.name)
        if len(calls) == nth + 1:
            raise OSError(5, "I/O error", str(where))
        real(where, raw)

    monkeypatch.setattr(module, "write_durably", write)
    steps = (authority.issuer, lambda: authority.server([]), lambda: authority.set_hosts(["a"]),
             authority.renew)  # fmt: skip
    for at, step in enumerate(steps):
        before = files(path) if at else []
        if at == nth:
            with pytest.raises(VaultUnavailable):
                step()
            assert set(files(path)) - {"lock"} == set(before) - {"lock"}
        step()
    assert files(path) == ["0001", "0002", "hosts", "lock", "server"]


# Five years.


def test_five_years_of_machines_servers_and_a_new_ca(far, clock):
    """Every day a machine calls, and renews at two thirds; laptops are off for 13 and 25 months."""
    registry, authority = far.registry, far.authority
    daily = far.registered("daily")
    laptop, forgotten = far.registered("laptop"), far.registered("forgotten")
    for machine in (daily, laptop, forgotten):
        machine.call(registry)
    pinned = authority.trusted()
    servers, renewals, cas = [], 0, set(pinned)
    for day in range(5 * 365):
        clock.days(1)
        if day == 900:
            authority.renew()
        server = authority.server(["vault.example"])
        certificates.check_time(certificates.read(server.chain[0]), clock(), "the vault's")
        if not servers or servers[-1] != server:
            servers.append(server)
        pinned = certificates.accepted(pinned, authority.announced(), clock())
        daily.call(registry)
        if certificates.renewal_due(daily.certificate, clock()):
            daily.renew(registry)
            daily.call(registry)
            renewals += 1
        if day == 396:  # 13 months
            with pytest.raises(NotAuthorised, match="ended"):
                laptop.call(registry)
            laptop.renew(registry)
            laptop.call(registry)
        if day == 760:  # 25 months: more than a year after its end
            with pytest.raises(NotAuthorised, match="ended"):
                forgotten.renew(registry)
        cas.update(pinned)
    assert len(cas) == 2 and pinned == authority.trusted()[::-1]
    assert renewals == 7
    assert 8 <= len(servers) <= 9  # one more for the new CA
    found = registry.find("daily")
    assert [one.state for one in found.certificates] == ["revoked"] * 7 + ["used"]


def test_a_ca_that_ends_takes_no_machine_with_it(far, clock):
    """Forty years: the first CA ends, its machines have long been signed by the next."""
    machine = far.registered("db1")
    machine.call(far.registry)
    first = far.authority.issuer()
    for _ in range(60):
        clock.days(244)
        machine.call(far.registry)
        machine.renew(far.registry)
        machine.call(far.registry)
        ends = [certificates.read(one).ends for one in far.authority.trusted()]
        assert machine.certificate.ends <= max(ends)
        assert machine.certificate.ends - clock() > 364 * DAY
    assert far.authority.trusted() != [first.certificate]
