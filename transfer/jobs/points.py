"""What is in the vault: points, and the entries of one."""

import base64
from dataclasses import dataclass
from datetime import UTC, datetime

from transfer.errors import NotFound
from transfer.formats.entry import Entry, Root
from transfer.formats.reference import Reference
from transfer.jobs.agent import Agent, of_item
from transfer.pipeline import tasks
from transfer.pipeline.batching import task_group
from transfer.pipeline.fetch import NodeReader


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
class EntrySummary:
    path: str
    type: str
    size: int
    mode: int
    mtime: int
    path_b64: str | None = None


async def list_points(agent: Agent, item: str | None = None) -> list[PointSummary]:
    """The domain's points, or those of [MACHINE/]ITEM, oldest first."""
    listed = await agent.list_points()
    if item is not None:
        listed = of_item(listed, agent.machine, item)
    return [
        PointSummary(
            each.id.hex(), each.details.item, each.details.machine, each.point.number,
            rfc3339(each.point.view_time), each.point.consistency.name.lower().replace("_", "-"),
            each.details.counts.bytes_source, each.details.counts.files,
        )
        for each in sorted(listed, key=lambda each: (each.details.item, each.point.order))
    ]  # fmt: skip


def rfc3339(ns: int) -> str:
    return (
        datetime.fromtimestamp(ns / 1e9, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    )


async def list_entries(agent: Agent, item: str, path: bytes = b"") -> list[EntrySummary]:
    """The entries of the directory *path* of a point, or the one entry that *path* names."""
    listed = await agent.find(item)
    session = await agent.vault.open_session(agent.domain, None)
    try:
        async with agent.pool(1, tasks.Tools) as pool, task_group() as group:
            nodes = NodeReader(pool, agent.vault, session.number, group)
            return await _entries(nodes, listed.point.root, path.strip(b"/"))
    finally:
        await agent.vault.end_session(session.number)


async def _entries(nodes: NodeReader, root: Reference | None, path: bytes) -> list[EntrySummary]:
    parts = path.split(b"/") if path else []
    walked: list[bytes] = []
    for part in parts:
        found = [entry async for entry, _ in nodes.entries(root) if entry.name == part]
        if not found:
            raise NotFound(f"{path.decode(errors='backslashreplace')} is not in this point")
        walked.append(part)
        if not isinstance(found[0].content, Root):
            if len(walked) < len(parts):
                raise NotFound(f"{part.decode(errors='backslashreplace')} is no directory")
            return [_summary(found[0], b"/".join(walked))]
        root = found[0].content.reference
    prefix = b"/".join(walked)
    return [
        _summary(entry, prefix + b"/" + entry.name if prefix else entry.name)
        async for entry, _ in nodes.entries(root)
    ]


def _summary(entry: Entry, path: bytes) -> EntrySummary:
    text = path.decode(errors="backslashreplace")
    encoded = None if text.encode() == path else base64.b64encode(path).decode()
    return EntrySummary(text, entry.type.name.lower(), entry.size, entry.mode, entry.mtime, encoded)
