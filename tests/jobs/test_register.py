"""A machine and its vault find each other again after every crash, lost answer and year."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from tests.net import far as served
from tests.net.far import HOUR, Far
from tests.net.relay import Relay
from transfer.crypto import certificates
from transfer.errors import (
    CredentialRefused,
    NameTaken,
    NotAuthorised,
    NotRegistered,
    Untrusted,
    UsageError,
    VaultUnavailable,
    WrongPassphrase,
)
from transfer.formats import credential as credential_format
from transfer.formats.credential import CredentialKind
from transfer.jobs.far import Reach, far_vault, registration_of
from transfer.jobs.keyring import Secret
from transfer.jobs.opening import open_agent
from transfer.jobs.register import register
from transfer.jobs.state import StateDirectory
from transfer.vault.open import open_vault, rebuild_catalog

PASSPHRASE = "a passphrase of enough characters"
DAY = 24 * HOUR


def secret(text=PASSPHRASE):
    return Secret(lambda _: text)


class Setup:
    """A vault, and machines that register with it; *top* holds their states."""

    def __init__(self, far, top):
        self.far, self.top = far, top
        self.reach = Reach(patience=0.0, clock=far.clock)

    def credential(self, kind=CredentialKind.REGISTER, machine=None, url=None):
        return self.far.registry.make_credential(kind, machine, 48 * HOUR, url or self.far.url)

    async def register(self, credential=None, state="state", name="here", passphrase=PASSPHRASE):
        chosen = credential or self.credential()
        return await register(self.top / state, chosen, secret(passphrase), name, self.reach)

    def open(self, state="state", passphrase=PASSPHRASE):
        return open_agent(self.top / state, None, secret(passphrase), reach=self.reach)

    def certificate(self, state="state"):
        found = registration_of(StateDirectory(self.top / state))
        return certificates.read(found.certificate)


@asynccontextmanager
async def registered(tmp_path, clock):
    """A machine and its vault; `requests` are what the server logs."""
    async with served.far_vault(tmp_path / "vault", clock) as far:
        made = Setup(far, tmp_path)
        await made.register()
        made.requests = far.requests
        yield made


@pytest.fixture
def setup(far, tmp_path):
    return Setup(far, tmp_path)


async def test_a_registered_machine_opens_its_vault_and_nobody_else_does(setup):
    done = await setup.register()
    async with setup.open() as agent:
        assert agent.machine.id.hex() == done.machine_id
        assert agent.domain.hex() == done.domain
        assert (await agent.list_points()).points == []
    with pytest.raises(WrongPassphrase):
        async with setup.open(passphrase="another passphrase altogether"):
            raise AssertionError
    with pytest.raises(NotRegistered):
        async with setup.open("another state"):
            raise AssertionError


async def test_what_is_kept_is_its_users_alone(setup):
    await setup.register()
    modes = {path.name: path.stat().st_mode & 0o777 for path in (setup.top / "state").iterdir()}
    assert modes.pop("registration.json") == 0o600
    assert "registering.json" not in modes
    assert repr(registration_of(StateDirectory(setup.top / "state"))).startswith("<registration")


async def test_a_machine_registers_once(setup):
    await setup.register()
    with pytest.raises(UsageError, match="registered with this vault already"):
        await setup.register()


async def test_a_credential_registers_many_machines_and_a_name_only_one(setup):
    made = setup.credential()
    first = await setup.register(made)
    second = await setup.register(made, "second state", "second")
    assert first.domain != second.domain
    with pytest.raises(NameTaken):
        await setup.register(made, "third state", "here")
    await setup.register(made, "third state", "third")  # goes on from where it was refused


async def test_credentials_that_are_not_good(setup):
    old = setup.credential()
    new = setup.credential()
    with pytest.raises(CredentialRefused, match="newer"):
        await setup.register(old)
    setup.far.clock.days(3)
    with pytest.raises(CredentialRefused, match="expired"):
        await setup.register(new)
    raw = bytearray(credential_format.encode(new))
    at = raw.index(b"register")
    raw[at] ^= 1
    with pytest.raises(CredentialRefused, match="edited"):
        credential_format.decode(bytes(raw))


async def test_a_credential_that_lies_about_its_vault_leads_nowhere(setup, tmp_path, clock):
    import msgspec

    made = setup.credential()
    foreign = msgspec.structs.replace(made, vault=b"v" * 16)
    with pytest.raises(Untrusted):
        await setup.register(foreign)


class PowerCut(BaseException):
    pass


async def crashes_at(monkeypatch, step, work):
    """Run *work* and stop at the *step*th thing that is written to the state; whether it was."""
    real, left = StateDirectory.write, [step]

    def write(self, name, document):
        if left[0] == 0:
            raise PowerCut
        left[0] -= 1
        real(self, name, document)

    monkeypatch.setattr(StateDirectory, "write", write)
    try:
        await work()
    except PowerCut:
        return True
    finally:
        monkeypatch.setattr(StateDirectory, "write", real)
    return False


async def test_a_crash_at_any_step_is_gone_on_from(setup, monkeypatch):
    for step in range(10):
        made, state = setup.credential(), f"state {step}"

        async def work(made=made, state=state, step=step):
            await setup.register(made, state, f"machine {step}")

        crashed = await crashes_at(monkeypatch, step, work)
        if not crashed:
            break
        await work()
        async with setup.open(state) as agent:
            assert agent.machine.name == f"machine {step}"
    assert step >= 2
    assert len(setup.far.registry.machines()) == step + 1


@pytest.fixture
async def relay(far, monkeypatch):
    running = await Relay(far.port).start()
    yield running
    await running.stop()


@pytest.mark.parametrize("answers", [0, 1, 2])
async def test_a_lost_answer_costs_another_try(setup, relay, answers):
    """The first answers are the handshake's: cut after more and more bytes from the vault."""
    made = setup.credential(url=f"https://127.0.0.1:{relay.port}")
    relay.cut_answer_after = 1 + 1400 * answers
    with pytest.raises(VaultUnavailable):
        await setup.register(made)
    relay.cut_answer_after = None
    with pytest.raises(WrongPassphrase):  # the keyring of the first try is the machine's
        await setup.register(made, passphrase="not what it was made with")
    done = await setup.register(made)
    assert [each.machine.hex() for each in setup.far.registry.machines()] == [done.machine_id]
    async with setup.open() as agent:
        assert agent.domain.hex() == done.domain


