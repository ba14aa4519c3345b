"""Data from the machine's own files: what programs, texts and libraries compress and repeat like.

The same at every call, as long as the machine's files are. Where they are too few, an image has
them again with every byte changed, so that they compress as before and are equal to none of them;
a tree is filled up with made ones.
"""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from perf.data import many_files
from perf.machine import Lacking

MIB = 2**20
LARGEST = MIB  # of a tree's files; larger ones are what an image is measured with
TREE_BYTES = 1_500_000_000
IMAGE_PART = 0.725  # of an image's size is files: whole blocks, with their directories
PARTS = 16  # of these at least: no single file is much of an image
BLOCK = 4096
_TOPS = ("/usr", sys.base_prefix, "/opt")
_UUID = "74726e73-6665-7220-7065-726600000000"
_MOMENT = "1600000000"


class Found(NamedTuple):
    """A regular file; *below* is its path relative to what was searched."""

    path: Path
    below: Path
    size: int


def own_files(tops: tuple[str, ...] = _TOPS) -> Iterator[Found]:
    """The readable regular files below *tops* that have one name only, each once, in order."""
    seen: list[Path] = []
    for top in map(Path, tops):
        if not top.is_dir() or any(top.resolve().is_relative_to(each) for each in seen):
            continue
        yield from _below(top.resolve(), seen)
        seen.append(top.resolve())


def _below(top: Path, seen: list[Path]) -> Iterator[Found]:
    device = top.stat().st_dev
    for place, directories, names in os.walk(top):
        here = Path(place)
        directories[:] = sorted(
            name for name in directories
            if here / name not in seen and os.lstat(here / name).st_dev == device
        )  # fmt: skip
        for name in sorted(names):
            status = os.lstat(here / name)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                continue
            if os.access(here / name, os.R_OK):
                yield Found(here / name, (here / name).relative_to("/"), status.st_size)


def tree(top: Path, count: int, tops: tuple[str, ...] = _TOPS, most: int = TREE_BYTES) -> Path:
    """Up to *count* of the machine's own files with together up to *most* bytes."""
    top.mkdir()
    copied = size = 0
    for found in own_files(tops):
        if found.size > LARGEST:
            continue
        if copied == count or size + found.size > most:
            return top
        _copy(found.path, top / found.below)
        copied, size = copied + 1, size + found.size
    many_files(top / "made", count - copied)
    return top


def image(path: Path, size: int, tops: tuple[str, ...] = _TOPS) -> Path:
    """An ext4 image of *size* bytes, nearly three quarters of it files; the rest is a hole.

    Raises Lacking without mke2fs and debugfs.
    """
    staging = path.with_name(f"{path.name}-files")
    shutil.rmtree(staging, ignore_errors=True)
    _stage(staging, int(size * IMAGE_PART), tops)
    with path.open("wb") as file:
        file.truncate(size)
    options = [
        "-q", "-F", "-t", "ext4", "-m", "0", "-b", str(BLOCK), "-i", str(BLOCK), "-U", _UUID,
        "-E", f"lazy_itable_init=1,hash_seed={_UUID}", "-d", str(staging),
    ]  # fmt: skip
    _run([_tool("mke2fs"), *options, str(path)])
    _settle(path, sum(1 for _ in staging.rglob("*")))
    shutil.rmtree(staging)
    return path


def _stage(staging: Path, wanted: int, tops: tuple[str, ...]) -> None:
    """Files that take *wanted* bytes; those of the second time and later with other bytes."""
    staging.mkdir()
    directories = {*staging.parents, staging}
    size = again = 0
    while size < wanted and again < 256:
        before = size
        for found in own_files(tops):
            taken = max(2, -(-found.size // BLOCK)) * BLOCK  # so that inodes are enough, too
            if not found.size or taken > wanted // PARTS:
                continue
            place = staging / f"part-{again}" / found.below
            new = {*place.parents} - directories
            size += taken + len(new) * BLOCK
            if size > wanted:
                break
            directories |= new
            _copy(found.path, place, again)
        if size == before:
            break
        again += 1
    _settle_times(staging)


def _copy(source: Path, target: Path, changed: int = 0) -> None:
    """With *changed*, every byte is another one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if changed:
        target.write_bytes(source.read_bytes().translate(bytes(b ^ changed for b in range(256))))
    else:
        shutil.copyfile(source, target)
    status = source.stat()
    target.chmod(stat.S_IMODE(status.st_mode) & 0o777 | 0o600)
    os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))


def _settle_times(top: Path) -> None:
    for place, _, _ in os.walk(top, topdown=False):
        os.utime(place, (int(_MOMENT), int(_MOMENT)))


def _settle(path: Path, count: int) -> None:
    """Change times cannot be set by whoever owns a file, but in an image: the same every time."""
    first = 12  # lost+found has 11
    fields = "".join(
        f"set_inode_field <{number}> {field} @{_MOMENT}\n"
        for number in (2, *range(first, first + count)) for field in ("ctime", "atime")
    )  # fmt: skip
    _run([_tool("debugfs"), "-w", "-f", "/dev/stdin", str(path)], fields)


def _tool(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        raise Lacking(f"{name} is missing (Debian: apt install e2fsprogs)")
    return found


def _run(command: list[str], given: str = "") -> None:
    environment = {**os.environ, "E2FSPROGS_FAKE_TIME": _MOMENT, "LC_ALL": "C"}
    subprocess.run(
        command, check=True, input=given, text=True, env=environment, capture_output=True
    )
