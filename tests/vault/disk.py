"""What the disk holds of a vault at each step of its life, should that be the last.

A step is one call that changes files or makes them durable, or a commit of the catalog, whose own
durability is SQLite's.
"""

import copy
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

_MAKES = ("open", "mkdir")
_CHANGES = ("pwrite", "ftruncate", "rename", "unlink")
_SYNCS = ("fsync", "fdatasync")


class Image(NamedTuple):
    step: str  # the first one that was not made
    path: Path
    told: Any  # a copy of what the vault had acknowledged


class Disk:
    """Keep images of *root* from before each step, with a copy of *told*.

    kept: the process ended, all that was written is there. lost: the power failed, and nothing is
    there that was not synced, neither bytes nor names. torn: as kept, with half of a write.
    """

    def __init__(self, monkeypatch, root, images, told):
        self.root, self.images, self.told = root, images, told
        self.kept, self.lost, self.torn = [], [], []
        self._real = {name: getattr(os, name) for name in _MAKES + _CHANGES + _SYNCS}
        self._changes = 0
        self._synced = {}  # what is durable of files made since, by path
        self._unnamed = set()  # paths whose directory was not synced since they appeared
        self._older = {}  # what a path held that was replaced, until its directory is synced
        for name in self._real:
            monkeypatch.setattr(os, name, self._wrapped(name))

    def __enter__(self):
        sa.event.listen(sa.engine.Engine, "commit", self._committing)
        return self

    def __exit__(self, *_):
        sa.event.remove(sa.engine.Engine, "commit", self._committing)

    def _committing(self, connection):
        changes = connection.connection.dbapi_connection.total_changes
        if changes != self._changes:  # most transactions only read
            self._changes = changes
            self._before("commit", self.root / "catalog")

    def _wrapped(self, name):
        real = self._real[name]

        def call(first, *args, **kwargs):
            path = self._path(first)
            if path is None or (name == "open" and not args[0] & os.O_CREAT):
                return real(first, *args, **kwargs)
            self._before(name, path)
            if name == "pwrite":
                real(first, memoryview(args[0])[: len(args[0]) // 2], args[1])
                self.torn.append(self._image("torn", f"{name} {path.name}"))
            if name == "rename":
                self._replace(Path(args[0]))
            answer = real(first, *args, **kwargs)
            self._after(name, path, args)
            return answer

        return call

    def _path(self, first):
        """The path of a descriptor or name below the root; None for any other."""
        try:
            path = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else first
        except OSError:
            return None
        path = Path(os.fsdecode(path))
        ours = path.is_relative_to(self.root) and not path.name.startswith("catalog.sqlite")
        return path if ours else None

    def _before(self, name, path):
        step = f"{name} {path.name}"
        # Before any other step the image is all but that of a later one, when more was told.
        if name in (*_CHANGES, "commit"):
            self.kept.append(self._image("kept", step))
        if name in (*_SYNCS, "commit"):
            self.lost.append(self._image("lost", step))
            self._lose(self.lost[-1].path)

    def _image(self, how, step):
        number = len(self.kept) + len(self.lost) + len(self.torn)
        # Copying makes files too, outside the root: those calls pass through.
        path = Path(shutil.copytree(self.root, self.images / f"{number}-{how}"))
        return Image(step, path, copy.deepcopy(self.told))

    def _replace(self, path):
        if path.exists() and path not in self._unnamed and path not in self._older:
            self._older[path] = self._synced.get(path, path.read_bytes())

    def _after(self, name, path, args):
        if name in _MAKES:
            self._unnamed.add(path)
            self._synced.setdefault(path, b"")
        elif name == "rename":
            new = Path(args[0])
            self._synced[new] = self._synced.pop(path)
            self._unnamed.discard(path)
            if new not in self._older:
                self._unnamed.add(new)
        elif name == "unlink":
            self._unnamed.discard(path)
            self._synced.pop(path, None)
        elif name in _SYNCS and path.is_dir():
            self._unnamed -= {one for one in self._unnamed if one.parent == path}
            self._older = {one: old for one, old in self._older.items() if one.parent != path}
        elif name in _SYNCS:
            self._synced[path] = path.read_bytes()

    def _lose(self, image):
        for path, content in self._synced.items():
            there = image / path.relative_to(self.root)
            if any(one in self._unnamed for one in (path, *path.parents)):
                shutil.rmtree(there) if there.is_dir() else there.unlink(missing_ok=True)
            elif there.is_file():
                there.write_bytes(self._older.get(path, content))
