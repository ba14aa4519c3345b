"""Registry: who may talk to a far vault. Machines register, renew, are recognised and revoked.

All that it knows stands in records (see identities.py), so that commands which run beside the
server are seen by it at once. Every change reads and writes under DIR/registry.lock, and is one
record, or two of which the first may stand alone: whoever was cut off repeats the call.

A certificate that was lost on its way must not lock a machine out, and a stolen one must not live
on beside its successor. So older certificates stay good until a newer one is first used; then they
are revoked, before that use is answered. Newer is what a newer credential stands behind, and among
equals what was issued later: a thief's renewals stay below the certificate that replaces his.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from transfer.crypto import certificates, issuing
from transfer.crypto.certificates import YEAR, Certificate, Identity, Role
from transfer.errors import FormatError, NotAuthorised, NotFound, TransientError
from transfer.formats.credential import Credential, CredentialKind, checked_url
from transfer.formats.record import (
    MAX_CERTIFICATES,
    CertificateState,
    IssuedCertificate,
    MachineRecord,
)
from transfer.vault.admission import Admission, Registration, admit
from transfer.vault.authority import Authority
from transfer.vault.credentials import forget_old, make_record
from transfer.vault.directory import explained, read_vault_file
from transfer.vault.identities import Identities
from transfer.vault.objects import DirectoryObjects

__all__ = ["Registered", "Registration", "Registry", "registry_of"]

RENEWABLE = YEAR  # after a certificate's end
_NOTE_EVERY = 3600 * 10**9  # ns between two notes of a machine's last use
# Which certificate makes room for a new one, if a machine has too many.
_WORTH = {CertificateState.REVOKED: 0, CertificateState.NEW: 1, CertificateState.USED: 2}


def registry_of(path: Path, clock: Callable[[], int] = time.time_ns) -> "Registry":
    """Of the vault in *path*; no lock of it is taken. Raises as `directory.read_vault_file`."""
    with explained(path):
        authority = Authority(path, read_vault_file(path).vault, clock)
    return Registry(path, authority, clock)


class Registered(NamedTuple):
    certificate: bytes
    machine: bytes
    name: str
    domain: bytes
    role: Role


class Registry:
    """Of the vault in *path*; *clock* gives ns since 1970.

    Methods raise NotStored or NoSpace, and then may be repeated, if a record cannot be written.
    """

    def __init__(self, path: Path, authority: Authority, clock: Callable[[], int]) -> None:
        self._path, self.authority, self._clock = path, authority, clock
        self._identities = Identities(DirectoryObjects(path))

    # Credentials.

    def make_credential(
        self, kind: CredentialKind, machine: str | None, valid: int, url: str
    ) -> Credential:
        """For *valid* ns; those of its scope are good no more. Raises NotFound, NotAuthorised."""
        address, cas = checked_url(url), tuple(self.authority.trusted())
        with self._locked():
            target = None if machine is None else self.find(machine)
            now = self._clock()
            made, secret = make_record(self._identities, kind, target, valid, now)
            self._identities.put_credential(made)
            forget_old(self._identities, now)
        name = None if target is None else target.name
        return Credential(
            self.authority.vault, address, cas, made.id, secret, kind, name, made.expires
        )

    # Registration.

    def examine(self, registration: Registration) -> None:
        """Raise what `register` would; see `admission.admit`."""
        with self._locked():
            self._admit(registration)

    def register(self, registration: Registration) -> Registered:
        """Repeating it is harmless, and gives the same certificate until the credential expires."""
        with self._locked():
            admission = self._admit(registration)
            if admission.issued is not None:
                certificate = admission.issued.der
            else:
                # The credential first: bound to this machine, it lets nobody but it go on.
                if admission.credential.used_key is not None:
                    self._identities.put_credential(admission.credential)
                certificate = self._issue(admission, registration.csr)
        machine, domain, role = admission.identity
        return Registered(certificate, machine, admission.name, domain, role)

    def _admit(self, registration: Registration) -> Admission:
        return admit(self._identities, self.authority.vault, registration, self._clock())

    def _issue(self, admission: Admission, csr: bytes) -> bytes:
        now, credential = self._clock(), admission.credential
        der = issuing.issue_machine(self.authority.issuer(), csr, admission.identity, now)
        new = IssuedCertificate(der, admission.key, credential.number, CertificateState.NEW)
        machine, domain, role = admission.identity
        if admission.machine is None:
            record = MachineRecord(
                machine, admission.name, domain, role.value, now, None, None, credential.id,
                (new,), None,
            )  # fmt: skip
        else:
            record = _replaced(
                admission.machine, credential=credential.id,
                certificates=(*_with_room(admission.machine.certificates), new),
            )  # fmt: skip
        self._identities.put_machine(record)
        return der

    # Certificates.

    def renew(self, certificate: Certificate, csr: bytes) -> bytes:
        """The next certificate of the machine that shows *certificate*, and the same for one key.

        Raises NotAuthorised; FormatError for a request that is none.
        """
        key = certificates.key_of(csr)
        with self._locked():
            record, shown = self._recognise(certificate, RENEWABLE)
            for one in record.certificates:
                if (one.key, one.number) == (key, shown.number) and self._is_fresh(one):
                    return one.der
            identity = Identity(record.machine, record.domain, Role(record.role))
            der = issuing.issue_machine(self.authority.issuer(), csr, identity, self._clock())
            new = IssuedCertificate(der, key, shown.number, CertificateState.NEW)
            self._identities.put_machine(
                _replaced(record, certificates=(*_with_room(record.certificates), new))
            )
            return der

    def _is_fresh(self, issued: IssuedCertificate) -> bool:
        good = issued.state is not CertificateState.REVOKED
        return good and not certificates.renewal_due(certificates.read(issued.der), self._clock())

    def authorise(
        self, certificate: Certificate, address: str, renewing: bool = False
    ) -> MachineRecord:
        """Whose call it is; *address* is where it came from. With *renewing* a certificate that
        has ended is still good for `renew`. Raises NotAuthorised, which says why.
        """
        grace = RENEWABLE if renewing else 0
        record, shown = self._recognise(certificate, grace)
        if shown.state is CertificateState.NEW:
            with self._locked():
                record, shown = self._recognise(certificate, grace)
                return self._note(record, shown, address)
        if record.last_used is None or not 0 <= self._clock() - record.last_used < _NOTE_EVERY:
            try:
                with self._locked():
                    record, shown = self._recognise(certificate, grace)
                    return self._note(record, shown, address)
            except TransientError:
                return record  # a full disk shall stop no restore
        return record

    def _recognise(
        self, certificate: Certificate, grace: int
    ) -> tuple[MachineRecord, IssuedCertificate]:
        try:
            identity = certificates.identity_of(certificate)
        except FormatError as error:
            raise NotAuthorised(str(error), "show a machine's certificate") from error
        try:
            record = self._identities.machine(identity.machine)
        except FormatError as error:
            raise NotAuthorised(
                f"the vault cannot read who this is: {error}",
                "on the vault run: transfer vault verify DIR",
            ) from error
        issued = record.certificates if record is not None else ()
        shown = next((one for one in issued if one.der == certificate.der), None)
        if record is None or shown is None:
            raise NotAuthorised("the vault does not know this certificate", "register again")
        if record.revoked is not None or shown.state is CertificateState.REVOKED:
            raise NotAuthorised(*_why_revoked(record))
        certificates.check_time(certificate, self._clock(), "the machine's", grace)
        return record, shown

    def _note(self, record: MachineRecord, shown: IssuedCertificate, address: str) -> MachineRecord:
        noted = _replaced(
            record, last_used=self._clock(), last_address=address[:64],
            certificates=_used(record.certificates, shown),
        )  # fmt: skip
        self._identities.put_machine(noted)
        return noted

    # Machines.

    def machines(self) -> list[MachineRecord]:
        """By name, also revoked ones; those that cannot be read are in `damaged`."""
        return sorted(self._identities.machines(), key=lambda one: (one.name, one.machine))

    def damaged(self) -> list[str]:
        return [str(error) for _, error in self._identities.damaged()]

    def find(self, name: str) -> MachineRecord:
        """By ID (hex) or name; the living before the revoked. Raises NotFound."""
        known = self._identities.machines()
        named = [one for one in known if one.name == name]
        for found in (
            [one for one in known if one.machine.hex() == name],
            [one for one in named if one.revoked is None],
            named,
        ):
            if len(found) == 1:
                return found[0]
        if named:
            raise NotFound(f"several machines were called {name}", "name one by its ID")
        raise NotFound(
            f"the vault has no machine {name}", "`transfer vault machines DIR` lists them"
        )

    def revoke(self, name: str) -> MachineRecord:
        """The vault answers it no more, from now on. Twice is harmless. Raises NotFound."""
        with self._locked():
            found = self.find(name)
            if found.revoked is None:
                found = _replaced(found, revoked=self._clock())
                self._identities.put_machine(found)
        return found

    @contextmanager
    def _locked(self) -> Iterator[None]:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with explained(self._path):
            lock = os.open(self._path / "registry.lock", flags, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def _replaced(record: MachineRecord, **changes: object) -> MachineRecord:
    return msgspec.structs.replace(record, **changes)


def _used(
    issued: tuple[IssuedCertificate, ...], shown: IssuedCertificate
) -> tuple[IssuedCertificate, ...]:
    """Their states once *shown* is in use: what is older is revoked."""
    age = {one.der: (one.number, at) for at, one in enumerate(issued)}
    return tuple(
        msgspec.structs.replace(one, state=CertificateState.USED)
        if one is shown
        else msgspec.structs.replace(one, state=CertificateState.REVOKED)
        if age[one.der] < age[shown.der]
        else one
        for one in issued
    )


def _with_room(issued: tuple[IssuedCertificate, ...]) -> tuple[IssuedCertificate, ...]:
    if len(issued) < MAX_CERTIFICATES:
        return issued
    least = min(issued, key=lambda one: (_WORTH[one.state], one.number))
    return tuple(one for one in issued if one is not least)


def _why_revoked(record: MachineRecord) -> tuple[str, str]:
    if record.revoked is not None:
        when = certificates.when(record.revoked)
        return f"machine {record.name} was revoked on {when}", "ask the vault's administrator"
    return (
        f"this certificate of machine {record.name} was revoked: a newer one is in use",
        "if it is on no machine of yours, have the machine revoked at once",
    )
