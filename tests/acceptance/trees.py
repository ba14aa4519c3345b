"""Trees and images to back up: a small one with everything that is hard, and large real ones.

All of it is the same at every call: content from seeded generators, times set by hand.
"""

import os
import random
import shutil
import socket
import stat
import struct
import subprocess
from pathlib import Path

from perf.data import image, many_files

__all__ = ["ext4_image", "image", "many_files", "tricky"]

MOMENT = 1_600_000_000_123_456_789
DEEP = [b"%02d-" % level + b"d" * 247 for level in range(18)]  # 18 * 251 bytes: beyond 4,096
ACL_ACCESS, ACL_DEFAULT = "system.posix_acl_access", "system.posix_acl_default"


def tricky(top: Path, *, as_root: bool) -> Path:
    """Build the tree of hard cases in the new directory *top*.

    *as_root*: with what only root can make, and give back: owners, devices, trusted xattrs.
    OSError where the file system cannot hold it.
    """
    top.mkdir()
    for part in (contents, names, links, metadata, sparse, deep):
        part(_made(top / part.__name__))
    if as_root:
        privileged(_made(top / "privileged"))
    _set_times(top)
    # After the times, for it forbids to write.
    (top / "metadata" / "closed").chmod(0o500)
    return top


def _made(path: Path) -> Path:
    path.mkdir()
    return path


def noise(seed: object, size: int) -> bytes:
    """Bytes that do not compress."""
    return random.Random(str(seed)).randbytes(size)


def contents(top: Path) -> None:
    (top / "empty").touch()
    (top / "empty directory").mkdir()
    # At the edges of inline content, pages, blocks and what a worker reads at once.
    for size in (1, 2048, 2049, 4095, 4096, 65536, 2**20, 2**20 + 1, 4 * 2**20, 4 * 2**20 + 1):
        (top / f"noise-{size}").write_bytes(noise(size, size))
    (top / "large").write_bytes(noise("large", 9 * 2**20 + 5))
    (top / "text").write_bytes(b"all work and no play " * 50_000)
    (top / "again").write_bytes(noise("large", 9 * 2**20 + 5))
    (top / "zeros").write_bytes(bytes(300_000))
    many = _made(top / "many")
    for number in range(1500):  # several pages, and an index above them
        (many / f"{number:04}").write_bytes(b"%d" % number * (number % 7))


def names(top: Path) -> None:
    raw = [
        b"\xff\xfe\x80", b"caf\xe9", "caf\u00e9".encode(), "cafe\u0301".encode(), b" ", b"-rf",
        b"*", b"a\nb", b"\x1b[2J", b"back\\slash", b"...", b".hidden", b"n" * 255, b"\xf0" * 255,
    ]  # fmt: skip
    for name in raw:
        (top / os.fsdecode(name)).write_bytes(b"named " + name)
    (top / os.fsdecode(b"\xc0directory\x01")).mkdir()


def links(top: Path) -> None:
    for name, target in (
        ("relative", b"../contents/text"), ("dangling", b"nowhere"), ("absolute", b"/etc/hostname"),
        ("self", b"self"), ("not-utf8", b"\xff\xfe"), ("long", b"x" * 4095), ("up", b"../.."),
    ):  # fmt: skip
        os.symlink(target, os.fsencode(top / name))
    other = _made(top / "other")
    for name, content in (
        ("small", b"twice"),
        ("large", noise("linked", 5 * 2**20)),
        ("void", b""),
    ):
        (top / name).write_bytes(content)
        os.link(top / name, other / name)
        os.link(top / name, top / f"{name} again")
    os.link(top / "relative", other / "symlink", follow_symlinks=False)
    os.mkfifo(top / "fifo", 0o640)
    os.link(top / "fifo", other / "fifo")
    # Equal content and metadata, yet two files.
    for name in ("twin", "other/twin"):
        (top / name).write_bytes(b"twin")


def metadata(top: Path) -> None:
    for mode in (0o400, 0o600, 0o4755, 0o2755, 0o6711, 0o1644, 0o777):
        (top / f"mode-{mode:o}").write_bytes(b"%o" % mode)
        (top / f"mode-{mode:o}").chmod(mode)
    _made(top / "sticky").chmod(0o1777)
    _made(top / "set-group").chmod(0o2750)
    (_made(top / "closed") / "inside").write_bytes(b"in a directory that nobody may write to")
    for place in (top / "attributes", top / "sticky"):
        place.touch()
        os.setxattr(place, "user.binary", b"\0\xff\n")
        os.setxattr(place, "user.empty", b"")
        os.setxattr(place, "user." + "n" * 200, noise("xattr", 2000))
    (top / "shared").write_bytes(b"for more than its owner")
    os.setxattr(top / "shared", ACL_ACCESS, acl(os.geteuid(), 0o64))
    os.setxattr(top / "set-group", ACL_DEFAULT, acl(12345, 0o75))


