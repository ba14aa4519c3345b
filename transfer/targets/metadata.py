"""Give an inode the metadata of an entry, as far as the caller may.

Everything works on a descriptor or on a path that leads to one (see `anchored`), never on a name
that somebody could give to another file meanwhile.
"""

import errno
import os
import stat as modes
from functools import lru_cache

from transfer.files.metadata import ACLS, Stat
from transfer.formats.entry import Entry, FileType

Inode = int | bytes
_FORBIDDEN = {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL,
              errno.ENOSYS, errno.EOVERFLOW}  # fmt: skip
# "No space" is said of the inode's own room here, not of the disk.
_OTHERS_WRITE = modes.S_IWGRP | modes.S_IWOTH
_NO_XATTR = _FORBIDDEN | {errno.ENOSPC, errno.E2BIG, errno.ERANGE, errno.ENODATA}


def set_metadata(
    inode: Inode, entry: Entry, owner: str, found: os.stat_result | None = None
) -> list[str]:
    """Set owner, xattrs and ACLs, mode, times, in this order; the codes of what was not allowed.

    The codes are "owner", "xattr", "acl", "mode" and "times". setuid and setgid are left out
    unless the file belongs to whom they are about: they would give away somebody else's rights.
    *found* is what the inode has, where that is known.
    """
    found = found or os.stat(inode)
    failed, ids = [], (found.st_uid, found.st_gid)
    if owner != "none":
        wanted = _wanted_owner(entry, owner)
        ids = _owner_after(inode, wanted, ids)
        failed += ["owner"] if ids != wanted else []
    failed += _set_xattrs(inode, entry)
    if entry.type is not FileType.SYMLINK and not _set_mode(inode, entry, owner, ids):
        failed.append("mode")
    if not _set_times(inode, found.st_atime_ns, entry.mtime):
        failed.append("times")
    return failed


def may_stay(entry: Entry, there: Stat, owner: str) -> bool:
    """Whether a file with the entry's content may be kept, and be given its metadata.

    Not one that somebody else may have open for writing, nor one with another name that would be
    changed with it: that would give rights away, or change what is theirs.
    """
    uid, gid = _wanted_owner(entry, owner)
    caller = os.geteuid()
    own = (caller,) if owner == "none" else (caller, uid)
    # Who is not root could not give it to anybody.
    owned = (
        owner == "none"
        or (there.uid, there.gid) == (uid, gid)
        or (caller != 0 and there.uid == caller)
    )
    mode = _mode_for(entry, there.uid, there.gid, owner)
    as_wanted = owned and (there.mode, there.mtime) == (mode, entry.mtime)
    if there.nlink > 1 and not (entry.link_group and as_wanted):
        return False
    return there.uid in own and (as_wanted or not there.mode & _OTHERS_WRITE)


def _wanted_owner(entry: Entry, owner: str) -> tuple[int, int]:
    if owner != "name":
        return entry.uid, entry.gid
    return _uid(entry.user, entry.uid), _gid(entry.group, entry.gid)


def _owner_after(inode: Inode, wanted: tuple[int, int], ids: tuple[int, int]) -> tuple[int, int]:
    """The (uid, gid) that it has once it was to get those *wanted*, having had *ids*."""
    if ids == wanted or _allowed_chown(inode, *wanted):
        return wanted
    # The group alone may be one of the caller's, and the owner already right.
    _allowed_chown(inode, -1, wanted[1])
    found = os.stat(inode)
    return found.st_uid, found.st_gid


def _allowed_chown(inode: Inode, uid: int, gid: int) -> bool:
    try:
        os.chown(inode, uid, gid)
    except OverflowError:
        return False
    except OSError as error:
        if error.errno not in _FORBIDDEN:
            raise
        return False
    return True


def _set_xattrs(inode: Inode, entry: Entry) -> list[str]:
    wanted = dict(entry.xattrs)
    failed = {_xattr_code(name) for name in wanted if not _set_xattr(inode, name, wanted[name])}
    # A new file may have got ACLs from its directory that the original never had.
    for name in _inherited_acls(inode, wanted):
        try:
            os.removexattr(inode, name)
        except OSError as error:
            if error.errno not in _NO_XATTR:
                raise
            failed.add("acl")
    return sorted(failed)


def _xattr_code(name: bytes) -> str:
    return "acl" if name in ACLS else "xattr"


def _set_xattr(inode: Inode, name: bytes, value: bytes) -> bool:
    try:
        os.setxattr(inode, name, value)
    except OSError as error:
        if error.errno not in _NO_XATTR:
            raise
        return False
    return True


def _inherited_acls(inode: Inode, wanted: dict[bytes, bytes]) -> list[bytes]:
    try:
        present = {os.fsencode(name) for name in os.listxattr(inode)}
    except OSError as error:
        if error.errno not in _NO_XATTR:
            raise
        return []
    return [name for name in ACLS if name in present and name not in wanted]


def _set_mode(inode: Inode, entry: Entry, owner: str, ids: tuple[int, int]) -> bool:
    try:
        os.chmod(inode, _mode_for(entry, *ids, owner))
    except OSError as error:
        if error.errno not in _FORBIDDEN:
            raise
        return False
    # The kernel drops setgid without a word when the caller is not in the group.
    return modes.S_IMODE(os.stat(inode).st_mode) == entry.mode


def _mode_for(entry: Entry, uid: int, gid: int, owner: str) -> int:
    """Without what would give somebody else's rights away, in an inode of *uid* and *gid*."""
    mode, wanted = entry.mode, _wanted_owner(entry, owner)
    if entry.type is not FileType.DIRECTORY:
        if uid != wanted[0]:
            mode &= ~modes.S_ISUID
        if gid != wanted[1]:
            mode &= ~modes.S_ISGID
    return mode


def _set_times(inode: Inode, atime: int, mtime: int) -> bool:
    try:
        os.utime(inode, ns=(atime, mtime))
    except (OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno not in _FORBIDDEN:
            raise
        return False
    return True


@lru_cache(4096)
def _uid(user: bytes, otherwise: int) -> int:
    import pwd

    try:
        return pwd.getpwnam(os.fsdecode(user)).pw_uid if user else otherwise
    except KeyError:
        return otherwise


@lru_cache(4096)
def _gid(group: bytes, otherwise: int) -> int:
    import grp

    try:
        return grp.getgrnam(os.fsdecode(group)).gr_gid if group else otherwise
    except KeyError:
        return otherwise
