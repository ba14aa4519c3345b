"""Errors on their way over the network: one table, read by the server and by the client.

A status tells proxies and other clients what kind of failure it is; our own client goes by `code`,
and raises what the vault raised.
"""

from transfer import errors
from transfer.errors import (
    CredentialRefused,
    DamagedData,
    FormatError,
    IntegrityError,
    ItemBusy,
    LockHeld,
    NameTaken,
    NewerFormat,
    NoSpace,
    NotAuthorised,
    NotFound,
    NotRegistered,
    NotStored,
    PointMissing,
    Refused,
    SessionEnded,
    TooManyCalls,
    TransferError,
    TransientError,
    UsageError,
    VaultUnavailable,
)
from transfer.formats import documents, messages
from transfer.formats.messages import MAX_TEXT, Problem
from transfer.vault.base import Missing

# The first that fits; what is not here is a bug, which is told as 500 and keeps its words.
_STATUS: dict[type[TransferError], int] = {
    NotRegistered: 401,
    NotAuthorised: 403,
    CredentialRefused: 403,
    NameTaken: 409,
    Refused: 422,
    Missing: 409,
    SessionEnded: 409,
    ItemBusy: 409,
    PointMissing: 410,
    NotFound: 404,
    FormatError: 400,
    NewerFormat: 400,
    UsageError: 400,
    NoSpace: 507,
    NotStored: 503,
    LockHeld: 503,
    TooManyCalls: 429,
    VaultUnavailable: 503,
    TransientError: 503,
    DamagedData: 500,
    IntegrityError: 500,
}
_BY_CODE = {kind("").code: kind for kind in _STATUS}
_AWAY = {408, 429, 502, 503, 504}
# Instead of messages that name files of the vault's machine: those are its administrator's to read.
_OWN_TROUBLE: dict[type[TransferError], tuple[str, str]] = {
    NoSpace: ("the vault is full", "its administrator has to make room"),
    NotStored: ("the vault could not store it", "look at the vault's log"),
    LockHeld: ("another process has the vault", "try again"),
    VaultUnavailable: ("the vault cannot take this call now", "look at the vault's log"),
    TransientError: ("the vault cannot take this call now", "look at the vault's log"),
    DamagedData: ("the vault is damaged there", "on the vault run: transfer vault verify DIR"),
    IntegrityError: ("the vault is damaged there", "on the vault run: transfer vault verify DIR"),
}
RETRY_AFTER = {429: 1, 503: 5}  # seconds; a vault that is about to end needs some


class CallRefused(errors.UsageError):
    """A request that no call of ours makes; *status* says what is wrong with it."""

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.args = (status, message, hint)
        self.status = status


def problem_of(error: TransferError) -> Problem:
    """What a client may know of *error*."""
    if isinstance(error, CallRefused):
        return Problem(error.status, "call-refused", error.message[:MAX_TEXT], hint=error.hint)
    kinds = (kind for kind in _STATUS if isinstance(error, kind))
    kind = next(kinds, None)
    if kind is None:
        return bug()
    missing = error.references if isinstance(error, Missing) else ()
    detail, hint = error.message, error.hint
    if "/" in detail + hint:
        detail, hint = _OWN_TROUBLE.get(kind, (detail, hint))
    return Problem(
        _STATUS[kind], kind("").code, detail[:MAX_TEXT], hint=hint[:MAX_TEXT],
        references=messages.encode_asked(missing),
        more=isinstance(error, Missing) and error.more,
    )  # fmt: skip


def bug() -> Problem:
    return Problem(500, "bug", "the vault failed", hint="its log says how; report it")


def error_of(status: int, raw: bytes, retry_after: float | None = None) -> TransferError:
    """What the vault raised; for an answer that is not ours, what its *status* means."""
    try:
        problem = documents.decode(raw, Problem, "the vault's answer")
        references = messages.decode_asked(problem.references)
    except FormatError:
        return _of_status(status, f"an answer of status {status} that is no vault's", retry_after)
    if problem.code == Missing("").code:
        return Missing(problem.detail, problem.hint, tuple(references), problem.more)
    kind = _BY_CODE.get(problem.code)
    if kind is None:
        return _of_status(status, problem.detail, retry_after)
    return _waiting(kind(problem.detail, problem.hint), retry_after)


def _of_status(status: int, message: str, retry_after: float | None) -> TransferError:
    if status in _AWAY:
        return _waiting(VaultUnavailable(message, "look at the vault's log"), retry_after)
    if status >= 500:  # a bug there: the same call at once would fail as well
        return TransientError(message, "look at the vault's log")
    return FormatError(message, "is this a vault, and of this version?")


def _waiting(error: TransferError, retry_after: float | None) -> TransferError:
    if isinstance(error, VaultUnavailable):
        error.retry_after = retry_after
    return error
