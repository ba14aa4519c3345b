"""The vault's certificate authority (CA): its files in DIR/ca, the only secrets of a vault.

    ca/0001      JSON: the first CA's key and certificate
    ca/0002      its successor's, with the cross certificate; and so on
    ca/server    JSON: the server's key and chain, and for which hosts; made again when missing
    ca/hosts     JSON: by which names and addresses, besides its own, clients may call the server
    ca/lock      held while any of them is written

Directories are 0700 and files 0600. Each file is written whole or not at all and none is changed
but by another in its place, so a crash between two writes loses nothing. A lost CA is a loss: every
machine has to register again, with a new credential.

A CA that is due (two thirds of its life) gets a successor when it is next asked for.
"""

import fcntl
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from transfer.crypto import certificates, issuing
from transfer.crypto.certificates import Issuer
from transfer.errors import DamagedData, FormatError
from transfer.formats import documents
from transfer.vault.directory import explained
from transfer.vault.durable import make_directory, write_durably

_MAX_FILE = 64 * 1024
_HINT = "put the file back from any copy of the vault; it never changes"
_Der = Annotated[bytes, Meta(min_length=1, max_length=certificates.MAX_CERTIFICATE)]


class _AuthorityFile(msgspec.Struct, frozen=True):
    certificate: _Der
    key: bytes
    cross: _Der | None = None  # the same key, signed by the CA before

    @property
    def issuer(self) -> Issuer:
        return Issuer(self.key, self.certificate)


class _ServerFile(msgspec.Struct, frozen=True):
    hosts: list[str]
    chain: list[_Der]
    key: bytes
    authority: int  # the number of the CA that signed it


class _HostsFile(msgspec.Struct, frozen=True):
    hosts: Annotated[list[str], Meta(max_length=issuing.MAX_HOSTS)]


class _Checked(msgspec.Struct, frozen=True):
    """What stands in a file: *body* is a document, *check* its CRC-32."""

    body: msgspec.Raw
    check: int


_File = TypeVar("_File", _AuthorityFile, _ServerFile, _HostsFile)


class ServerIdentity(NamedTuple):
    """*chain* begins with the server's own certificate; *key* is PKCS #8; all DER."""

    chain: list[bytes]
    key: bytes

    def __repr__(self) -> str:
        return "<ServerIdentity>"  # no key in a log or a traceback


