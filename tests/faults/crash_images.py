"""What a power cut could leave of what was asked of a directory's files.

A change of content is durable once its file was synced, a change of names once its directory was;
whatever is not may be there or not, one by one.
"""

import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.recording import Op, numbered

_PIECE = 65536
SILENT = ("told", "sync", "sync-all")


def durable(ops: Sequence[Op]) -> set[int]:
    """The numbers of those that a power cut after all of *ops* leaves."""
    kept: set[int] = set()
    pending: dict[tuple[str, object], list[int]] = {}
    for number, op in enumerate(ops):
        if op.kind == "sync-all":
            kept.update(*pending.values())
            pending.clear()
        elif op.kind == "sync":
            key = ("file", op.file) if op.file else ("names", op.path)
            kept.update(pending.pop(key, []))
        elif op.names:
            for path in op.names:
                pending.setdefault(("names", os.path.dirname(path) or "."), []).append(number)
        elif op.kind != "told":
            key = ("file", op.file) if op.file else ("names", op.path)
            pending.setdefault(key, []).append(number)
    return kept


def cuts(
    ops: Sequence[Op], choice: random.Random, many: int, singly: int | None = None
) -> Iterator[tuple[int, set[int]]]:
    """(end, what is left) for each end: nothing that was not durable, all of it, all but contents,
    all but one thing.

    Of the last *singly* for each end, or all; and *many* random ones in all.
    """
    for end in range(len(ops) + 1):
        if 0 < end < len(ops) and ops[end - 1].kind == "told":
            continue
        kept = durable(ops[:end])
        lost = {n for n in range(end) if n not in kept and ops[n].kind not in SILENT}
        yield end, kept
        if lost:
            yield end, kept | lost
        if contents := {n for n in lost if ops[n].kind == "write"}:
            yield end, kept | lost - contents
        alone = sorted(lost) if len(lost) > 1 else []
        for one in alone if singly is None else choice.sample(alone, min(singly, len(alone))):
            yield end, kept | lost - {one}
    for _ in range(many):
        end = choice.randrange(1, len(ops) + 1)
        kept = durable(ops[:end])
        yield end, kept | {n for n in range(end) if n not in kept and choice.random() < 0.5}


def in_order(ops: Sequence[Op], chosen: set[int]) -> set[int]:
    """With what a file system with a journal had to write before them.

    An inode that was given a name was made, and has all that it had got before but for content.
    """
    kept = set(chosen)
    named: set[int] = set()
    for number in sorted(range(len(ops)), reverse=True):
        op = ops[number]
        if number in kept and op.file and op.kind in ("rename", "link"):
            named.add(op.file)
        elif op.file in named and op.kind not in ("write", *SILENT):
            kept.add(number)
    return kept


def replay(before: Path, into: Path, ops: Sequence[Op], chosen: set[int]) -> dict[str, int]:
    """Make *into* of a copy of *before* by the *chosen* of *ops*; the inode of each name."""
    disk = _Disk(before)
    for number, op in enumerate(ops):
        if number in chosen:
            disk.apply(op)
    return disk.write(into)


@dataclass
class _Inode:
    kind: str = "create"
    content: bytearray = field(default_factory=bytearray)
    target: str = ""
    mode: int = 0o600
    mtime: int | None = None


def _read(path: Path) -> _Inode:
    stat = path.lstat()
    mode, mtime = stat.st_mode & 0o7777, stat.st_mtime_ns
    if path.is_symlink():
        return _Inode("symlink", target=os.readlink(path), mtime=mtime)
    if not path.is_file():
        return _Inode("fifo" if path.is_fifo() else "mkdir", mode=mode, mtime=mtime)
    return _Inode("create", bytearray(path.read_bytes()), mode=mode, mtime=mtime)


class _Disk:
    """Names and inodes, apart from each other."""

    def __init__(self, before: Path) -> None:
        self._names = numbered(before)
        self._inodes = {number: _read(before / path) for path, number in self._names.items()}
        below = (each for each in before.rglob("*") if each.is_dir())
        self._directories = {os.path.relpath(each, before): _read(each) for each in below}

    def apply(self, op: Op) -> None:
        if op.kind == "mkdir":
            self._directories[op.path] = _Inode("mkdir", mode=0o700)
        if op.file:
            inode = self._inodes.setdefault(op.file, _Inode())
        else:
            inode = self._directories.get(op.path, _Inode())
        match op.kind:
            case "create" | "symlink" | "fifo":
                inode.kind, inode.target = op.kind, op.target
                self._names[op.path] = op.file
            case "link":
                self._names[op.target] = op.file
            case "rename":
                self._names.pop(op.path, None)
                self._names[op.target] = op.file
            case "unlink":
                if self._names.get(op.path) == op.file:
                    del self._names[op.path]
            case "mode":
                inode.mode = op.offset
            case "mtime":
                inode.mtime = op.offset
            case "truncate":
                del inode.content[op.offset :]
                inode.content.extend(bytes(op.offset - len(inode.content)))
            case "write":
                inode.content.extend(bytes(max(0, op.offset - len(inode.content))))
                inode.content[op.offset : op.offset + len(op.data)] = op.data

    def write(self, into: Path) -> dict[str, int]:
        into.mkdir()
        for path in sorted(self._directories):
            if (into / path).parent.is_dir():
                (into / path).mkdir()
        names = {
            name: number for name, number in self._names.items() if (into / name).parent.is_dir()
        }
        made: dict[int, Path] = {}
        for name, number in names.items():
            if number in made:
                os.link(made[number], into / name, follow_symlinks=False)
            else:
                made[number] = into / name
                _make(self._inodes[number], into / name)
        for path in sorted(self._directories, reverse=True):
            if (into / path).is_dir():
                _set(self._directories[path], into / path)
        return names


def _make(inode: _Inode, path: Path) -> None:
    match inode.kind:
        case "symlink":
            path.symlink_to(inode.target)
        case "fifo":
            os.mkfifo(path)
        case _:
            _write_sparse(path, inode.content)
    _set(inode, path)


def _write_sparse(path: Path, content: bytearray) -> None:
    with path.open("wb") as file:
        for at in range(0, len(content), _PIECE):
            piece = content[at : at + _PIECE]
            if any(piece):
                file.seek(at)
                file.write(piece)
        file.truncate(len(content))


def _set(inode: _Inode, path: Path) -> None:
    if inode.kind != "symlink":
        path.chmod(inode.mode)
    if inode.mtime is not None:
        os.utime(path, ns=(inode.mtime, inode.mtime), follow_symlinks=False)
