"""Fetch and open everything below ITEM[@POINT], and write nothing.

Every frame is fetched, checked, opened and compared with its ID, exactly as a restore would.

Examples:
  transfer verify home --vault /mnt/vault
  transfer verify home@3f5a --sample 5% --vault /mnt/vault

Exit status: 0 all of it opens, 64 no such item or point, 65 something is damaged or missing, and
is named, 77 wrong passphrase.
"""

import argparse

from transfer.cli import options, output, values
from transfer.cli.output import size


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "item", metavar="ITEM[@POINT]", help="POINT is an ID, its start, or latest (default)"
    )
    parser.add_argument(
        "--sample", type=values.share, default=1.0, metavar="SHARE",
        help="of the blocks only so many, chosen by chance, as 5%%; all else in full",
    )  # fmt: skip
    options.add_transfer(parser, "restore")
    options.add_agent(parser)


def run(args: argparse.Namespace) -> output.Outcome:
    from transfer.cli.progress import shown
    from transfer.jobs import restore as job
    from transfer.jobs.agent import Agent

    async def work(agent: Agent) -> job.RestoreResult:
        with shown(args) as progress:
            return await job.verify(agent, args.item, progress, args.workers, args.sample)

    result = options.run_agent(args, work)
    verdict = f"{len(result.damaged)} damaged" if result.damaged else "sound"
    read = f"{result.files} files, {result.blocks} blocks, {size(result.bytes_received)} read"
    line = f"point {result.point[:16]} of {result.item}: {verdict}; {read}"
    return output.of_result(result, [line])
