"""What restore runs in workers about directories: enter them, look into them, finish them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, ParamSpec, TypeVar

from transfer.errors import TargetRefused
from transfer.files.directories import Place
from transfer.files.metadata import Stat
from transfer.formats.entry import Entry, FileType
from transfer.pipeline.worker_process import Lane
from transfer.pipeline.write_tasks import WriteTools
from transfer.targets.tree import TreeTarget

P = ParamSpec("P")
R = TypeVar("R")


class Entered(NamedTuple):
    """A directory; *leftovers* are the names of unfinished files to go on with, by their keys.

    In one that *is_new* nothing stands.
    """

    place: Place
    leftovers: dict[bytes, bytes]
    is_new: bool


Refusal = OSError | TargetRefused
"""What concerns one directory alone, and ends only that one."""


def enter_directories(
    lane: Lane[WriteTools], wanted: Sequence[tuple[Place, bytes]], resume: bool, everything: bool
) -> list[Entered | Refusal]:
    return [
        _or_refusal(enter_directory, lane, place, name, resume, everything)
        for place, name in wanted
    ]


def _or_refusal(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | Refusal:
    try:
        return work(*args, **kwargs)
    except (OSError, TargetRefused) as error:
        return error


def enter_directory(
    lane: Lane[WriteTools], place: Place, name: bytes, resume: bool, everything: bool
) -> Entered:
    """Make it, or go on in the one that is there, without what a killed restore left in it.

    With *resume*, and where not *everything* is restored, unfinished files that have a key stay
    until the end.
    """
    target = lane.tools.target
    is_new = target.exists(place, name) is None
    below = target.enter_directory(place, name)
    if is_new:
        return Entered(below, {}, True)
    target.sweep(below, keyed=everything and not resume)
    return Entered(below, target.leftovers(below) if resume else {}, False)


class Done(NamedTuple):
    """A directory in which all is done: *entry* in *place*, which was entered as *pinned*."""

    place: Place
    entry: Entry
    pinned: Place


def finish_directories(
    lane: Lane[WriteTools], done: Sequence[Done], everything: bool
) -> list[list[str] | Refusal]:
    return [_or_refusal(finish_directory, lane, *each, everything) for each in done]


def finish_directory(
    lane: Lane[WriteTools], place: Place, entry: Entry, pinned: Place, everything: bool
) -> list[str]:
    """What lost workers, or runs before, have left and nobody went on with goes as well."""
    lane.tools.target.sweep(pinned, keyed=everything)
    return lane.tools.target.finish_directory(place, entry, pinned.pin)


class There(NamedTuple):
    """What stands under a name; of a symlink where it leads."""

    stat: Stat
    leads_to: bytes


def existing(lane: Lane[WriteTools], place: Place, names: Sequence[bytes]) -> list[There | None]:
    return [_there(lane.tools.target, place, name) for name in names]


def _there(target: TreeTarget, place: Place, name: bytes) -> There | None:
    stat = target.exists(place, name)
    if stat is None:
        return None
    is_link = stat.type is FileType.SYMLINK
    return There(stat, target.leads_to(place, name) if is_link else b"")
