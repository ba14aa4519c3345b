"""The disks of a running QEMU, made out of what QMP says: no I/O here.

    guest or export -> throttle (a filter) -> d0 (qcow2) -> its file
                               ^ here a view puts its copy-before-write filter in

QEMU 7.2 can put a filter only where another node has a child that `blockdev-reopen` may change
without changing anything else of the node: below a filter, and below the plain raw format. To
reopen a qcow2 node would reset options of it that nothing tells, and with the filter below one the
daemon was seen to abort.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from transfer.errors import Ambiguous, NotFound, UsageError, ViewBroken
from transfer.sources.bitmaps import why_untracked

OURS = "transfer-"
CHAIN_DIGITS = 16
"""Of a chain's ID, in names that have no room for all of them."""
_NAME = re.compile(OURS + r"([0-9a-f]{16}|[0-9a-f]{32})(-[-0-9a-z]+)?")
_FILTER = "copy-before-write"
_BUSY = "another backup of it is under way, or was killed and left its filter"
_REOPENED = {"throttle": {"throttle-group"}, "compress": set(), "raw": set()}
_HINT = (
    "put a throttle filter above it when QEMU is started: "
    "--object throttle-group,id=g --blockdev driver=throttle,node-name=N,file=DISK,throttle-group=g"
)


def own(chain: str) -> str:
    """How names of a chain's nodes and exports begin: a node's name has 31 characters at most."""
    return OURS + chain[:CHAIN_DIGITS]


def chain_of(name: str) -> str:
    """Whose something of that name is; only CHAIN_DIGITS of it for a node, empty if not ours."""
    found = _NAME.fullmatch(name)
    return found[1] if found else ""


@dataclass(frozen=True)
class Bitmap:
    name: str
    is_persistent: bool
    is_recording: bool
    is_consistent: bool


@dataclass(frozen=True)
class Disk:
    """What is attached as one disk; *node* has the content, below all filters.

    *options* are those with which the lowest filter is opened, its child left out; None if a view
    of the disk cannot be had, and then *why* says so.
    """

    name: bytes
    names: frozenset[str]
    node: str
    size: int
    is_written: bool
    is_removable: bool
    options: dict[str, Any] | None
    why: str
    untracked: str
    behind: tuple[str, ...] = ()
    bitmaps: tuple[Bitmap, ...] = ()

    @property
    def why_unseen(self) -> str:
        """Why no view of it can be had; empty if one can, or nobody writes to it."""
        return self.why if self.is_written and self.options is None else ""