def acl(user: int, bits: int) -> bytes:
    """A POSIX ACL as the kernel takes it: *user* and the mask get rights beside the usual three."""
    nobody = 0xFFFFFFFF
    high, low = bits >> 3, bits & 7
    entries = [(1, 6, nobody), (2, high, user), (4, low, nobody), (16, 7, nobody), (32, 0, nobody)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def sparse(top: Path) -> None:
    for name, at in (("front", [0]), ("end", [64 << 20]), ("both", [0, 3 << 20, (64 << 20) + 77])):
        with (top / name).open("wb") as file:
            for offset in at:
                file.seek(offset)
                file.write(noise(name, 5000))
            file.truncate(128 << 20)
    (top / "all").touch()
    os.truncate(top / "all", 10 << 30)
    os.truncate(_touched(top / "little"), 100_000)
    with (top / "full").open("wb") as file:  # zeros that take space, and shall again
        os.posix_fallocate(file.fileno(), 0, 3 << 20)


def _touched(path: Path) -> Path:
    path.touch()
    return path


def deep(top: Path) -> None:
    fd = os.open(top, os.O_RDONLY)
    for name in DEEP:
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.symlink(b"bottom", b"link", dir_fd=fd)
    with open(os.open(b"bottom", os.O_WRONLY | os.O_CREAT, dir_fd=fd), "wb") as file:
        file.write(b"beyond the longest path" * 500)
    os.utime(b"bottom", ns=(MOMENT, MOMENT), dir_fd=fd)
    os.close(fd)


def privileged(top: Path) -> None:
    os.mknod(top / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(top / "disk", stat.S_IFBLK | 0o660, os.makedev(259, 70_000))
    (top / "unreadable").write_bytes(b"mode 0")
    (top / "unreadable").chmod(0)
    for number, name in enumerate(("file", "directory", "link", "fifo"), 54_321):
        place = top / f"foreign-{name}"
        match name:
            case "file":
                place.write_bytes(b"not root's")
            case "directory":
                place.mkdir()
            case "link":
                place.symlink_to("file")
            case "fifo":
                os.mkfifo(place)
        os.chown(place, number, number + 10, follow_symlinks=False)
        os.setxattr(place, "trusted.of", name.encode(), follow_symlinks=False)
    (top / "foreign-file").chmod(0o6755)  # a change of owner would clear it
    (top / "capable").write_bytes(b"#!/bin/true\n")
    # cap_net_raw+ep, as setcap writes it
    os.setxattr(
        top / "capable", "security.capability", struct.pack("<5I", 0x02000001, 1 << 13, *[0] * 3)
    )
    _socket(top)


def _socket(top: Path) -> None:
    """It is no content, and does not come back."""
    fd = os.open(top, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{fd}/socket")  # a socket's path has 108 bytes at most
    os.close(fd)


def _set_times(top: Path) -> None:
    """Nanoseconds, before 1970, after 2038; always the same for a name, whoever else has it."""
    times = [MOMENT, 0, -1, -86_400 * 10**9 - 1, 4_000_000_000 * 10**9 + 7, 1]
    for place, below, files, fd in os.fwalk(top):
        below.sort()
        for number, name in enumerate(sorted(files + [b for b in below if _is_link(b, fd)])):
            when = times[number % len(times)]
            os.utime(name, ns=(when, when), dir_fd=fd, follow_symlinks=False)
        os.utime(fd, ns=(MOMENT, MOMENT + len(place) - len(str(top))))


def _is_link(name: str, fd: int) -> bool:
    return stat.S_ISLNK(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)


def ext4_image(path: Path, size: int, content: Path) -> Path:
    """A populated ext4 file system of *size* bytes, made without mounting anything."""
    with path.open("wb") as file:
        file.truncate(size)
    tool = shutil.which("mkfs.ext4", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert tool is not None
    options = ["-q", "-F", "-E", "lazy_itable_init=0", "-d", content]
    subprocess.run([tool, *options, path], check=True, stdin=subprocess.DEVNULL)
    return path
