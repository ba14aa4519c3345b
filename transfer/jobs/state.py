"""State directory: what a machine remembers. All of it can be lost; the passphrase cannot.

machine.json            machine ID and name
owner.json              whose sessions are this directory's own
registration.json       the far vault: address, authorities, this machine's certificate and key
registering.json        a registration that is under way, to be gone on with
vaults/VAULT.json       domain, incarnation, and the newest point seen of each item
throttle.json, limits   see machine_limits.py, and throttle/shared.py
runs/PID-N              see control.py
locks/ITEM              one writer per item on this machine
journals/VAULT.ITEM     see journal.py
restores/HASH           see unfinished.py
nodes/VAULT.ITEM        nodes of the item's newest point; see pipeline/node_cache.py

Directories are 0700 and files 0600; nobody else may own them.
"""

import errno
import fcntl
import os
import secrets
import socket
import stat as modes
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from transfer.errors import FormatError, ItemBusy, NoSpace, TransientError, UsageError
from transfer.formats import documents
from transfer.formats.documents import Bytes16, Bytes32, Count, Number
from transfer.formats.record import MAX_NAME, checked_name
from transfer.vault.durable import sync_directory

T = TypeVar("T", bound=msgspec.Struct)
MAX_FILE = 16 * 2**20
_NAMES = {"machine.json", "owner.json", "registration.json", "registering.json", "vaults", "locks"}
_FULL = {errno.ENOSPC, errno.EDQUOT}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP}


class Machine(msgspec.Struct, frozen=True):
    """*owner* tells a run's own dead session from that of somebody with a copy of this state."""

    id: Bytes16
    name: str
    owner: bytes = b""


class Owner(msgspec.Struct, frozen=True):
    """Good only in the file of this *inode*: a copied state directory gets an owner of its own."""

    owner: Bytes16
    inode: int


class Head(msgspec.Struct, frozen=True):
    """The newest point of an item that this machine saw committed."""

    number: Number
    point: Bytes32


class Known(msgspec.Struct, frozen=True):
    """What this machine knows of a vault; *heads* by item ID (hex), *keyring* is its version."""

    domain: Bytes16
    incarnation: Count
    heads: dict[str, Head] = {}
    keyring: Count = 0


def default_state() -> Path:
    found = default_place("STATE", "/var/lib/transfer", "user_state_dir")
    if found is None:
        raise UsageError(
            "no state directory: this user has no home directory",
            "name one with --state DIR or TRANSFER_STATE",
        )
    return found


def default_place(what: str, of_root: str, of_user: str) -> Path | None:
    """What TRANSFER_*what* names, else the usual place of root, or of a user by platformdirs.

    None for a user without a home.
    """
    if given := os.environ.get(f"TRANSFER_{what}"):
        return Path(given)
    if os.geteuid() == 0:
        return Path(of_root)
    import platformdirs

    # Of a user whom the system does not know, some versions raise and some leave the "~".
    with suppress(RuntimeError):
        found = Path(getattr(platformdirs, of_user)("transfer"))
        if found.is_absolute():
            return found
    return None


