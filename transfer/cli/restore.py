"""Give ITEM[@POINT] back below --to, or only some of its PATHs.

A tree stands in DIR under its last component, as `cp -a PATH DIR` would put it; an image goes to a
file or device, or into a directory under its name. What exists stays, unless --overwrite says
otherwise. What is damaged in the vault is named, and all else comes back.

Examples:
  transfer restore home --to /tmp/back --vault /mnt/vault
  transfer restore home@3f5a home/alice/letter.odt --to /tmp/back --vault /mnt/vault
  transfer restore vm --to /dev/vg0/vm --overwrite changed --vault /mnt/vault

Exit status: 0 done, 3 something could not be set or was there already, 64 usage or no such item
or point, 65 something is damaged, 75 target full, in use or too small, 77 wrong passphrase.
"""

import argparse
from pathlib import Path

from transfer.cli import advice, options, output
from transfer.cli.output import size


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("item", metavar="ITEM[@POINT]",
        help="POINT is an ID, its start, or latest (default); or MACHINE/ITEM[@POINT]")  # fmt: skip
    add("paths", metavar="PATH", nargs="*", help="as `transfer ls` shows them; all by default")
    add("--to", type=Path, required=True, metavar="PATH",
        help="a directory; for one image also a file or device")  # fmt: skip
    add("--include", action="append", default=[], metavar="GLOB",
        help="only what matches, as --exclude of backup does; may be repeated")  # fmt: skip
    add("--overwrite", choices=("never", "changed", "always"), default="never",
        help="what exists stays (default), gets what differs, or is written anew")  # fmt: skip
    add("--owner", choices=("number", "name", "none"), default="number",
        help="set owners by number (default), by name, or leave them yours")  # fmt: skip
    add("--dry-run", action="store_true", help="write nothing")
    options.add_transfer(parser, "restore")
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
        with shown(args) as progress:
            return await job.restore(agent, chosen, progress)

    result = options.run_agent(args, work)
    kept = f"kept {size(result.bytes_kept)}, " if result.bytes_kept else ""
    line = (
        f"point {result.point[:16]} of {result.item}: {kept}wrote {size(result.bytes_written)}, "
        f"{result.files} files in {result.seconds:.1f} s"
    )
    return output.of_result(result, [line], advice.on_restore(result.limited_by))
