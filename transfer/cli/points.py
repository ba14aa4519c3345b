"""List the recovery points of this machine's domain, or those of [MACHINE/]ITEM."""

import argparse
import dataclasses

from transfer.cli import options, output


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("item", metavar="ITEM", nargs="?")
    options.add_agent(parser)


def run(args: argparse.Namespace) -> output.Outcome:
    from transfer.jobs import points as job

    found = options.run_agent(args, lambda agent: job.list_points(agent, args.item))
    lines = [
        f"{each.point[:16]}  {each.time}  {output.size(each.bytes_source):>10}  "
        f"{each.files:>8} files  {output.printable(each.machine)}/{each.item}"
        for each in found
    ]
    return output.Outcome({"points": [dataclasses.asdict(each) for each in found]}, lines)