class Authority:
    """The CA of the vault in *path*; *clock* gives ns since 1970.

    Methods raise DamagedData for a CA that is damaged or lost, and as `directory.explained`.
    """

    def __init__(self, path: Path, vault: bytes, clock: Callable[[], int]) -> None:
        self.vault, self._clock = vault, clock
        self._root, self._path = path, path / "ca"

    def issuer(self) -> Issuer:
        """What signs new certificates."""
        return self._current()[-1].issuer

    def trusted(self) -> list[bytes]:
        """The certificates of all CAs that have not ended, the newest first."""
        now = self._clock()
        found = [each.certificate for each in reversed(self._current())]
        return [found[0], *(one for one in found[1:] if certificates.read(one).ends >= now)]

    def announced(self) -> list[tuple[bytes, bytes]]:
        """Of every CA but the first: its certificate and its cross certificate."""
        return [(one.certificate, one.cross) for one in self._current() if one.cross is not None]

    def renew(self) -> bytes:
        """Make a successor (or the first), from now on the issuer; its certificate."""
        with self._locked():
            return self._succeed(self._authorities())[-1].certificate

    def server(self, hosts: Iterable[str]) -> ServerIdentity:
        """For a server that clients call by *hosts*; a new one when it is due, or *hosts* changed.

        The chain goes back to the first CA, so whoever trusts any CA of this vault can follow it.
        Raises UsageError for a host that is none.
        """
        wanted = issuing.checked_hosts(hosts)
        with self._locked():
            authorities = self._current(locked=True)
            found = self._server_file()
            if found is None or not self._still_good(found, wanted, len(authorities)):
                found = self._new_server(authorities, wanted)
                self._write("server", found)
        return ServerIdentity(found.chain, found.key)

    def hosts(self) -> list[str]:
        found = self._read("hosts", _HostsFile)
        return found.hosts if found else []

    def set_hosts(self, hosts: Iterable[str]) -> None:
        """The next server certificate is for these. Raises UsageError for one that is none."""
        wanted = issuing.checked_hosts(hosts)
        with self._locked():
            self._write("hosts", _HostsFile(wanted))

    def _current(self, locked: bool = False) -> list[_AuthorityFile]:
        """All CAs, the newest last; it is there, and not due."""
        found = self._authorities()
        if found and not self._is_due(found[-1].certificate):
            return found
        if not locked:
            with self._locked():
                return self._current(locked=True)
        if not found and any((self._root / "records" / "machines").glob("*")):
            # A new one would turn all machines away, and nobody would know why.
            raise DamagedData(
                f"the vault has machines, and its CA is not in {self._path}",
                "put ca/ back from a copy of the vault; or make a new one with `transfer vault ca "
                "DIR --renew`, and register every machine again with a --for credential",
            )
        return self._succeed(found)

    def _is_due(self, certificate: bytes) -> bool:
        return certificates.renewal_due(certificates.read(certificate), self._clock())

    def _succeed(self, found: list[_AuthorityFile]) -> list[_AuthorityFile]:
        now = self._clock()
        if found:
            issuer, cross = issuing.successor(found[-1].issuer, self.vault, now)
            new = _AuthorityFile(issuer.certificate, issuer.key, cross)
        else:
            issuer = issuing.new_ca(self.vault, now)
            new = _AuthorityFile(issuer.certificate, issuer.key)
        self._write(f"{len(found) + 1:04}", new)
        return [*found, new]

    def _server_file(self) -> _ServerFile | None:
        try:
            return self._read("server", _ServerFile)
        except DamagedData:
            return None  # it is made again, unlike a CA

    def _still_good(self, found: _ServerFile, hosts: list[str], authority: int) -> bool:
        return (found.hosts, found.authority) == (hosts, authority) and not self._is_due(
            found.chain[0]
        )

    def _new_server(self, authorities: list[_AuthorityFile], hosts: list[str]) -> _ServerFile:
        key, newest = certificates.new_key(), authorities[-1].issuer
        own = issuing.issue_server(newest, key, self.vault, hosts, self._clock())
        crosses = [one.cross for one in reversed(authorities) if one.cross is not None]
        return _ServerFile(hosts, [own, *crosses], key, len(authorities))

    def _authorities(self) -> list[_AuthorityFile]:
        with explained(self._root):
            names = [path.name for path in self._path.glob("[0-9]*")]
        found = [self._read(f"{number:04}", _AuthorityFile) for number in range(1, len(names) + 1)]
        there = [each for each in found if each is not None]
        if len(there) < len(names):
            # Never a new CA in the place of a lost one: no machine would believe it.
            raise DamagedData(f"a CA is missing in {self._path}", _HINT)
        return there

    def _read(self, name: str, kind: type[_File]) -> _File | None:
        path = self._path / name
        with explained(self._root):
            try:
                with path.open("rb") as file:
                    raw = file.read(_MAX_FILE)
            except FileNotFoundError:
                return None
        try:
            whole = documents.decode(raw, _Checked, str(path))
            if whole.check != zlib.crc32(whole.body):
                raise FormatError(f"{path}: its check does not hold")
            return documents.decode(bytes(whole.body), kind, str(path))
        except FormatError as error:
            raise DamagedData(str(error), _HINT) from error

    def _write(self, name: str, content: _File) -> None:
        body = msgspec.Raw(documents.encode(content))
        with explained(self._root):
            write_durably(self._path / name, msgspec.json.encode(_Checked(body, zlib.crc32(body))))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with explained(self._root):
            make_directory(self._path)
            os.chmod(self._path, 0o700)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            lock = os.open(self._path / "lock", flags, 0o600)
        try:
            with explained(self._root):
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)
