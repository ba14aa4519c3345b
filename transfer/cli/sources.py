"""Say for each PATH how its changes would be known, and why not in a better way.

    plain     all but holes is read, and compared with the last point's blocks
    reflink   a copy that shares its blocks, beside the file, tells what changed (xfs, btrfs)
    qcow2     a bitmap of ours in the file does, whoever uses the disk between backups
    nbd       all that the server does not call zeros is read
    tree      files whose times or places changed are read

A copy keeps the blocks of its moment: what the file has overwritten since takes space once more.
What is kept for the next backup bears the ID of its vault, domain and item, and only these use it.
`transfer sources clean PATH...` removes all of it, whatever it is for; the next backups read all.

Examples:
  transfer sources /srv/images/vm.raw qcow2:/srv/images/other.qcow2
  transfer sources clean /srv/images/vm.raw

Exit status: 0 done, 64 usage or PATH missing, 75 a disk is in use.
"""

import argparse
import asyncio

from transfer.cli import options, output
from transfer.errors import UsageError

CLEAN = "clean"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths", metavar="PATH", nargs="+", help="as for `transfer backup`; after `clean`: of these"
    )
    options.add_common(parser)


def run(args: argparse.Namespace) -> output.Outcome:
    from transfer.jobs import sources as job

    if args.paths[0] != CLEAN:
        offers = job.offers(args.paths)
        return output.of_result(
            offers, [f"{each.source:<8} {output.printable(each.path)}{_why(each.why)}"
                     for each in offers.sources]
        )  # fmt: skip
    if len(args.paths) == 1:
        raise UsageError("clean names no PATH", "name the disks that are no longer backed up")
    cleaned = asyncio.run(job.clean(args.paths[1:]))
    return output.of_result(cleaned, [f"removed {each}" for each in cleaned.removed])


def _why(why: str) -> str:
    return f": {why}" if why else ""
