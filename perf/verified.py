"""Whether what was restored is what was backed up; outside of all measured time."""

import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tests.acceptance.compare import differences

PIECE = 2**20


class NotRestored(subprocess.CalledProcessError):
    """Content is missing or differs; *stderr* names the first places."""


def lost(source: Path, restored: Path, loses: Iterable[str]) -> list[str]:
    """What is otherwise there of what the program does not promise (*loses*), counted by kind.

    Raises NotRestored for any other difference.
    """
    if source.is_file() and restored.is_file():
        _same_content(source, restored)
        return []
    if not restored.is_dir():
        raise NotRestored(1, ["compare"], stderr=f"{restored} is not there")
    counted = Counter[str]()
    bad = []
    for found in differences(source, restored):
        if found.what in loses:
            counted[found.what] += 1
        else:
            bad.append(f"{found.path!r}: {found.what} {found.left} {found.right}")
    if bad:
        raise NotRestored(len(bad), ["compare"], stderr="; ".join(bad[:10]))
    return [f"{what} of {count}" for what, count in sorted(counted.items())]


def _same_content(one: Path, two: Path) -> None:
    at = 0
    with one.open("rb") as left, two.open("rb") as right:
        while piece := left.read(PIECE):
            if piece != right.read(PIECE):
                raise NotRestored(1, ["compare"], stderr=f"{two} differs after {at} bytes")
            at += len(piece)
        if right.read(1):
            raise NotRestored(1, ["compare"], stderr=f"{two} differs: it is longer")
