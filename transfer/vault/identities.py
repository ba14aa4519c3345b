"""Records of who may talk to a vault: machines, and credentials with which they register.

    machines/<machine ID>            credentials/<number>-<credential ID>

Both change, and are replaced as a whole. Numbers stand in names so that a new credential gets a new
one even if a record before it cannot be read. What was read is remembered for as long as its file
is the same one: with many machines most questions are about all of them.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from transfer.errors import FormatError, NewerFormat
from transfer.formats import record
from transfer.formats.record import CredentialRecord, MachineRecord
from transfer.vault.objects import DirectoryObjects

T = TypeVar("T", MachineRecord, CredentialRecord)
DIRECTORIES = ("machines", "credentials")


class _File(NamedTuple):
    """Another one as soon as the record is replaced."""

    inode: int
    mtime: int
    size: int


def machine_name(machine: bytes) -> str:
    return f"machines/{machine.hex()}"


def credential_name(number: int, credential: bytes) -> str:
    return f"credentials/{number:010}-{credential.hex()}"


class Identities:
    """Reading raises FormatError, which names the record, for one that is damaged or misplaced."""

    def __init__(self, objects: DirectoryObjects) -> None:
        self._objects = objects
        self._remembered: dict[str, tuple[_File, MachineRecord | CredentialRecord]] = {}

    def machine(self, machine: bytes) -> MachineRecord | None:
        return self._machine(machine_name(machine))

    def machines(self) -> list[MachineRecord]:
        """All that can be read."""
        return _sound(self._machine, self._objects.records("machines"))

    def put_machine(self, machine: MachineRecord) -> None:
        """Durable on return; raises NotStored or NoSpace, and leaves the one before."""
        self._objects.put_record(machine_name(machine.machine), record.encode_machine(machine))

    def credential(self, credential: bytes) -> CredentialRecord | None:
        for name in self._objects.records("credentials"):
            if name.endswith(f"-{credential.hex()}"):
                return self._credential(name)
        return None

    def credentials(self) -> list[CredentialRecord]:
        """All that can be read."""
        return _sound(self._credential, self._objects.records("credentials"))

    def newer_credentials(self, number: int) -> list[CredentialRecord]:
        """One that cannot be read raises here: it may be what makes an older one void."""
        names = [n for n in self._objects.records("credentials") if _number_in(n) > number]
        return [one for name in names if (one := self._credential(name)) is not None]

    def newest_number(self) -> int:
        """The highest of a credential; 0 before the first."""
        numbers = [_number_in(name) for name in self._objects.records("credentials")]
        return max(numbers, default=0)

    def put_credential(self, credential: CredentialRecord) -> None:
        name = credential_name(credential.number, credential.id)
        self._objects.put_record(name, record.encode_credential(credential))

    def forget_credential(self, credential: CredentialRecord) -> None:
        """Nothing rests on its being gone for good."""
        name = credential_name(credential.number, credential.id)
        self._objects.record_path(name).unlink(missing_ok=True)
        self._remembered.pop(name, None)

    def damaged(self) -> Iterator[tuple[str, FormatError]]:
        """Records that cannot be read, by name."""
        for directory, read in zip(DIRECTORIES, (self._machine, self._credential), strict=True):
            for name in self._objects.records(directory):
                try:
                    read(name)
                except FormatError as error:
                    yield name, error

    def _machine(self, name: str) -> MachineRecord | None:
        return self._read(name, record.decode_machine, lambda one: machine_name(one.machine))

    def _credential(self, name: str) -> CredentialRecord | None:
        return self._read(
            name, record.decode_credential, lambda one: credential_name(one.number, one.id)
        )

    def _read(
        self, name: str, decode: Callable[[bytes], T], name_of: Callable[[T], str]
    ) -> T | None:
        """None for a record that is not there."""
        file = self._file(name)
        if file is None:
            return None
        remembered = self._remembered.get(name)
        if remembered is not None and remembered[0] == file:
            return remembered[1]  # type: ignore[return-value]
        try:
            raw = self._objects.read_record(name)
            if raw is None:
                raise FormatError("it cannot be read")
            found = decode(raw)
            if name_of(found) != name:
                raise FormatError("it belongs under another name")
        except (FormatError, NewerFormat) as error:
            raise FormatError(f"record {name}: {error}") from error
        self._remembered[name] = file, found
        return found

    def _file(self, name: str) -> _File | None:
        try:
            stat = self._objects.record_path(name).stat()
        except FileNotFoundError:
            return None
        return _File(stat.st_ino, stat.st_mtime_ns, stat.st_size)


def _sound(read: Callable[[str], T | None], names: Iterator[str]) -> list[T]:
    found = []
    for name in names:
        try:
            one = read(name)
        except FormatError:
            continue  # `damaged` names it
        if one is not None:
            found.append(one)
    return found


def _number_in(name: str) -> int:
    text = name.rpartition("/")[2].partition("-")[0]
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
