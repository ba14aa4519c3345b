"""Options that commands share, and how an agent command runs."""

import argparse
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from transfer.cli import values

if TYPE_CHECKING:
    from transfer.jobs.agent import Agent
    from transfer.throttle.dispatch import ClassName

T = TypeVar("T")


def add_common(parser: argparse.ArgumentParser, default: Any = argparse.SUPPRESS) -> None:
    """They may stand before the command as well, which is where *default* is set."""
    add = parser.add_argument
    add("--json", action="store_true", default=default, help="print one JSON object at the end")
    add("--quiet", action="store_true", default=default, help="print errors and warnings only")
    add("--verbose", action="store_true", default=default,
        help="say on stderr what is done, and why something failed")  # fmt: skip


def add_agent(parser: argparse.ArgumentParser) -> None:
    add_common(parser)
    add = parser.add_argument
    add("--vault", type=Path, metavar="DIR",
        help="a vault in a directory, opened in this process (default: the one that this machine "
        "is registered with)")  # fmt: skip
    add("--state", type=Path, metavar="DIR",
        help="what this machine remembers (default: TRANSFER_STATE, /var/lib/transfer for root, "
        "else the user's state directory)")  # fmt: skip
    add("--passphrase-file", type=Path, metavar="FILE",
        help="default: TRANSFER_PASSPHRASE_FILE, else ask on the terminal")  # fmt: skip
    add("--recovery-key-file", type=Path, metavar="FILE",
        help="open the keyring with a printed recovery key")  # fmt: skip


def add_transfer(parser: argparse.ArgumentParser, class_name: "ClassName" = "backup") -> None:
    """Options of all that moves data. The limits are for transfers over a network."""
    parser.set_defaults(class_name=class_name)
    add = parser.add_argument
    add("--workers", type=values.workers, metavar="N",
        help="worker processes; 0 uses threads (default: one for each core)")  # fmt: skip
    add("--up", type=values.rate, metavar="RATE", help="limit what is sent to a vault over the "
        "network: K M G are bytes a second, kbit Mbit Gbit bits a second, or off")  # fmt: skip
    add("--down", type=values.rate, metavar="RATE", help="limit what comes from it, likewise")
    add("--weight", type=values.weight, metavar="N", help="this run's part of the "
        "machine's limits beside other runs (default: 1); restores have twice as much")  # fmt: skip
    add("--connections", type=values.connections, metavar="N",
        help="connections to a far vault, or auto: as many as pay (default)")  # fmt: skip
    add("--give-up-after", type=values.duration, metavar="TIME",
        help="wait so long (90s, 30m, 1h) for a vault that is in use or away")  # fmt: skip


def run_agent(
    args: argparse.Namespace, job: "Callable[[Agent], Awaitable[T]]", *, create: bool = False,
    name: str | None = None, new_domain: bool = False,
) -> T:  # fmt: skip
    """Open state, vault and keyring as the options say, and run *job* with them."""
    if args.vault is not None:
        _check_limits(args)
    # What runs takes a tenth of a second to import; `--help` is not to wait for it.
    from transfer.cli.running import run

    return run(args, job, create=create, name=name, new_domain=new_domain)


def _check_limits(args: argparse.Namespace) -> None:
    """A limit that limits nothing would be a lie."""
    for name in ("up", "down", "weight", "connections"):
        if getattr(args, name, None) is not None:
            from transfer.jobs.agent import limits_nothing

            raise limits_nothing(name, args.vault)


def as_bytes(text: str) -> bytes:
    return os.fsencode(text)
