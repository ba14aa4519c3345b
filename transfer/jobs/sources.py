"""What change sources there are for PATHs, and the end of what they have left."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from transfer.jobs.protected import Protected, resolve


@dataclass
class Offer:
    """The source that a backup of *path* would use; *why* no better one."""

    path: str
    source: str
    why: str = ""


@dataclass
class Offers:
    sources: list[Offer] = field(default_factory=list)


@dataclass
class Cleaned:
    removed: list[str] = field(default_factory=list)


def offers(paths: Sequence[str]) -> Offers:
    """Raises NotFound and UsageError for what is no PATH."""
    found = Offers()
    for path in paths:
        (each,) = resolve([path])
        if isinstance(each, Protected) and each.is_directory:
            found.sources.append(Offer(path, "tree"))
        else:
            source = each.source  # which looks at the file, to be found
            found.sources.append(Offer(path, source.name, source.why))
    return found


async def clean(paths: Sequence[str]) -> Cleaned:
    """Remove what any chain has left of these disks. Raises as `offers` does, and ViewBroken."""
    cleaned = Cleaned()
    for path in paths:
        (each,) = resolve([path])
        if not (isinstance(each, Protected) and each.is_directory):
            cleaned.removed += await each.source.clean()
    return cleaned
