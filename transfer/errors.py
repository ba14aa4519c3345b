"""The errors this package raises on purpose, sorted by what to do about them.

* `TransientError` (75): try again later; the retry policy already does.
* `IntegrityError` (65): stop; some bytes are not what they claim to be.
* `UsageError` (64): a person must change the command or the configuration.
* `AccessError` (77): a person must show another secret or permission.

Anything else that escapes is a bug, and keeps its traceback (70). A message says what and where,
the hint says what to do. `code` is stable: scripts read it in `--json`.
"""

import re


class TransferError(Exception):
    """Root of the tree; the command line ends with *exit_code* (see sysexits.h)."""

    exit_code = 70

    def __init__(self, message: str, hint: str = "") -> None:
        # Pickle rebuilds an exception from its args; it must come back whole from a worker.
        super().__init__(message, hint)
        self.message, self.hint = message, hint

    @property
    def code(self) -> str:
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", type(self).__name__).lower()

    def __str__(self) -> str:
        return self.message


class TransientError(TransferError):
    exit_code = 75


class VaultUnavailable(TransientError):
    """The vault did not answer, or asked us to come back later."""

    retry_after: float | None = None
    """Seconds that it asked to wait at least."""


class TooManyCalls(VaultUnavailable):
    """This machine, or one at its address, calls more often than the vault allows."""


class NotStored(TransientError):
    """The vault could not make a frame durable; nothing of the call may be believed."""


class ItemBusy(TransientError):
    """Another run writes this item."""


class SessionEnded(TransientError):
    """The session was committed, abandoned, fenced or has expired."""


class LockHeld(TransientError):
    """Another process holds the lock of a vault or a state directory."""


class NoSpace(TransientError):
    """A disk is full."""


class TargetUnusable(TransientError):
    """The target is read-only, too small or in use."""


class ViewBroken(TransientError):
    """The source did not hold still for as long as its view needed."""


class SourceUnavailable(TransientError):
    """The server of a source did not answer, or its connection broke."""


class SourceFailed(TransientError):
    """The server of a source could not do what it was asked for; the connection lives on."""

    number: int | None = None
    """What the server calls it, by its protocol's numbers."""


class WorkerLost(TransientError):
    """A worker process ended in the middle of a task."""


class IntegrityError(TransferError):
    exit_code = 65


class FormatError(IntegrityError):
    """Bytes that no version of this program could have written."""


class ProtocolBroken(IntegrityError):
    """The server of a source says what its protocol forbids; nothing of it may be believed."""


class IdMismatch(IntegrityError):
    """The opened content is not the content its ID names."""


class SealBroken(IntegrityError):
    """A frame does not open with the key that its header names."""


class FrameMissing(IntegrityError):
    """A frame that a recovery point names is not in the vault, or only in damaged copies."""


class PointMissing(IntegrityError):
    """A recovery point that this machine saw committed is gone without a tombstone."""


class VaultRolledBack(IntegrityError):
    """The vault is an older copy of itself."""


class DamagedData(IntegrityError):
    """A job went through to its end, and names what it could not give back."""


class UsageError(TransferError):
    exit_code = 64


class NewerFormat(UsageError):
    """Written by a newer version: a feature that is needed here is unknown."""


class NotRegistered(UsageError):
    """This machine has no certificate of a vault."""


class NotFound(UsageError):
    """No such item, point, path or vault."""


class Ambiguous(UsageError):
    """A prefix that more than one point has."""


class TargetRefused(UsageError):
    """The target exists, and `--overwrite` does not allow to touch it."""


class NoReflinks(UsageError):
    """A file of which no reflink copy can be made, or compared, where that was asked for."""


class AccessError(TransferError):
    exit_code = 77


class WrongPassphrase(AccessError):
    """No wrap of the keyring opens with this passphrase or recovery key."""


class Refused(AccessError):
    """The vault does not accept this record: wrong signature, epoch, or number."""


class NotAuthorised(Refused):
    """The certificate is revoked, has ended, or gives no right to this."""


class CredentialRefused(AccessError):
    """A vault credential that has expired, was superseded, edited, or used before."""


class NameTaken(AccessError):
    """Another machine of the vault has this name."""


class Untrusted(AccessError):
    """Who answers is not who was meant: another certificate authority, an old TLS, or none."""
