"""List the entries of ITEM[@POINT], or those of the directory PATH in it.

A PATH that is no directory is listed by itself. Control and undecodable bytes of names are shown as
\\xNN; --json has the exact name as path_b64 where the text is not all of it.

Examples:
  transfer ls home --vault /mnt/vault
  transfer ls home@3f5a home/alice --vault /mnt/vault

Exit status: 0 done, 64 no such item, point or path, 65 something in it is damaged.
"""

import argparse
import stat

from transfer.cli import options, output


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("item", metavar="ITEM[@POINT]", help="POINT is an ID, its start, or latest (default)")
    add("path", metavar="PATH", nargs="?", default="", help="from the root of the point")
    options.add_agent(parser)


def run(args: argparse.Namespace) -> output.Outcome:
    from transfer.jobs import points as job

    path = options.as_bytes(args.path)
    found = options.run_agent(args, lambda agent: job.list_entries(agent, args.item, path))
    lines = [
        f"{each.type:<9} {stat.filemode(each.mode)[1:]} {each.size:>14}  "
        f"{output.printable(each.path)}"
        for each in found.entries
    ]
    outcome = output.of_result(found, lines)
    for entry in outcome.result["entries"]:
        if entry["path_b64"] is None:
            del entry["path_b64"]
    return outcome