@dataclass
class Machine:
    """What QMP says: *blocks* of query-block, *nodes* of query-named-block-nodes, *graph* of
    x-debug-query-block-graph, and *exports* of query-block-exports."""

    blocks: list[dict[str, Any]]
    nodes: list[dict[str, Any]]
    graph: dict[str, Any]
    exports: list[dict[str, Any]]
    _named: dict[str, dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        self._named = {each["node-name"]: each for each in self.nodes}
        names = {each["id"]: each["name"] for each in self.graph["nodes"]}
        self._below: dict[str, list[tuple[str, str]]] = {}
        for edge in self.graph["edges"]:
            parent, child = names[edge["parent"]], names[edge["child"]]
            if parent:
                self._below.setdefault(parent, []).append((edge["name"], child))

    def child(self, name: str, role: str = "file") -> str:
        return next((child for kind, child in self._below.get(name, ()) if kind == role), "")

    def parents(self, name: str) -> list[str]:
        return [
            parent for parent, below in self._below.items() if name in {child for _, child in below}
        ]

    def driver(self, name: str) -> str:
        return str(self._named[name]["drv"]) if name in self._named else ""

    def node(self, name: str) -> dict[str, Any]:
        return self._named[name]

    def own_nodes(self) -> list[str]:
        return [name for name in self._named if name.startswith(OURS)]

    def chains(self) -> set[str]:
        """All that something bears the ID of, or CHAIN_DIGITS of it."""
        names = [*self._named, *(each["id"] for each in self.exports)]
        names += [found.get("name", "") for node in self.nodes for found in _bitmaps(node)]
        return set(map(chain_of, names)) - {""}

    def disks(self) -> list[Disk]:
        """What guests and exports have. Two that end in one node are one disk."""
        found: dict[str, Disk] = {}
        for top, names, is_removable in self._attached():
            disk = self._disk(top, names, is_removable)
            before = found.get(disk.node)
            found[disk.node] = _together(before, disk) if before else disk
        return sorted(found.values(), key=lambda disk: disk.name)

    def _attached(self) -> Iterator[tuple[str, set[str], bool]]:
        for each in self.blocks:
            inserted = each.get("inserted") or {}
            if top := inserted.get("node-name"):
                parts = str(each.get("qdev", "")).split("/")
                device = next((part for part in reversed(parts) if part != "virtio-backend"), "")
                yield top, {each.get("device", ""), device} - {""}, bool(each.get("removable"))
        for each in self.exports:
            if not each["id"].startswith(OURS) and not each["node-name"].startswith(OURS):
                yield each["node-name"], {each["id"]}, False

    def _disk(self, top: str, names: set[str], is_removable: bool) -> Disk:
        path = [top]
        while self._goes_on(path[-1]) and (child := self.child(path[-1])):
            path.append(child)
        node = self._named[path[-1]]
        stable = [each for each in path if self.driver(each) != _FILTER]
        name = stable[-2] if len(stable) > 1 and self.driver(stable[-2]) == "raw" else stable[-1]
        if name.startswith("#") and names:  # QEMU made it up, and makes up another one next time
            name = min(names)
        options, why = self._way_in(path)
        image = node["image"]
        return Disk(
            os.fsencode(name), frozenset(names | set(path)), path[-1], image["virtual-size"],
            not node["ro"], is_removable, options, why, _untracked(node),
            tuple(self._behind(path[-1])), tuple(map(_bitmap, _bitmaps(node))),
        )  # fmt: skip

    def _goes_on(self, name: str) -> bool:
        if self.driver(name) == "raw":
            return not self._lacks("raw", name)
        return self.driver(name) in {*_REOPENED, "copy-on-read", _FILTER}

    def _way_in(self, path: Sequence[str]) -> tuple[dict[str, Any] | None, str]:
        if any(self.driver(each) == _FILTER for each in path):
            return None, _BUSY
        if len(path) < 2:
            return None, "there is no filter above it that a view could be put below"
        if (options := self.options(path[-2])) is None:
            return (
                None,
                f"the {self.driver(path[-2])} node {path[-2]} above it cannot be opened anew",
            )
        return options, ""

    def options(self, name: str) -> dict[str, Any] | None:
        """All those of a filter but its child, as `blockdev-reopen` wants them; None: not known."""
        driver = self.driver(name)  # a block job, or what a guest's device has, is no node
        if driver not in _REOPENED or self._lacks(driver, name):
            return None
        node = self._named[name]
        cache = node["cache"]
        return {
            "driver": driver, "node-name": name, "read-only": node["ro"],
            "detect-zeroes": node["detect_zeroes"],
            "cache": {"direct": cache["direct"], "no-flush": cache["no-flush"]},
            **self._strong(name),
        }  # fmt: skip

    def _behind(self, name: str) -> Iterator[str]:
        while name := self.child(name, "backing"):
            yield str(self._named[name]["image"]["filename"])

    def _lacks(self, driver: str, name: str) -> bool:
        return set(self._strong(name)) != _REOPENED[driver]

    def _strong(self, name: str) -> dict[str, Any]:
        """The options that the node's file name tells: all that bear on its content."""
        said = str(self._named[name]["image"]["filename"])
        if not said.startswith("json:"):
            return {}
        try:
            options = json.loads(said.removeprefix("json:"))
        except ValueError:  # QEMU cuts long ones off
            found = re.search(r'"throttle-group": "([^"\\]*)"', said)
            return {"throttle-group": found[1]} if found else {"cut off": ""}
        return {key: value for key, value in options.items() if key not in {"driver", "file"}}


def chosen(disks: Sequence[Disk], wanted: Sequence[str]) -> list[Disk]:
    """Those that *wanted* names, else all that do not come and go. Raises UsageError."""
    there = ", ".join(sorted("/".join(sorted(disk.names)) for disk in disks)) or "none"
    found = [_one(disks, name, there) for name in wanted] if wanted else [
        disk for disk in disks if not disk.is_removable
    ]  # fmt: skip
    if not found:
        raise NotFound(f"the machine has no disk to back up; there are: {there}")
    if len({disk.node for disk in found}) < len(found):
        raise UsageError(f"disks={','.join(wanted)}: two of them are one disk")
    return found


def _one(disks: Sequence[Disk], name: str, there: str) -> Disk:
    found = [disk for disk in disks if name in disk.names or os.fsencode(name) == disk.name]
    if not found:
        raise NotFound(f"the machine has no disk {name}", f"there are: {there}")
    if len(found) > 1:
        raise Ambiguous(f"{name} is more than one disk", f"there are: {there}")
    return found[0]


def check_viewable(disks: Sequence[Disk]) -> None:
    """Raises UsageError for a disk of which no view can be had, ViewBroken if that will pass."""
    for disk in disks:
        if disk.why_unseen:
            said = f"{os.fsdecode(disk.name)}: {disk.why}"
            if disk.why == _BUSY:
                raise ViewBroken(said, "wait for it, or run `transfer sources clean` for its item")
            raise UsageError(said, _HINT)


def _together(one: Disk, other: Disk) -> Disk:
    return one if one.options is not None else other


def _untracked(node: dict[str, Any]) -> str:
    details = node["image"].get("format-specific", {}).get("data", {})
    if node["drv"] != "qcow2":
        return f"{node['drv']} keeps no bitmaps, qcow2 does"
    if node["ro"]:
        return "it is read-only, and keeps no bitmaps"
    return why_untracked(details)


def _bitmaps(node: dict[str, Any]) -> list[dict[str, Any]]:
    return list(node.get("dirty-bitmaps", ()))


def _bitmap(found: dict[str, Any]) -> Bitmap:
    return Bitmap(
        found.get("name", ""), bool(found.get("persistent")), bool(found.get("recording")),
        not found.get("inconsistent"),
    )  # fmt: skip
