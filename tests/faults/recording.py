"""What a program asked of a directory's files, by strace, and what a power cut could leave of it.

SQLite's own calls are in it. A change of content is durable once its file was synced, a change of
names once its directory was; whatever is not may be there or not, one by one. The shared memory of
SQLite's log says nothing after a power cut and is left out.
"""

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

CALLS = (
    "openat", "pwrite64", "write", "fsync", "fdatasync", "rename", "renameat", "renameat2",
    "unlink", "unlinkat", "ftruncate", "mkdir", "mkdirat",
)  # fmt: skip
_HEX = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(?:\.\.\.)?')
_LINE = re.compile(r"^(\d+) +(\w+)\((.*)\) += (-?\d+)(.*)$", re.DOTALL)
_UNFINISHED = re.compile(r"^(\d+) +(\w+)\((.*) <unfinished \.\.\.>$", re.DOTALL)
_RESUMED = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>(.*)$", re.DOTALL)
_FD = re.compile(r"^(\d+)<([^>]*)>")


class Op(NamedTuple):
    """*kind* is create, write, truncate, mkdir, rename, unlink, sync, or told."""

    kind: str
    path: str
    file: int = 0
    """Of content: which file, whatever it is called."""
    offset: int = 0
    data: bytes = b""
    target: str = ""

    @property
    def changes_names(self) -> bool:
        return self.kind in ("create", "mkdir", "rename", "unlink")


def record(root: Path, command: Sequence[str], cwd: Path) -> list[Op]:
    """Run *command* and say what it did below *root*; its output is what was told."""
    trace, recording = root.with_name(f"{root.name}.trace"), _Recording(root)
    options = ["-f", "-y", "-xx", "-s", "10000000", "-o", str(trace), "-e", ",".join(CALLS)]
    subprocess.run(
        ["strace", *options, *command], cwd=cwd, check=True, stdout=subprocess.DEVNULL
    )  # fmt: skip
    found = list(recording.ops(trace))
    trace.unlink()
    return found


class _Recording:
    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._files: dict[str, int] = {}
        for number, path in enumerate(sorted(each for each in root.rglob("*") if each.is_file())):
            self._files[os.path.relpath(path, root)] = number + 1

    def ops(self, trace: Path) -> Iterator[Op]:
        for name, given, answer in _calls(trace):
            if answer >= 0 and (op := self._op(name, given, answer)) is not None:
                yield op

    def _op(self, name: str, given: str, answer: int) -> Op | None:
        strings = [bytes.fromhex(each.replace("\\x", "")) for each in _HEX.findall(given)]
        descriptor = _FD.match(given)
        if name == "write" and descriptor is not None and descriptor[1] == "1":
            return Op("told", "", data=strings[0])
        if descriptor is not None:
            path = self._below(_unescaped(descriptor[2]))
            return None if path is None else self._content(name, path, given, strings)
        paths = [self._below(each.decode()) for each in strings]
        if paths[0] is None:
            return None
        return self._names(name, given, paths[0], paths[-1] or "")

    def _content(self, name: str, path: str, given: str, strings: list[bytes]) -> Op | None:
        file = self._files.get(path, 0)
        match name:
            case "pwrite64":
                return Op("write", path, file, int(given.rpartition(",")[2]), strings[0])
            case "ftruncate":
                return Op("truncate", path, file, int(given.rpartition(",")[2]))
            case "fsync" | "fdatasync":
                return Op("sync", path, file)
        raise AssertionError(f"{name} of {path} is not understood")

    def _names(self, name: str, given: str, path: str, target: str) -> Op | None:
        if name.startswith("mkdir"):
            return Op("mkdir", path)
        if name.startswith("rename"):
            self._files[target] = file = self._files.pop(path)
            return Op("rename", path, file, target=target)
        if name.startswith("unlink"):
            return Op("unlink", path, self._files.pop(path))
        if "O_CREAT" not in given or path in self._files:
            return None
        self._files[path] = file = max(self._files.values(), default=0) + 1
        return Op("create", path, file)

    def _below(self, path: str) -> str | None:
        if path == self._root:
            return "."
        relative = path.removeprefix(self._root + "/")
        return None if relative == path or path.endswith("-shm") else relative


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


def _unescaped(text: str) -> str:
    return re.sub(r"\\x([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), text)


def durable(ops: Sequence[Op]) -> set[int]:
    """The numbers of those that a power cut after all of *ops* leaves."""
    kept: set[int] = set()
    pending: dict[tuple[str, object], list[int]] = {}
    for number, op in enumerate(ops):
        if op.kind == "sync":
            key = ("file", op.file) if op.file else ("names", op.path)
            kept.update(pending.pop(key, []))
        elif op.changes_names:
            for path in {op.path, op.target or op.path}:
                pending.setdefault(("names", os.path.dirname(path) or "."), []).append(number)
        elif op.kind != "told":
            pending.setdefault(("file", op.file), []).append(number)
    return kept


def replay(before: Path, into: Path, ops: Sequence[Op], chosen: set[int]) -> None:
    """Make *into* of a copy of *before* by the *chosen* of *ops*."""
    disk = _Disk(before)
    for number, op in enumerate(ops):
        if number in chosen:
            disk.apply(op)
    disk.write(into)


class _Disk:
    """Names and contents, apart from each other."""

    def __init__(self, before: Path) -> None:
        self._names: dict[str, int] = {}
        self._contents: dict[int, bytearray] = {}
        self._directories = {"."}
        files = sorted(each for each in before.rglob("*") if each.is_file())
        for number, path in enumerate(files):
            self._names[os.path.relpath(path, before)] = number + 1
            self._contents[number + 1] = bytearray(path.read_bytes())
        self._directories |= {
            os.path.relpath(each, before) for each in before.rglob("*") if each.is_dir()
        }

    def apply(self, op: Op) -> None:
        content = self._contents.setdefault(op.file, bytearray())
        match op.kind:
            case "create":
                self._names[op.path] = op.file
            case "mkdir":
                self._directories.add(op.path)
            case "rename":
                self._names.pop(op.path, None)
                self._names[op.target] = op.file
            case "unlink":
                if self._names.get(op.path) == op.file:
                    del self._names[op.path]
            case "truncate":
                del content[op.offset :]
                content.extend(bytes(op.offset - len(content)))
            case "write":
                content.extend(bytes(max(0, op.offset - len(content))))
                content[op.offset : op.offset + len(op.data)] = op.data

    def write(self, into: Path) -> None:
        into.mkdir()
        for path in sorted(self._directories - {"."}):
            if os.path.dirname(path) in self._directories | {""}:
                (into / path).mkdir(mode=0o700)
            else:
                self._directories.discard(path)
        for path, file in self._names.items():
            if (into / path).parent.is_dir():
                (into / path).write_bytes(self._contents[file])
