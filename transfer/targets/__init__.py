"""Where a restore writes."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from transfer.errors import NoSpace, TargetUnusable

_FULL = {errno.ENOSPC, errno.EDQUOT}


def may_pass(error: BaseException) -> bool:
    """Whether it is the disk's, and not about what stands there or who asks: another run of the
    same may go on from here.
    """
    if isinstance(error, OSError):
        return error.errno == errno.EIO
    return isinstance(error, NoSpace | TargetUnusable)


@contextmanager
def target_errors(path: bytes, *unusable: int) -> Iterator[None]:
    """Raise our errors for what ends the whole restore: a full disk, a read-only one, *unusable*.

    Other errors are about this path alone.
    """
    try:
        yield
    except OSError as error:
        message = f"{path.decode(errors='backslashreplace')}: {error.strerror}"
        if error.errno in _FULL:
            raise NoSpace(message, "make room, then run the same command again") from error
        if error.errno == errno.EROFS or error.errno in unusable:
            raise TargetUnusable(message) from error
        raise
