"""Making credentials, and forgetting old ones."""

import hashlib
import os

from transfer.crypto.certificates import DAY
from transfer.errors import NotAuthorised
from transfer.formats.credential import CredentialKind
from transfer.formats.record import CredentialRecord, MachineRecord
from transfer.vault.identities import Identities

_REMEMBER = 90 * DAY  # how long a credential that has expired is told from an unknown one


def make_record(
    identities: Identities, kind: CredentialKind, target: MachineRecord | None, valid: int, now: int
) -> tuple[CredentialRecord, bytes]:
    """A credential for *valid* ns, newer than all others, and its secret; nothing is written.

    Raises NotAuthorised for a target that must not come back.
    """
    if kind is CredentialKind.FOR and target is not None and target.revoked is not None:
        raise NotAuthorised(
            f"machine {target.name} was revoked",
            "register another machine; with --read it may read this one's points",
        )
    # Newer also than what the target has, should records of credentials have been lost.
    issued = target.certificates if target is not None else ()
    newest = max([identities.newest_number(), *(one.number for one in issued)])
    secret = os.urandom(32)
    made = CredentialRecord(
        os.urandom(16), hashlib.sha256(secret).digest(), kind,
        None if target is None else target.machine, newest + 1, now, now + valid, None, None,
    )  # fmt: skip
    return made, secret


def forget_old(identities: Identities, now: int) -> None:
    """Of every scope the newest stays: without it an older one would be good again."""
    newest: dict[tuple[str, bytes | None], int] = {}
    known = identities.credentials()
    for one in known:
        newest[one.scope] = max(one.number, newest.get(one.scope, 0))
    for one in known:
        if one.expires + _REMEMBER < now and one.number < newest[one.scope]:
            identities.forget_credential(one)
