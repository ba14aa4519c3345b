"""File handles: to tell a file from another one that got its inode number later."""

import struct

from transfer.files.system import handle_of

_INODE = struct.Struct("<iQ")
_NO_HANDLE = -1  # no file system has handles of this type


def file_handle(dir_fd: int, name: bytes) -> bytes:
    """The handle of *name*, or of *dir_fd* itself for b""; b"" where there are none."""
    try:
        return handle_of(dir_fd, name)
    except OSError:
        return b""


def inode_handle(ino: int) -> bytes:
    """What stands in for a handle: it does not show that an inode number was used again."""
    return _INODE.pack(_NO_HANDLE, ino)
