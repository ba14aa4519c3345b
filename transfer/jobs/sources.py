"""What change sources there are for PATHs, and the end of what they have left."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from transfer.jobs.agent import Agent
from transfer.jobs.protected import Protected, resolve
from transfer.sources.changes import Since


@dataclass
class Offer:
    """The source that a backup of *path* would use for *disk*; *why* no better one."""

    path: str
    source: str
    disk: str = ""
    why: str = ""


@dataclass
class Offers:
    sources: list[Offer] = field(default_factory=list)


@dataclass
class Cleaned:
    removed: list[str] = field(default_factory=list)


async def offers(paths: Sequence[str]) -> Offers:
    """Raises NotFound and UsageError for what is no PATH, and what opening a view raises."""
    found = Offers()
    for path in paths:
        (each,) = resolve([path])
        if isinstance(each, Protected) and each.is_directory:
            found.sources.append(Offer(path, "tree"))
        else:
            source = each.source
            found.sources += [
                Offer(path, source.name, disk.decode(errors="backslashreplace"), why)
                for disk, why in await source.offered()
            ]
    return found


async def clean(paths: Sequence[str], whose: Since | None = None) -> Cleaned:
    """Remove what the chains of *whose*, or for None all chains, have left of these disks.

    Raises as `offers` does, and what opening a view raises.
    """
    cleaned = Cleaned()
    for path in paths:
        (each,) = resolve([path])
        if not (isinstance(each, Protected) and each.is_directory):
            cleaned.removed += await each.source.clean(whose)
    return cleaned


async def clean_item(agent: Agent, item: str, paths: Sequence[str]) -> Cleaned:
    """Remove what backups of *item* have left. Raises ItemBusy while there is one, and as `clean`
    does."""
    with agent.state.lock(agent.item_id(item), item):
        return await clean(paths, Since(agent.protects(item)))
