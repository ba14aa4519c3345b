"""State directory: what a machine remembers. All of it can be lost; the passphrase cannot.

machine.json            machine ID and name
vaults/VAULT.json       domain, incarnation, and the newest point seen of each item
locks/ITEM              one writer per item on this machine
"""

import errno
import fcntl
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from transfer.errors import FormatError, ItemBusy, NoSpace, UsageError

T = TypeVar("T")


class Machine(msgspec.Struct, frozen=True):
    id: bytes
    name: str


class Head(msgspec.Struct, frozen=True):
    """The newest point of an item that this machine saw committed."""

    number: int
    point: bytes


class Known(msgspec.Struct):
    """What this machine knows of a vault; *heads* by item ID (hex)."""

    domain: bytes
    incarnation: int
    heads: dict[str, Head] = {}


def default_state() -> Path:
    if given := os.environ.get("TRANSFER_STATE"):
        return Path(given)
    if os.geteuid() == 0:
        return Path("/var/lib/transfer")
    import platformdirs

    return Path(platformdirs.user_state_dir("transfer"))


class StateDirectory:
    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            for below in (path, path / "vaults", path / "locks"):
                below.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"state directory {path}: {error.strerror}", "choose another with --state"
            ) from error

    def machine(self, name: str | None = None) -> Machine:
        path = self.path / "machine.json"
        if path.exists():
            return _read(path, Machine)
        machine = Machine(secrets.token_bytes(16), name or socket.gethostname())
        _write(path, machine)
        return machine

    def known(self, vault: bytes) -> Known | None:
        path = self._vault_path(vault)
        return _read(path, Known) if path.exists() else None

    def remember(self, vault: bytes, known: Known) -> None:
        _write(self._vault_path(vault), known)

    def _vault_path(self, vault: bytes) -> Path:
        return self.path / "vaults" / f"{vault.hex()}.json"

    @contextmanager
    def lock(self, item: bytes, name: str) -> Iterator[None]:
        """Raises ItemBusy, which names the process that holds it."""
        fd = os.open(self.path / "locks" / item.hex(), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = os.pread(fd, 64, 0).decode(errors="replace").strip()
                raise ItemBusy(f"item {name} is being backed up by process {holder}") from error
            os.ftruncate(fd, 0)
            os.pwrite(fd, str(os.getpid()).encode(), 0)
            yield
        finally:
            os.close(fd)


def _read(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except msgspec.MsgspecError as error:
        raise FormatError(f"{path} is damaged: {error}", "move it away; it is made anew") from error


def _write(path: Path, value: msgspec.Struct) -> None:
    """Whole or not at all, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(msgspec.json.encode(value))
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
        directory = os.open(path.parent, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno == errno.ENOSPC:
            raise NoSpace(f"no space for {path}") from error
        raise
