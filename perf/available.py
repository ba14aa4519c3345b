"""Which programs are measured: ours, its variants, and the peers that are found here."""

import shlex
from pathlib import Path

from perf.far_tools import FarRestic, FarTransfer
from perf.peers import Borg, Kopia, Rclone
from perf.tools import Restic, Tool, Transfer

PEERS = ("restic", "borg", "rclone", "kopia")


def available(
    top: Path, far: bool, variants: dict[str, str], wanted: list[str] | None = None
) -> list[Tool]:
    """Ours first. What is not installed is said; *wanted* leaves out all other peers."""
    ours = FarTransfer if far else Transfer
    tools: list[Tool] = [ours(top / "transfer")]
    tools += [ours(top / name, name, shlex.split(words)) for name, words in variants.items()]
    peers: tuple[type[Tool], ...] = (FarRestic if far else Restic, Borg, Rclone, Kopia)
    for peer in peers:
        if wanted is not None and peer.name not in wanted:
            continue
        if missing := peer.missing():
            lack = ", ".join(missing)
            print(f"{lack} is not installed ({peer.package}): {peer.name} is left out")
        else:
            tools.append(peer(top / peer.name))
    return tools


def variant(text: str) -> tuple[str, str]:
    """NAME=ARGS; raises ValueError for anything that can be no name of a directory and column."""
    name, equals, words = text.partition("=")
    if not equals or not name.replace("-", "").replace(".", "").isalnum():
        raise ValueError(f"{text!r} is not NAME=ARGS")
    if name in ("transfer", *PEERS):
        raise ValueError(f"{name} is a program of its own")
    return name, words
