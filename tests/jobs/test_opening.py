"""A vault that loses or swaps a keyring is noticed before anything is sealed with another one."""

import shutil

import pytest

from tests.jobs.test_register import PASSPHRASE, Setup, secret
from tests.net.far import Far
from tests.vault.stored import flip
from transfer.crypto import certificates, issuing, wrap
from transfer.crypto.certificates import Identity, Role
from transfer.errors import IntegrityError, NotRegistered
from transfer.formats.record import CertificateState, IssuedCertificate, MachineRecord
from transfer.jobs import keyring as keyrings
from transfer.jobs.opening import open_agent
from transfer.vault.identities import Identities
from transfer.vault.objects import DirectoryObjects
from transfer.vault.open import open_vault, rebuild_catalog
from transfer.vault.registry import Registered


class Lying:
    """A vault that gives of its keyrings what *give* makes of them."""

    def __init__(self, vault, give):
        self._vault, self.give = vault, give

    def __getattr__(self, name):
        return getattr(self._vault, name)

    async def keyring(self, domain, version=None):
        raw = await self._vault.keyring(domain, version)
        return raw if raw is None else self.give(raw)


@pytest.fixture(autouse=True)
def quick_keyrings(monkeypatch):
    monkeypatch.setattr(wrap, "MEMORY", 19 * 1024)
    monkeypatch.setattr(wrap, "PASSES", 1)


def honest(raw):
    return raw


def lost(raw):
    return None


def anothers(raw):
    """Sound, and the passphrase opens it; but it does not hold the keys that were made here."""
    return keyrings.create(PASSPHRASE)


def cut(raw):
    return raw[:-1]


LIES = pytest.mark.parametrize("lie", [lost, anothers, cut])


@pytest.fixture
def near(tmp_path, monkeypatch):
    """Opens the vault in a directory; it may lie."""

    def near(give=honest):
        async def opened(path, **options):
            return Lying(await open_vault(path, **options), give)

        monkeypatch.setattr("transfer.vault.open.open_vault", opened)
        return open_agent(tmp_path / "state", tmp_path / "vault", secret(), create=True)

    return near


async def refused(opening, match):
    with pytest.raises(IntegrityError, match=match):
        async with opening:
            raise AssertionError


@LIES
async def test_a_near_vault_must_give_back_the_first_keyring(near, tmp_path, lie):
    await refused(near(lie), "gives back another keyring")
    assert list((tmp_path / "state" / "vaults").iterdir()) == []
    async with near() as agent:
        assert await agent.vault.domains() == [agent.domain]


@LIES
async def test_a_near_vault_must_still_have_the_keyring(near, lie):
    """And none is made in its place, though this run may make one."""
    async with near() as agent:
        domain = agent.domain
    await refused(near(lie), f"the keyring of domain {domain.hex()[:8]}: ")
    async with near() as agent:
        assert await agent.vault.domains() == [agent.domain] == [domain]


@pytest.fixture
async def far(tmp_path, clock):
    """A server; its `vault` may lie."""
    path = tmp_path / "vault"
    vault = Lying(await open_vault(path, create=True, clock=clock), honest)
    found = await Far(path, vault, (await vault.info()).vault, clock).start()
    yield found
    await found.server.stop(grace=1)
    await vault.close()


@pytest.fixture
def setup(far, tmp_path):
    return Setup(far, tmp_path)


@LIES
async def test_a_far_vault_must_give_back_the_first_keyring(far, setup, lie):
    """And if it comes to its senses, the same registration goes on."""
    made, far.vault.give = setup.credential(), lie
    with pytest.raises(IntegrityError, match="keyring"):
        await setup.register(made)
    await refused(setup.open(), "the keyring of domain")
    far.vault.give = honest
    done = await setup.register(made)
    async with setup.open() as agent:
        assert agent.domain.hex() == done.domain
        assert await far.vault.domains() == [agent.domain]


@LIES
async def test_a_far_vault_must_still_have_the_keyring(far, setup, lie):
    done = await setup.register()
    far.vault.give = lie
    await refused(setup.open(), f"the keyring of domain {done.domain[:8]}: ")
    far.vault.give = honest
    async with setup.open():
        pass


def into(far, domain):
    """A registration by a vault that puts the machine into this domain, whatever it brought."""

    def register(asked):
        identity = Identity(asked.machine, domain, Role.MACHINE)
        der = issuing.issue_machine(far.authority.issuer(), asked.csr, identity, far.clock())
        key, state = certificates.key_of(asked.csr), CertificateState.NEW
        record = MachineRecord(
            asked.machine, asked.name, domain, identity.role.value, far.clock(), None, None,
            asked.credential, (IssuedCertificate(der, key, 1, state),), None,
        )  # fmt: skip
        Identities(DirectoryObjects(far.path)).put_machine(record)
        return Registered(der, asked.machine, asked.name, domain, identity.role)

    return register


async def test_a_far_vault_must_not_put_a_new_machine_into_anothers_domain(far, setup, monkeypatch):
    """Where machines have one passphrase between them, that domain's keyring would open."""
    theirs = bytes.fromhex((await setup.register(state="theirs", name="theirs")).domain)
    with monkeypatch.context() as patched:
        patched.setattr(far.registry, "register", into(far, theirs))
        with pytest.raises(IntegrityError):
            await setup.register()
    with pytest.raises(NotRegistered):
        async with setup.open():
            raise AssertionError


async def test_a_keyring_that_was_damaged_before_a_rebuild_is_not_made_anew(near, tmp_path):
    """Not by a machine that lost its state, either: nobody would hear what is needed."""
    async with near() as agent:
        domain = agent.domain
    (record,) = (tmp_path / "vault" / "records" / "keyrings" / domain.hex()).iterdir()
    flip(record, -3)
    await rebuild_catalog(tmp_path / "vault")
    shutil.rmtree(tmp_path / "state")
    await refused(near(), f"the keyring of domain {domain.hex()[:8]}: keyring version 1: record")
    flip(record, -3)
    async with near() as agent:
        assert agent.domain == domain