async def test_a_machine_that_lost_its_state_comes_back_as_itself(setup):
    before = await setup.register()
    made = setup.credential(CredentialKind.FOR, "here")
    with pytest.raises(WrongPassphrase):
        await setup.register(made, "new state", "whatever", "not that machine's passphrase")
    after = await setup.register(made, "new state", None)
    assert (after.machine_id, after.domain, after.machine) == (
        before.machine_id, before.domain, before.machine,
    )  # fmt: skip
    async with setup.open("new state") as agent:
        assert agent.machine.id.hex() == before.machine_id
    with pytest.raises(NotAuthorised, match="newer one is in use"):
        async with setup.open():
            raise AssertionError
    with pytest.raises(CredentialRefused):
        await setup.register(made, "a third state", None)


async def test_many_machines_come_back_at_once(setup):
    names = [f"machine {number}" for number in range(25)]
    for name in names:
        await setup.register(state=name, name=name)
    made = {name: setup.credential(CredentialKind.FOR, name) for name in names}
    # More than a vault takes of one address in a second: some are told to come back.
    setup.reach = Reach(patience=30.0, clock=setup.far.clock)
    done = await asyncio.gather(
        *(setup.register(made[name], f"new {name}", None) for name in names)
    )
    assert sorted(each.machine for each in done) == sorted(names)


async def test_a_reader_reads_and_cannot_write(setup):
    owner = await setup.register()
    made = setup.credential(CredentialKind.READ, "here")
    reader = await setup.register(made, "reader", "reader")
    assert reader.role == "reader"
    assert (reader.domain, reader.machine_id != owner.machine_id) == (owner.domain, True)
    async with setup.open("reader") as agent:
        await agent.vault.open_session(agent.domain, None)
        with pytest.raises(NotAuthorised):
            await agent.vault.open_session(agent.domain, b"i" * 16)
        with pytest.raises(NotAuthorised):
            await agent.vault.add_keyring(agent.domain, 2, b"whatever")


