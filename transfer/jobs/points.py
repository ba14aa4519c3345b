"""What is in the vault: points, and the entries of one."""

import base64
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from transfer.errors import DamagedData, NotFound
from transfer.formats.entry import Entry, Root
from transfer.formats.reference import Reference
from transfer.jobs.agent import Agent, ListedPoint
from transfer.pipeline import tasks
from transfer.pipeline.fetch import NodeReader
from transfer.waiting import task_group, to_the_end

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class PointSummary:
    point: str
    item: str
    machine: str
    number: int
    time: str
    consistency: str
    bytes_source: int
    files: int


@dataclass
class PointsResult:
    points: list[PointSummary]
    damaged: list[str]


@dataclass
class EntrySummary:
    path: str
    type: str
    size: int
    mode: int
    mtime: int
    path_b64: str | None = None
    """Where *path* is not all of it: names are bytes, and need not be text."""


@dataclass
class EntriesResult:
    entries: list[EntrySummary] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


async def list_points(agent: Agent, item: str | None = None) -> PointsResult:
    """The domain's points, or those of [MACHINE/]ITEM; of each item the oldest first."""
    listing = await agent.list_points()
    points = listing.points if item is None else agent.of_item(listing, item)
    return PointsResult(
        [_summary_of(each) for each in sorted(points, key=_by_item_and_age)],
        [str(bad.error) for bad in listing.bad],
    )


def _by_item_and_age(each: ListedPoint) -> tuple[str, bytes, tuple[int, int]]:
    return each.details.item, each.details.machine_id, each.point.order


def _summary_of(each: ListedPoint) -> PointSummary:
    return PointSummary(
        each.id.hex(), each.details.item, each.details.machine, each.point.number,
        rfc3339(each.point.view_time), each.point.consistency.name.lower().replace("_", "-"),
        each.details.counts.bytes_source, each.details.counts.files,
    )  # fmt: skip


def rfc3339(ns: int) -> str:
    """Whole seconds, in UTC. Years beyond 9999 have no such time: the last one stands for them."""
    try:
        when = _EPOCH + timedelta(seconds=ns // 10**9)
    except OverflowError:
        when = datetime.max if ns > 0 else datetime.min
    return when.strftime("%Y-%m-%dT%H:%M:%SZ").zfill(20)


async def list_entries(agent: Agent, item: str, path: bytes = b"") -> EntriesResult:
    """The entries of the directory *path* of a point, or the one entry that *path* names.

    Raises NotFound for a path that is not there.
    """
    listed = await agent.find(item)
    session = await agent.vault.open_session(agent.domain, None)
    try:
        async with agent.pool(1, tasks.Tools) as pool, task_group() as group:
            nodes = NodeReader(pool, agent.vault, session.number, group)
            return await _Lister(nodes).entries(listed.point.root, path)
    finally:
        await to_the_end(agent.vault.end_session(session.number))


class _Lister:
    def __init__(self, nodes: NodeReader) -> None:
        self._nodes = nodes
        self._result = EntriesResult()

    async def entries(self, root: Reference | None, path: bytes) -> EntriesResult:
        walked: list[bytes] = []
        parts = [part for part in path.split(b"/") if part not in (b"", b".")]
        for part in parts:
            entry = await self._find(root, part, b"/".join(walked))
            walked.append(part)
            if not isinstance(entry.content, Root):
                if len(walked) < len(parts):
                    raise NotFound(f"{_text(b'/'.join(walked))} is no directory in this point")
                self._result.entries.append(_entry(entry, b"/".join(walked)))
                return self._result
            root = entry.content.reference
        damaged: list[str] = []
        async for entry, _ in self._nodes.entries(root, damaged):
            self._result.entries.append(_entry(entry, b"/".join([*walked, entry.name])))
        self._note(damaged, b"/".join(walked))
        return self._result

    async def _find(self, root: Reference | None, name: bytes, parent: bytes) -> Entry:
        damaged: list[str] = []
        async with aclosing(self._nodes.entries(root, damaged)) as entries:
            async for entry, _ in entries:
                if entry.name == name:
                    return entry
                if entry.name > name:
                    break
        where = _text(parent) if parent else "this point"
        if damaged:
            raise DamagedData(
                f"{where}: nobody can say whether {_text(name)} is in it: {damaged[0]}",
                "the next backup heals it if the source still has it",
            )
        raise NotFound(f"{where} has no {_text(name)}", "`transfer ls` lists what is there")

    def _note(self, damaged: list[str], path: bytes) -> None:
        self._result.damaged += [f"{_text(path) or '/'}: {each}" for each in damaged]


def _entry(entry: Entry, path: bytes) -> EntrySummary:
    text = _text(path)
    encoded = None if text.encode() == path else base64.b64encode(path).decode()
    return EntrySummary(text, entry.type.name.lower(), entry.size, entry.mode, entry.mtime, encoded)


def _text(path: bytes) -> str:
    return path.decode(errors="backslashreplace")
