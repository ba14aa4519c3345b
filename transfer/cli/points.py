"""List the recovery points of this machine's domain, or those of [MACHINE/]ITEM.

Of each item the oldest comes first. A point whose signature does not hold is named, and the others
are listed all the same.

Examples:
  transfer points --vault /mnt/vault
  transfer points home --vault /mnt/vault --json

Exit status: 0 done, 64 no such item, 65 a point is damaged, or the vault is an older copy of
itself, 77 wrong passphrase.
"""

import argparse

from transfer.cli import options, output


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "item", metavar="ITEM", nargs="?",
        help="only this item's; MACHINE/ITEM is another machine's",
    )  # fmt: skip
    options.add_agent(parser)


def run(args: argparse.Namespace) -> output.Outcome:
    from transfer.jobs import points as job

    found = options.run_agent(args, lambda agent: job.list_points(agent, args.item))
    lines = [
        f"{each.point[:16]}  {each.time}  {output.size(each.bytes_source):>10}  "
        f"{each.files:>8} files  {output.printable(each.machine)}/{each.item}"
        for each in found.points
    ]
    return output.of_result(found, lines)
