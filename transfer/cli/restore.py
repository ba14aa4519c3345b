"""Give ITEM[@POINT] back below --to, or only some of its PATHs.

A tree stands in DIR under its last component, as `cp -a PATH DIR` would put it; an image goes to a
file or device, or into a directory under its name. Exit status: 0 done, 3 something could not be
set or was there already, 65 something is damaged (it is named; all else is restored).
"""

import argparse
from pathlib import Path

from transfer.cli import options, output
from transfer.cli.output import size


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("item", metavar="ITEM[@POINT]", help="POINT: an ID, its start, or latest")
    parser.add_argument("paths", metavar="PATH", nargs="*", help="as `transfer ls` shows them")
    parser.add_argument("--to", type=Path, required=True, metavar="PATH")
    parser.add_argument("--include", action="append", default=[], metavar="GLOB")
    parser.add_argument("--overwrite", choices=("never", "changed", "always"), default="never")
    parser.add_argument("--owner", choices=("number", "name", "none"), default="number")
    parser.add_argument("--dry-run", action="store_true")
    options.add_workers(parser)
    options.add_agent(parser)


def run(args: argparse.Namespace) -> output.Outcome:
    from transfer.cli.progress import shown
    from transfer.jobs import restore as job
    from transfer.jobs.agent import Agent

    chosen = job.RestoreOptions(
        args.item, args.to, [options.as_bytes(path) for path in args.paths],
        [options.as_bytes(glob) for glob in args.include], args.overwrite, args.owner,
        args.dry_run, args.workers,
    )  # fmt: skip

    async def work(agent: Agent) -> job.RestoreResult:
        async with shown(args) as progress:
            return await job.restore(agent, chosen, progress)

    result = options.run_agent(args, work)
    line = (
        f"point {result.point[:16]} of {result.item}: wrote {size(result.bytes_written)}, "
        f"{result.files} files in {result.seconds:.1f} s"
    )
    return output.of_result(result, [line])