async def restarted(setup):
    """The server as it is after its machine was booted again, at the same port."""
    await setup.far.server.stop(grace=0.1)
    path, vault, id, clock = (
        getattr(setup.far, name) for name in ("path", "vault", "vault_id", "clock")
    )
    again = Far(path, vault, id, clock)
    setup.far.server = again.server
    await again.start(setup.far.port)


@asynccontextmanager
async def rebuilt(setup):
    """Served again after its vault had lost the catalog."""
    far = setup.far
    await far.server.stop(grace=0.1)
    await far.vault.close()
    for one in far.path.glob("catalog.sqlite*"):
        one.unlink()
    await rebuild_catalog(far.path)
    far.vault = await open_vault(far.path, clock=far.clock)
    try:
        await restarted(setup)
        yield
    finally:
        await far.vault.close()


async def test_who_was_turned_away_before_a_rebuild_is_turned_away_after_it(setup):
    """Nobody's right is in the catalog: revoked stays revoked, and what was used stays used."""
    await setup.register()
    await setup.register(state="thief", name="thief")
    for_here = setup.credential(CredentialKind.FOR, "here")
    await setup.register(for_here, "here again")
    to_read = setup.credential(CredentialKind.READ, "here")
    await setup.register(to_read, "reader", "reader")
    async with setup.open("here again"):
        pass
    setup.far.registry.revoke("thief")
    older = setup.credential()
    setup.credential()
    async with rebuilt(setup):
        for state, why in (("thief", "was revoked on"), ("state", "a newer one is in use")):
            with pytest.raises(NotAuthorised, match=why):
                async with setup.open(state):
                    raise AssertionError
        for made, why in ((for_here, "used"), (to_read, "used"), (older, "superseded")):
            with pytest.raises(CredentialRefused, match=why):
                await setup.register(made, made.id.hex(), "another")
        for state in ("here again", "reader"):
            async with setup.open(state):
                pass


async def test_five_years(setup, monkeypatch):
    """A machine that runs every three weeks, a server that is booted now and then, two new CAs."""
    await setup.register()
    seen = {setup.certificate().serial}
    for step in range(5 * 365 // 21):
        setup.far.clock.days(21)
        if step % 12 == 0:
            await restarted(setup)
        if step in (30, 60):
            setup.far.authority.renew()
        directory = StateDirectory(setup.top / "state")
        async with far_vault(directory, registration_of(directory), setup.reach) as (vault, _):
            assert (await vault.view()).name == "here"
        seen.add(setup.certificate().serial)
    assert 6 <= len(seen) <= 9
    assert len(registration_of(directory).authorities) == 3


async def test_who_was_away_for_long_may_renew_for_a_year(setup):
    await setup.register()
    await setup.register(state="other", name="other")
    setup.far.clock.days(365 + 30)
    await restarted(setup)
    async with setup.open():
        assert certificates.check_time(setup.certificate(), setup.far.clock(), "its") is None
    setup.far.clock.days(365 - 20)
    with pytest.raises(NotAuthorised, match=r"ended on .* clock says"):
        async with setup.open("other"):
            raise AssertionError


async def test_runs_that_renew_at_the_same_time_end_with_what_is_good(setup):
    await setup.register()
    setup.far.clock.days(250)

    async def opened():
        async with setup.open():
            pass

    for _ in range(3):
        await asyncio.gather(*(opened() for _ in range(4)))
        setup.far.clock.days(1)
    assert len(setup.far.registry.find("here").certificates) == 2


async def test_a_renewal_that_is_cut_off_at_any_step_is_gone_on_with(setup, monkeypatch):
    await setup.register()
    setup.far.clock.days(250)

    async def work():
        async with setup.open():
            pass

    for step in range(4):
        if not await crashes_at(monkeypatch, step, work):
            break
        setup.far.clock.days(1)
    assert step >= 2
    async with setup.open():
        assert not certificates.renewal_due(setup.certificate(), setup.far.clock())
