"""Give a finished file its name, without trusting that the temporary name is still its own."""

import errno
import os
import secrets
from functools import lru_cache

from transfer.errors import TargetRefused
from transfer.files.metadata import anchored, stat_at
from transfer.files.system import boot_id, rename_new

TEMPORARY = b".transfer-"
UNFINISHED = 0o600
"""Mode of a file until its metadata is set: one with another may be open to somebody."""
_NO_NOREPLACE = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK}


def temporary_name(key: bytes = b"") -> bytes:
    """A new one for something that is not finished, by this process; *key* tells what it is."""
    made_by = b"%d.%s.%s-" % (os.getpid(), _boot(), _own_start(os.getpid()))
    return TEMPORARY + made_by + (key + b"-" if key else b"") + secrets.token_hex(8).encode()


def unowned(name: bytes) -> bytes:
    """The same temporary name, but of no process."""
    return TEMPORARY + b"0." + name.removeprefix(TEMPORARY).partition(b".")[2]


def key_of(name: bytes) -> bytes:
    """What a temporary name is the key of, or nothing."""
    parts = name.removeprefix(TEMPORARY).split(b"-")
    return parts[1] if name.startswith(TEMPORARY) and len(parts) == 3 else b""


def is_abandoned(name: bytes) -> bool:
    """Whether *name* is a temporary one of a process that is no more.

    Its number may be another one's by now: in a container all have the same few.
    """
    if not name.startswith(TEMPORARY):
        return False
    made_by = name.removeprefix(TEMPORARY).partition(b"-")[0].split(b".")
    if not made_by[0].isdigit():
        return False
    if len(made_by) > 1 and made_by[1] != _boot():
        return True
    started = _started(made_by[0])
    return not started or (len(made_by) > 2 and made_by[2] != started)


def _boot() -> bytes:
    return boot_id().partition("-")[0].encode()


@lru_cache(1)
def _own_start(process: int) -> bytes:
    """Each file gets a name, and no process starts twice; but one may be forked."""
    return _started(b"%d" % process)


def _started(process: bytes) -> bytes:
    """When it did, in ticks since the boot; nothing for one that has ended."""
    try:
        with open(b"/proc/%s/stat" % process, "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return b""
    # It has ended, and nobody has asked how.
    return b"" if fields[0] in (b"Z", b"X") else fields[19]


def link(anchor: int, fd: int, name: bytes) -> None:
    """Another name for the inode of *anchor*, in the directory *fd*."""
    os.link(anchored(anchor), name, dst_dir_fd=fd, follow_symlinks=True)


def publish(fd: int, inode: tuple[int, int], temporary: bytes, name: bytes, replace: bool) -> None:
    """Move *temporary*, which must be *inode* (device, number), to *name*; it stays where that
    fails.
    """
    if replace:
        os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
    else:
        _rename_new(fd, temporary, name)
    if stat_at(fd, name).identity != inode:
        raise TargetRefused(
            f"{name.decode(errors='backslashreplace')} was replaced while it was restored"
        )


def _rename_new(fd: int, temporary: bytes, name: bytes) -> None:
    try:
        return rename_new(fd, temporary, name)
    except OSError as error:
        if error.errno not in _NO_NOREPLACE:
            raise
    try:
        os.link(temporary, name, src_dir_fd=fd, dst_dir_fd=fd, follow_symlinks=False)
        os.unlink(temporary, dir_fd=fd)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # Neither way is there, as on vfat through FUSE: nobody keeps secrets there anyway.
        if os.path.lexists(anchored(fd) + b"/" + name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name) from error
        os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
