"""Write bytes, zeros and holes at an offset."""

import errno
from collections.abc import Iterator

from transfer.files.direct import write_all
from transfer.files.system import punch_hole

_PAGE = 4096
_ZEROS = memoryview(bytes(2**20))
_ZERO_PAGE = bytes(_PAGE)
_FINAL = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}


def write_zeros(fd: int, offset: int, length: int) -> None:
    end = offset + length
    for at in range(offset, end, len(_ZEROS)):
        write_all(fd, _ZEROS[: end - at], at)


def make_hole(fd: int, offset: int, length: int) -> None:
    """The range reads as zeros, whatever was there; it takes no space where holes are possible."""
    if length == 0:
        return
    try:
        punch_hole(fd, offset, length)
    except OSError as error:
        if error.errno in _FINAL:
            raise
        write_zeros(fd, offset, length)


def runs(content: bytes, offset: int) -> Iterator[tuple[int, int, bool]]:
    """(start, end, all zeros): runs of whole pages of zeros, and what lies between them.

    Pages are aligned in the file, where *content* stands at *offset*.
    """
    start, was_zero = 0, False
    at = -offset % _PAGE
    while at + _PAGE <= len(content):
        is_zero = content.startswith(_ZERO_PAGE, at)
        if is_zero != was_zero:
            if at > start:
                yield start, at, was_zero
            start, was_zero = at, is_zero
        at += _PAGE
    if was_zero:
        yield start, at, True
        start = at
    if start < len(content):
        yield start, len(content), False
