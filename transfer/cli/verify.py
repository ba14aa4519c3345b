"""Fetch and open everything below ITEM[@POINT], and write nothing.

Exit status: 0 all of it opens, 65 something is damaged or missing, and is named.
"""

import argparse

from transfer.cli import options, output
from transfer.cli.output import size


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("item", metavar="ITEM[@POINT]")
    options.add_workers(parser)
    options.add_agent(parser)


def run(args: argparse.Namespace) -> output.Outcome:
    from transfer.cli.progress import shown
    from transfer.jobs import restore as job
    from transfer.jobs.agent import Agent

    async def work(agent: Agent) -> job.RestoreResult:
        async with shown(args) as progress:
            return await job.verify(agent, args.item, progress, args.workers)

    result = options.run_agent(args, work)
    verdict = f"{len(result.damaged)} damaged" if result.damaged else "sound"
    read = f"{result.files} files, {result.blocks} blocks, {size(result.bytes_received)} read"
    line = f"point {result.point[:16]} of {result.item}: {verdict}; {read}"
    return output.of_result(result, [line])
