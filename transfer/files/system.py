"""System calls of Linux that Python does not offer; ctypes is loaded by the first use.

Where a call is not there, `OSError` with ENOSYS says so: this module can be imported anywhere.
"""

import errno
import os
from functools import cache
from typing import Any

_EMPTY_PATH = 0x1000
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_NOREPLACE = 1
# Of glibc's mallopt(3), and the largest threshold that it takes.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_MOST_FROM_HEAP = 32 * 2**20
_HANDLE_MAX = 128
_PSEUDO = {
    0x9FA0: "proc", 0x62656572: "sysfs", 0x27E0EB: "cgroup", 0x63677270: "cgroup2",
    0x1CD1: "devpts", 0x64626720: "debugfs", 0x74726163: "tracefs", 0x73636673: "securityfs",
    0xCAFE4A11: "bpf", 0x62656570: "configfs", 0x19800202: "mqueue", 0x6165676C: "pstore",
    0xDE5E81E4: "efivarfs", 0x0187: "autofs", 0x42494E4D: "binfmt_misc", 0x65735543: "fusectl",
    0xF97CFF8C: "selinuxfs", 0x43415D53: "smackfs", 0x67596969: "rpc_pipefs", 0x6E736673: "nsfs",
    0x6E667364: "nfsd", 0x07655821: "resctrl", 0x50495045: "pipefs", 0x534F434B: "sockfs",
    0x09041934: "anon_inode", 0x6C6F6F70: "binderfs", 0x50494446: "pidfs", 0xABBA1974: "xenfs",
    0x0A647361: "functionfs",
}  # fmt: skip
_WITH_CONTENT = {
    0x01021994: "tmpfs", 0xEF53: "ext4", 0x58465342: "xfs", 0x9123683E: "btrfs",
    0x2FC12FC1: "zfs", 0x794C7630: "overlay", 0x6969: "nfs", 0xFF534D42: "cifs",
    0xFE534D42: "smb2", 0x65735546: "fuse", 0x01021997: "9p", 0x4D44: "vfat",
    0x2011BAB0: "exfat", 0x5346544E: "ntfs", 0xF2F52010: "f2fs", 0x73717368: "squashfs",
    0x9660: "iso9660", 0x858458F6: "ramfs", 0x958458F6: "hugetlbfs", 0xCA451A4E: "bcachefs",
    0x00C36400: "ceph", 0x7461636F: "ocfs2", 0x01161970: "gfs2",
}  # fmt: skip


@cache
def _libc() -> Any:
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: Any) -> None:
    import ctypes

    function = getattr(_libc(), name, None)
    if function is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), name)
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


_STAMPS_MAPPED_WRITES = {"ext4", "xfs", "btrfs", "f2fs", "overlay"}


def stamps_mapped_writes(place: int) -> bool:
    """Whether a file's times show that it was written through a mapping since the last sync.

    tmpfs stamps no such write at all, and of network and user space file systems nobody knows.
    """
    try:
        return filesystem_type(place) in _STAMPS_MAPPED_WRITES
    except OSError:
        return False


@cache
def boot_id() -> str:
    """Another one each time the machine starts; empty where nobody knows."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def filesystem_type(place: bytes | int) -> str | int:
    """The name of the file system at *place*, or its magic number where we know no name."""
    import ctypes

    answer = ctypes.create_string_buffer(512)
    if isinstance(place, int):
        _call("fstatfs", place, answer)
    else:
        _call("statfs", place, answer)
    magic = ctypes.c_long.from_buffer(answer).value & 0xFFFFFFFF
    return _PSEUDO.get(magic) or _WITH_CONTENT.get(magic) or magic


def is_pseudo(place: bytes | int) -> bool:
    """True where files are made up by the kernel when they are read; never for tmpfs."""
    return filesystem_type(place) in _PSEUDO.values()


def sync_filesystem(fd: int) -> None:
    """Return when all that was written to the file system of *fd* is durable."""
    _call("syncfs", fd)


def read_from_disk(fd: int) -> None:
    """What is read from now on is what the disk has.

    Of what a disk could not take the kernel keeps what it was given, and calls it written.
    """
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def keep_freed_memory(size: int) -> None:
    """Of what this process frees up to *size* bytes stay with it, where its C library can do that.

    Else each piece of a body takes new pages of the system and gives them back, which costs more
    than what is done with the bytes.
    """
    mallopt = getattr(_libc(), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, size)
        mallopt(_MMAP_THRESHOLD, min(size, _MOST_FROM_HEAP))


def handle_of(fd: int, name: bytes) -> bytes:
    """The kernel's file handle: it differs between two files that had the same inode number."""
    import ctypes

    answer = ctypes.create_string_buffer(8 + _HANDLE_MAX)
    ctypes.c_uint.from_buffer(answer).value = _HANDLE_MAX
    mount = ctypes.c_int()
    flags = 0 if name else _EMPTY_PATH
    _call("name_to_handle_at", fd, name, answer, ctypes.byref(mount), flags)
    length = ctypes.c_uint.from_buffer(answer).value
    return answer.raw[4 : 8 + length]


def rename_new(fd: int, old: bytes, new: bytes) -> None:
    """Rename within the directory *fd*; FileExistsError when *new* is there."""
    _call("renameat2", fd, old, fd, new, _NOREPLACE)


def punch_hole(fd: int, offset: int, length: int) -> None:
    """From now on the range reads as zeros; its space is given back."""
    import ctypes

    start, size = ctypes.c_int64(offset), ctypes.c_int64(length)
    _call("fallocate64", fd, _PUNCH_HOLE | _KEEP_SIZE, start, size)