class StateDirectory:
    """Raises UsageError for a directory that is not ours alone, NoSpace where a disk is full."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        with state_errors(path):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._take()
            for below in ("vaults", "locks"):
                (self.path / below).mkdir(mode=0o700, exist_ok=True)

    def _take(self) -> None:
        found = self.path.stat()
        if found.st_uid != os.geteuid():
            raise UsageError(
                f"state directory {self.path} belongs to user {found.st_uid}",
                "run as that user, or choose another with --state",
            )
        if not found.st_mode & 0o077:
            return
        # Ours, or a new one that somebody made ready for us; never /tmp by a slip.
        names = set(os.listdir(self.path))
        if names and not names & _NAMES:
            raise UsageError(
                f"{self.path} holds other things, and is no state directory",
                "name one that is empty or missing with --state",
            )
        self.path.chmod(0o700)

    def machine(self, name: str | None = None) -> Machine:
        """This machine; the first call makes it, and calls it *name*."""
        path = self.path / "machine.json"
        with state_errors(path):
            found = _read(path, Machine)
            if found is None:
                new = checked_name(socket.gethostname()[:MAX_NAME] if name is None else name)
                made = Machine(secrets.token_bytes(16), new)
                # Of two first runs at the same time one is first, and both are that machine.
                with suppress(FileExistsError):
                    _write(path, lambda _: made, new=True)
                found = _read(path, Machine) or made
        return msgspec.structs.replace(found, owner=self._owner())

    def rename(self, machine: Machine, name: str) -> Machine:
        path = self.path / "machine.json"
        renamed = Machine(machine.id, checked_name(name))
        with state_errors(path):
            _write(path, lambda _: renamed)
        return msgspec.structs.replace(renamed, owner=machine.owner)

    def become(self, id: bytes, name: str) -> None:
        """Be the machine that the vault knows, whatever this directory was called before."""
        path = self.path / "machine.json"
        with state_errors(path):
            _write(path, lambda _: Machine(id, checked_name(name)))

    def read(self, name: str, kind: type[T]) -> T | None:
        """A document of this directory. Raises FormatError for a damaged one."""
        with state_errors(self.path / name):
            return _read(self.path / name, kind)

    def write(self, name: str, document: msgspec.Struct) -> None:
        """Durable on return, in place of the one before."""
        with state_errors(self.path / name):
            _write(self.path / name, lambda _: document)

    def remove(self, name: str) -> None:
        with state_errors(self.path / name):
            (self.path / name).unlink(missing_ok=True)

    def _owner(self) -> bytes:
        path = self.path / "owner.json"
        with state_errors(path):
            found = _read(path, Owner)
            if found is None or found.inode != path.stat().st_ino:
                new = secrets.token_bytes(16)
                _write(path, lambda inode: Owner(new, inode))
                return new
        return found.owner

    def known(self, vault: bytes) -> Known | None:
        path = self._vault_path(vault)
        with state_errors(path):
            return _read(path, Known)

    def update(self, vault: bytes, change: Callable[[Known | None], Known]) -> Known:
        """Replace what is known by what *change* makes of it; runs do so one after the other."""
        path = self._vault_path(vault)
        with state_errors(path), self.alone(vault.hex()):
            known = change(_read(path, Known))
            _write(path, lambda _: known)
        return known

    def _vault_path(self, vault: bytes) -> Path:
        return self.path / "vaults" / f"{vault.hex()}.json"

    @contextmanager
    def lock(self, item: bytes, name: str) -> Iterator[None]:
        """Raises ItemBusy, which names the process that holds it."""
        with self._lock_file(item.hex()) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = os.pread(lock, 20, 0).decode(errors="replace")
                raise ItemBusy(
                    f"item {name} is being backed up by process {holder or 'unknown'}",
                    "wait until that run has ended",
                ) from error
            os.ftruncate(lock, 0)
            os.pwrite(lock, str(os.getpid()).encode(), 0)
            yield

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Nobody else is in such a block for *name*; waits for whoever is."""
        with self._lock_file(name) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _lock_file(self, name: str) -> Iterator[int]:
        path = self.path / "locks" / name
        with state_errors(path):
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            yield lock
        finally:
            os.close(lock)


@contextmanager
def state_errors(path: Path) -> Iterator[None]:
    """What the operating system refuses at *path* of a state directory, as what to do about it."""
    try:
        yield
    except OSError as error:
        message = f"state directory: {path}: {error.strerror}"
        if error.errno in _FULL:
            raise NoSpace(message, "make room, or choose another with --state") from error
        if error.errno == errno.EIO:
            raise TransientError(message, "look at the disk, or choose another") from error
        raise UsageError(message, "choose another with --state") from error


def _read(path: Path, kind: type[T]) -> T | None:
    """None when there is none. Raises FormatError for a damaged one."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not modes.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise UsageError(
                f"{path} is not a file of this user",
                "somebody else put it there; choose another with --state",
            )
        if found.st_mode & 0o077:
            os.fchmod(fd, 0o600)
        raw = file.read(MAX_FILE)
    try:
        return documents.decode(raw, kind, str(path))
    except FormatError as error:
        raise FormatError(f"{path} is damaged: {error.__cause__}", _hint(kind)) from error


def _hint(kind: type[msgspec.Struct]) -> str:
    if kind is Machine:
        return (
            "bring it back from a copy; without one move it away: then this is another machine, "
            "which reads the old one's items as MACHINE/ITEM and begins its own"
        )
    return "move it away; it is made anew"


def _write(path: Path, make: Callable[[int], msgspec.Struct], new: bool = False) -> None:
    """Whole or not at all, also after a power cut; *make* is given the file's inode.

    With *new* what is there stays: FileExistsError.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(msgspec.json.encode(make(os.fstat(fd).st_ino)))
            file.flush()
            os.fsync(fd)
        _publish(temporary, path, new)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def _publish(temporary: Path, path: Path, new: bool) -> None:
    if new:
        try:
            return os.link(temporary, path)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
    temporary.rename(path)
