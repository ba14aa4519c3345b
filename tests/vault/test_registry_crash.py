"""Whatever write of a registration is the last: whoever calls again gets on, and nobody else."""

import asyncio
import errno
import os
import shutil

import pytest

from tests.vault.disk import Disk
from tests.vault.people import FarVault, Machine
from transfer.crypto import certificates
from transfer.errors import CredentialRefused, NotAuthorised, NotStored
from transfer.formats.credential import CredentialKind
from transfer.formats.record import CertificateState
from transfer.vault.objects import DirectoryObjects
from transfer.vault.open import open_vault

FOR, READ = CredentialKind.FOR, CredentialKind.READ


class Life:
    """All that a machine, its replacement and its reader do, each step told when it was answered.

    Keys, requests and credentials are in *kept* before the call, as on the disk of a machine.
    """

    def __init__(self):
        self.told, self.kept, self.given = [], {}, {}

    def machine(self, name):
        return self.kept.setdefault(name, Machine(name))

    def credential(self, far, kind, machine=None):
        if kind not in self.given:
            self.given[kind] = far.credential(kind, machine)
        return self.given[kind]

    def live(self, far):
        registry, told = far.registry, self.told
        machine, back, reader = (self.machine(name) for name in ("db1", "new db1", "reader"))
        ordinary = self.credential(far, CredentialKind.REGISTER)
        told.append(("registered", machine.register(registry, ordinary).certificate))
        machine.call(registry)
        given = self.credential(far, READ, "db1")
        told.append(("reader", reader.register(registry, given).certificate))
        reader.call(registry)
        given = self.credential(far, FOR, "db1")
        told.append(("back", back.register(registry, given).certificate))
        back.call(registry)
        told.append("back called")
        registry.revoke("reader")
        told.append("revoked")


def keeps_its_word(far, told):
    registry = far.registry
    issued = {
        one.der: (machine, one.state)
        for machine in registry.machines() for one in machine.certificates
    }  # fmt: skip
    for one in told:
        if isinstance(one, tuple):
            assert one[1] in issued, one[0]
    assert registry.damaged() == []
    certificate = {one[0]: certificates.read(one[1]) for one in told if isinstance(one, tuple)}
    if "back called" in told:
        assert issued[certificate["registered"].der][1] is CertificateState.REVOKED
        with pytest.raises(NotAuthorised):
            registry.authorise(certificate["registered"], "")
        registry.authorise(certificate["back"], "")
    if "revoked" in told:
        with pytest.raises(NotAuthorised):
            registry.authorise(certificate["reader"], "")


@pytest.fixture(scope="module")
def clock():
    return lambda: 1_700_000_000 * 10**9


class Told:
    """What `Disk` copies with each image: answers so far, and what machines keep."""

    def __init__(self, life):
        self.life = life

    def __deepcopy__(self, _):
        return list(self.life.told), dict(self.life.given)


@pytest.fixture(scope="module")
def lived(tmp_path_factory, clock):
    images = tmp_path_factory.mktemp("images")
    path = images / "vault"

    async def make():
        await (await open_vault(path, create=True)).close()

    asyncio.run(make())
    life = Life()
    with pytest.MonkeyPatch.context() as patched, Disk(patched, path, images, Told(life)) as disk:
        life.live(FarVault(path, clock))
    return life, disk


@pytest.mark.parametrize("how", ["kept", "lost", "torn"])
def test_whatever_step_is_the_last_all_who_call_again_get_on(lived, clock, how):
    life, disk = lived
    images = getattr(disk, how)
    assert len(images) > 10
    for image in images:
        told, given = image.told
        far = FarVault(image.path, clock)
        keeps_its_word(far, told)
        again = goes_on(life, far, told, given)
        keeps_its_word(far, again)
        assert [one.name for one in far.registry.machines()] == ["db1", "reader"], image.step
        shutil.rmtree(image.path)


def goes_on(life, far, told, given):
    """The same machines, with the same requests, do all that was not answered."""
    registry, again = far.registry, Life()
    again.given, again.told = dict(given), list(told)
    for name, machine in life.kept.items():
        fresh = Machine(name)
        fresh.csr = machine.csr
        again.kept[name] = fresh
    steps = {one if isinstance(one, str) else one[0] for one in told}
    machine, back, reader = (again.machine(name) for name in ("db1", "new db1", "reader"))
    if "back" not in steps:
        given = again.credential(far, CredentialKind.REGISTER)
        again.told.append(("registered", machine.register(registry, given).certificate))
        machine.call(registry)
    given = again.credential(far, READ, "db1")
    if not any(one.revoked for one in registry.machines()):
        again.told.append(("reader", reader.register(registry, given).certificate))
        reader.call(registry)
    given = again.credential(far, FOR, "db1")
    again.told.append(("back", back.register(registry, given).certificate))
    back.call(registry)
    again.told.append("back called")
    registry.revoke("reader")
    again.told.append("revoked")
    return again.told


# A disk that fails, and works again.


class Failing(DirectoryObjects):
    """A real one, on a disk that refuses its *nth* record from now on, and then works again."""

    left = -1

    def put_record(self, name, raw):
        if self.left == 0:
            self.left = -1
            raise NotStored("the disk failed") from OSError(errno.EIO, os.strerror(errno.EIO))
        self.left -= 1
        super().put_record(name, raw)


@pytest.fixture
def far(path, clock):
    return FarVault(path, clock)


@pytest.fixture
def disk(far):
    failing = Failing(far.path)
    far.registry._identities._objects = failing
    return failing


@pytest.mark.parametrize(("kind", "writes"), [(FOR, 2), (READ, 2), (CredentialKind.REGISTER, 1)])
def test_a_registration_that_failed_at_any_write_is_repeated(far, disk, kind, writes):
    db1 = far.registered("db1")
    for nth in range(writes):
        given = far.credential(kind, None if kind is CredentialKind.REGISTER else "db1")
        machine = Machine(f"{kind} {nth}")
        asked = machine.registration(given)
        disk.left = nth
        with pytest.raises(NotStored):
            far.registry.register(asked)
        db1.call(far.registry)
        if nth:  # bound already: nobody else goes on in its place
            with pytest.raises(CredentialRefused, match="used before"):
                Machine("other").register(far.registry, given)
        first = far.registry.register(asked)
        assert far.registry.register(asked) == first
    far.registry.authorise(certificates.read(first.certificate), "")


def test_the_first_use_of_a_certificate_is_answered_only_when_the_older_ones_are_revoked(far, disk):
    lost = far.registered("db1")
    lost.call(far.registry)
    back = Machine("x")
    back.register(far.registry, far.credential(FOR, "db1"))
    disk.left = 0
    with pytest.raises(NotStored):
        back.call(far.registry)
    lost.call(far.registry)
    back.call(far.registry)
    with pytest.raises(NotAuthorised):
        lost.call(far.registry)


def test_a_full_disk_stops_no_machine_that_is_known(far, disk):
    machine = far.registered("db1")
    machine.call(far.registry)
    now = far.clock()
    far.registry._clock = lambda: now + 5 * 3600 * 10**9
    disk.left = 0
    assert machine.call(far.registry).last_used == now
    assert machine.call(far.registry).last_used == now + 5 * 3600 * 10**9
