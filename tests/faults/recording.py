"""What a program asked of a directory's files, by strace.

SQLite's own calls are in it. The shared memory of SQLite's log says nothing after a power cut and
is left out; so are owners.
"""

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

CALLS = (
    "openat", "pwrite64", "write", "fsync", "fdatasync", "syncfs", "rename", "renameat",
    "renameat2", "unlink", "unlinkat", "ftruncate", "fallocate", "mkdir", "mkdirat", "linkat",
    "symlinkat", "mknodat", "chmod", "fchmod", "utimensat",
)  # fmt: skip
_BY_DESCRIPTOR = (
    "pwrite64", "write", "fsync", "fdatasync", "syncfs", "ftruncate", "fallocate",
)  # fmt: skip
_PART = re.compile(r'(?:\d+|AT_FDCWD)<([^>]*)>|"((?:\\x[0-9a-f]{2})*)"(?:\.\.\.)?')
_LINE = re.compile(r"^(\d+) +(\w+)\((.*)\) += (-?\d+)(.*)$", re.DOTALL)
_UNFINISHED = re.compile(r"^(\d+) +(\w+)\((.*) <unfinished \.\.\.>$", re.DOTALL)
_RESUMED = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>(.*)$", re.DOTALL)
_FD = re.compile(r"^(\d+)<([^>]*)>")
_OPENED = re.compile(r"^/proc/(?:self|\d+)/fd/(\d+)$")
_TIME = re.compile(r"tv_sec=(-?\d+), tv_nsec=(\d+)")


class Op(NamedTuple):
    """*kind* is create, symlink, fifo, mkdir, link, rename, unlink; write, truncate, mode, mtime;
    sync (of a file, or of a directory's names), sync-all, or told.
    """

    kind: str
    path: str = ""
    file: int = 0
    """Which inode, whatever it is called; 0 for a directory, which has its path."""
    offset: int = 0
    """Or a length, a mode, or ns."""
    data: bytes = b""
    target: str = ""

    @property
    def makes(self) -> bool:
        return self.kind in ("create", "symlink", "fifo")

    @property
    def names(self) -> set[str]:
        """Those that it makes or takes away."""
        if self.kind in ("rename", "link"):
            return {self.target} | ({self.path} if self.path else set())
        return {self.path} if self.makes or self.kind in ("mkdir", "unlink") else set()


def record(
    root: Path, command: Sequence[str], cwd: Path, inodes: dict[str, int] | None = None
) -> list[Op]:
    """Run *command* and say what it did below *root*; its output is what was told.

    *inodes* by name, if they have numbers already.
    """
    trace = root.with_name(f"{root.name}.trace")
    recording = _Recording(root, numbered(root) if inodes is None else inodes)
    options = ["-f", "-y", "-xx", "-s", "10000000", "-o", str(trace), "-e", ",".join(CALLS)]
    subprocess.run(
        ["strace", *options, *command], cwd=cwd, check=True, stdout=subprocess.DEVNULL
    )  # fmt: skip
    found = list(recording.ops(trace))
    trace.unlink()
    return found


def numbered(root: Path) -> dict[str, int]:
    """All below *root* that is no directory."""
    inodes: dict[tuple[int, int], int] = {}
    found = {}
    for path in sorted(each for each in root.rglob("*") if each.is_symlink() or not each.is_dir()):
        stat = path.lstat()
        number = inodes.setdefault((stat.st_dev, stat.st_ino), len(inodes) + 1)
        found[os.path.relpath(path, root)] = number
    return found


