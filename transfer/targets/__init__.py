"""Where a restore writes."""

import errno
from collections.abc import Callable

from transfer.errors import NoSpace, TargetUnusable

_FULL = {errno.ENOSPC, errno.EDQUOT}


def may_pass(error: BaseException) -> bool:
    """Whether it is the disk's, and not about what stands there or who asks: another run of the
    same may go on from here.
    """
    if isinstance(error, OSError):
        return error.errno == errno.EIO
    return isinstance(error, NoSpace | TargetUnusable)


class target_errors:
    """Raise our errors for what ends the whole restore: a full disk, a read-only one, *unusable*.

    Other errors are about this path alone. A path that takes time to tell is told by a function.
    """

    __slots__ = ("_path", "_unusable")

    def __init__(self, path: bytes | Callable[[], bytes], *unusable: int) -> None:
        self._path, self._unusable = path, unusable

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if not isinstance(error, OSError):
            return
        path = self._path() if callable(self._path) else self._path
        message = f"{path.decode(errors='backslashreplace')}: {error.strerror}"
        if error.errno in _FULL:
            raise NoSpace(message, "make room, then run the same command again") from error
        if error.errno == errno.EROFS or error.errno in self._unusable:
            raise TargetUnusable(message) from error
