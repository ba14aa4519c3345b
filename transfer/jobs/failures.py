"""What the system says of its own state (a full disk, no permission), as an error of ours."""

import errno
import os

from transfer.errors import DamagedData, NoSpace, TransferError, TransientError, UsageError

BUG = 70
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM}
_PASSING = {
    errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EBUSY,
    errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN, errno.ETIMEDOUT,
}  # fmt: skip
# How SQLite names what the system told it; see https://sqlite.org/rescode.html
_DATABASE = {
    "SQLITE_FULL": errno.ENOSPC, "SQLITE_READONLY": errno.EROFS, "SQLITE_CANTOPEN": errno.EACCES,
    "SQLITE_IOERR": errno.EIO, "SQLITE_BUSY": errno.EBUSY, "SQLITE_NOMEM": errno.ENOMEM,
}  # fmt: skip
_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")


def ours(error: BaseException) -> TransferError | None:
    """The error that tells what *error* means for whoever ran the command; None for a bug."""
    if isinstance(error, TransferError):
        return None if error.exit_code == BUG else error
    if isinstance(error, MemoryError):
        return TransientError("there is not enough memory", "fewer --workers need less")
    if isinstance(error, OSError):
        named = isinstance(error.filename, str | bytes)
        where = f"{os.fsdecode(error.filename)}: " if named else ""
        return _of_system(error.errno, f"{where}{error.strerror}")
    return _of_database(error)


def _of_system(number: int | None, message: str) -> TransferError | None:
    if number in _FULL:
        return NoSpace(message)
    if number in _FORBIDDEN:
        return UsageError(message, "run as a user who may")
    return TransientError(message, "see to it, then run again") if number in _PASSING else None


def _of_database(error: BaseException) -> TransferError | None:
    """SQLAlchemy keeps the database's own error in `orig`."""
    original = getattr(error, "orig", error)
    name = getattr(original, "sqlite_errorname", "")
    message = f"the vault's catalog: {original}"
    if name.startswith(_DAMAGED):
        return DamagedData(message, "run: transfer vault rebuild DIR")
    for start, number in _DATABASE.items():
        if name.startswith(start):
            return _of_system(number, message)
    return None