class _Recording:
    """*opened* has the inode of each descriptor; *at* where the next write goes, -1 for the end."""

    def __init__(self, root: Path, inodes: dict[str, int]) -> None:
        self._root, self._files = str(root), dict(inodes)
        # Far above those that have gone again.
        self._last = max(inodes.values(), default=0) + 1000
        self._sizes = {
            number: (root / path).lstat().st_size for path, number in self._files.items()
        }
        self._opened: dict[int, int] = {}
        self._at: dict[int, int] = {}

    def ops(self, trace: Path) -> Iterator[Op]:
        for name, given, answer in _calls(trace):
            if answer >= 0:
                yield from self._ops(name, given, answer)

    def _ops(self, name: str, given: str, answer: int) -> Iterator[Op]:
        if name == "write" and given.startswith("1<"):
            yield Op("told", data=_strings(given)[0])
        elif name in ("chmod", "fchmod", "utimensat"):
            yield from self._metadata(name, given)
        elif name in _BY_DESCRIPTOR:
            descriptor = _FD.match(given)
            assert descriptor is not None, given
            path = self._below(_unescaped(descriptor[2]))
            if path is not None and name in ("fsync", "fdatasync"):
                yield Op("sync", path, self._files.get(path, 0))
            elif path is not None and name == "syncfs":
                yield Op("sync-all")
            elif path in self._files:
                yield from self._content(name, int(descriptor[1]), path, given, answer)
        else:
            yield from self._names(name, given, answer)

    def _content(self, name: str, fd: int, path: str, given: str, answer: int) -> Iterator[Op]:
        file, last = self._files[path], given.rpartition(",")[2].strip()
        match name:
            case "pwrite64":
                yield self._write(path, file, int(last), _strings(given)[0][:answer])
            case "write":
                at = self._at.get(fd, 0)
                offset = self._sizes[file] if at < 0 else at
                yield self._write(path, file, offset, _strings(given)[0][:answer])
                self._at[fd] = -1 if at < 0 else at + answer
            case "ftruncate":
                self._sizes[file] = int(last)
                yield Op("truncate", path, file, int(last))
            case "fallocate" if "PUNCH_HOLE" in given:
                offset, length = map(int, given.split(", ")[-2:])
                yield Op("write", path, file, offset, bytes(length))

    def _write(self, path: str, file: int, offset: int, data: bytes) -> Op:
        self._sizes[file] = max(self._sizes[file], offset + len(data))
        return Op("write", path, file, offset, data)

    def _metadata(self, name: str, given: str) -> Iterator[Op]:
        named = _paths(given)[-1]
        file, path = self._file(named), self._below(named)
        if not file and path is None:
            return
        if name == "utimensat":
            seconds, rest = _TIME.findall(given)[-1]
            yield Op("mtime", path or "", file, int(seconds) * 10**9 + int(rest))
        else:
            yield Op("mode", path or "", file, int(given.rpartition(",")[2], 8))

    def _names(self, name: str, given: str, answer: int) -> Iterator[Op]:
        *_, first, last = ["", *_paths(given)]
        path = self._below(last)
        if name == "openat":
            yield from self._open(path, self._file(last), given, answer)
        elif path is None:
            return
        elif name.startswith("mkdir"):
            yield Op("mkdir", path)
        elif name.startswith("unlink"):
            yield Op("unlink", path, self._files.pop(path))
        elif name.startswith("rename"):
            old = self._below(first)
            assert old is not None, given
            self._files[path] = file = self._files.pop(old)
            yield Op("rename", old, file, target=path)
        elif name == "linkat":
            self._files[path] = file = self._file(first)
            yield Op("link", "", file, target=path)
        elif name == "symlinkat":
            yield Op("symlink", path, self._new(path), target=_strings(given)[0].decode())
        else:
            assert "S_IFIFO" in given, f"{name} of {path} is not understood"
            yield Op("fifo", path, self._new(path))

    def _open(self, path: str | None, file: int, given: str, answer: int) -> Iterator[Op]:
        if path is not None and not file and "O_CREAT" in given:
            file = self._new(path)
            yield Op("create", path, file)
        elif path is not None and file and "O_TRUNC" in given:
            self._sizes[file] = 0
            yield Op("truncate", path, file)
        self._opened[answer], self._at[answer] = file, -1 if "O_APPEND" in given else 0

    def _new(self, path: str) -> int:
        self._last += 1
        self._files[path], self._sizes[self._last] = self._last, 0
        return self._last

    def _file(self, path: str) -> int:
        """0 for a directory, and for what is not below the root."""
        if opened := _OPENED.match(path):
            return self._opened.get(int(opened[1]), 0)
        return self._files.get(self._below(path) or "", 0)

    def _below(self, path: str) -> str | None:
        if path == self._root:
            return "."
        relative = path.removeprefix(self._root + "/")
        return None if relative == path or path.endswith("-shm") else relative


def _paths(given: str) -> list[str]:
    """The paths that a call names, by strings from the directory before them, or descriptors."""
    found: list[str] = []
    directory, used = "", True
    for part in _PART.finditer(given):
        if part[2] is None:
            if not used:
                found.append(directory)
            directory, used = _unescaped(part[1]), False
        else:
            found.append(os.path.join(directory, _unescaped(part[2])))
            used = True
    return found if used else [*found, directory]


def _calls(trace: Path) -> Iterator[tuple[str, str, int]]:
    waiting: dict[str, tuple[str, str]] = {}
    for line in trace.read_text().splitlines():
        if begun := _UNFINISHED.match(line):
            waiting[begun[1]] = begun[2], begun[3]
            continue
        if ended := _RESUMED.match(line):
            name, given = waiting.pop(ended[1])
            line = f"{ended[1]} {name}({given}{ended[3]}"
        if whole := _LINE.match(line):
            yield whole[2], whole[3], int(whole[4])


def _strings(given: str) -> list[bytes]:
    found = (part[2] for part in _PART.finditer(given))
    return [bytes.fromhex(each.replace("\\x", "")) for each in found if each is not None]


def _unescaped(text: str) -> str:
    return re.sub(r"\\x([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), text)
