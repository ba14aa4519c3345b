"""Say for each PATH how its changes would be known, and why not in a better way.

    plain     all but holes is read, and compared with the last point's blocks
    reflink   a copy that shares its blocks, beside the file, tells what changed (xfs, btrfs)
    qcow2     a bitmap of ours in the file does, whoever uses the disk between backups
    qmp       bitmaps of ours in the disks of a machine that runs do, which QEMU keeps
    nbd       all that the server does not call zeros is read
    tree      files whose times or places changed are read

A copy keeps the blocks of its moment: what the file has overwritten since takes space once more.
What is kept for the next backup bears the ID of its vault, domain and item, and only these use it.
The next backup removes what one that was killed has left. `transfer sources clean --item ITEM
PATH...` removes all that backups of ITEM left of its PATHs, and the next one reads all of them;
--all removes what is left for whatever vault and item, of a plain file's directory all copies.

Examples:
  transfer sources /srv/images/vm.raw qcow2:/srv/images/other.qcow2 qmp:/run/vm.qmp
  transfer sources clean --item vm qmp:/run/vm.qmp
  transfer sources clean --all /srv/images/vm.raw

Exit status: 0 done, 64 usage or PATH missing, 75 a disk or the item is in use, 77 wrong passphrase.
"""

import argparse
import asyncio
from typing import TYPE_CHECKING

from transfer.cli import options, output
from transfer.errors import UsageError

if TYPE_CHECKING:
    from transfer.jobs.sources import Offer

CLEAN = "clean"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths", metavar="PATH", nargs="+", help="as for `transfer backup`; after `clean`: of these"
    )
    options.add_agent(parser)
    add = parser.add_argument
    add("--item", metavar="ITEM", help="clean: what was left for backups of it to this vault")
    add("--all", action="store_true", help="clean: what was left for whatever vault and item")


def run(args: argparse.Namespace) -> output.Outcome:
    from transfer.jobs import sources as job

    if args.paths[0] != CLEAN:
        if args.item or args.all:
            raise UsageError("--item and --all are for clean", "transfer sources clean ... PATH")
        offers = asyncio.run(job.offers(args.paths))
        return output.of_result(offers, [_line(each) for each in offers.sources])
    paths = args.paths[1:]
    if not paths:
        raise UsageError("clean names no PATH", "name the disks that are no longer backed up")
    if bool(args.item) == args.all:
        raise UsageError("whose is to go?", "--item ITEM says it, or --all; one of them")
    if args.all:
        cleaned = asyncio.run(job.clean(paths))
    else:
        cleaned = options.run_agent(args, lambda agent: job.clean_item(agent, args.item, paths))
    return output.of_result(cleaned, [f"removed {each}" for each in cleaned.removed])


def _line(offer: "Offer") -> str:
    line = f"{offer.source:<8} {output.printable(offer.path)}"
    line += f" {output.printable(offer.disk)}" if offer.source == "qmp" else ""
    return f"{line}: {output.printable(offer.why)}" if offer.why else line
