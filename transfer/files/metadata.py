"""What stands in an inode, beside the content."""

import errno
import os
import stat as modes
from typing import NamedTuple

from transfer.formats.entry import FileType, Xattrs

ACLS = (b"system.posix_acl_access", b"system.posix_acl_default")
_UNSUPPORTED = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_UNREADABLE = {errno.ENODATA, errno.EPERM, errno.EACCES} | _UNSUPPORTED
_TYPES = {
    modes.S_IFREG: FileType.FILE,
    modes.S_IFDIR: FileType.DIRECTORY,
    modes.S_IFLNK: FileType.SYMLINK,
    modes.S_IFIFO: FileType.FIFO,
    modes.S_IFCHR: FileType.CHARACTER,
    modes.S_IFBLK: FileType.BLOCK,
}


class Stat(NamedTuple):
    """An inode as it was; a *type* of None is a socket. Times are nanoseconds."""

    type: FileType | None
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    ctime: int
    dev: int
    ino: int
    nlink: int
    rdev: int
    blocks: int

    @property
    def identity(self) -> tuple[int, int]:
        return self.dev, self.ino

    def same_content(self, other: "Stat") -> bool:
        """True if nothing says that the two are other files, or one file before and after."""
        return (
            self.type == other.type
            and self.identity == other.identity
            and (self.size, self.mtime, self.ctime) == (other.size, other.mtime, other.ctime)
        )


def to_stat(found: os.stat_result) -> Stat:
    return Stat(
        _TYPES.get(modes.S_IFMT(found.st_mode)), modes.S_IMODE(found.st_mode),
        found.st_uid, found.st_gid, found.st_size, found.st_mtime_ns, found.st_ctime_ns,
        found.st_dev, found.st_ino, found.st_nlink, found.st_rdev, found.st_blocks,
    )  # fmt: skip


def stat_at(fd: int, name: bytes) -> Stat:
    return to_stat(os.stat(name, dir_fd=fd, follow_symlinks=False))


def open_anchor(fd: int, name: bytes) -> int:
    """A descriptor of *name* itself, whatever it is: a symlink is not followed, a fifo not waited
    for, a device not touched.
    """
    return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)


def anchored(anchor: int) -> bytes:
    """A path to the inode of *anchor*, for the calls that refuse such a descriptor."""
    return b"/proc/self/fd/%d" % anchor


def read_xattrs(path: bytes | int) -> Xattrs:
    """All extended attributes that may be read, ACLs among them, sorted by name."""
    try:
        names = os.listxattr(path)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return ()
        raise
    found: list[tuple[bytes, bytes]] = []
    for name in names:
        try:
            found.append((os.fsencode(name), os.getxattr(path, name)))
        except OSError as error:  # removed meanwhile, or of a namespace that is not ours
            if error.errno not in _UNREADABLE:
                raise
    return tuple(sorted(found))
