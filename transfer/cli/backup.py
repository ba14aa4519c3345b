"""Make a recovery point of ITEM from PATH: directories, or a file or block device as an image.

A second run reads only files that changed, and sends only blocks that the vault lacks. Exit status:
0 done, 3 done with warnings (each skipped file is named), 64 usage, 75 try again later.
"""

import argparse
from pathlib import Path

from transfer.cli import options, output
from transfer.cli.output import size
from transfer.errors import UsageError


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("item", metavar="ITEM", help="its name: 1 to 64 of A-Z a-z 0-9 . _ -")
    parser.add_argument("paths", metavar="PATH", nargs="+", type=Path)
    parser.add_argument("--exclude", action="append", default=[], metavar="GLOB",
                        help="as in .gitignore, without negation; may be repeated")  # fmt: skip
    parser.add_argument("--exclude-from", type=Path, metavar="FILE", help="GLOBs, one per line")
    parser.add_argument("--exclude-caches", action="store_true",
                        help="of directories with a CACHEDIR.TAG keep the tag only")  # fmt: skip
    parser.add_argument("--one-file-system", action="store_true")
    parser.add_argument("--block-size", type=options.block_size, default=2**20, metavar="N")
    parser.add_argument("--compression", choices=("auto", "fast", "better", "off"), default="auto")
    parser.add_argument("--full", action="store_true", help="read everything")
    parser.add_argument("--dry-run", action="store_true", help="make no recovery point")
    options.add_workers(parser)
    options.add_agent(parser)


def run(args: argparse.Namespace) -> output.Outcome:
    from transfer.cli.progress import shown
    from transfer.jobs import backup as job
    from transfer.jobs.agent import Agent

    chosen = job.BackupOptions(
        args.item, args.paths, _globs(args), args.exclude_caches, args.one_file_system,
        args.block_size, args.compression, args.full, args.dry_run, args.workers,
    )  # fmt: skip
    job.check(chosen)

    async def work(agent: Agent) -> job.BackupResult:
        async with shown(args) as progress:
            return await job.backup(agent, chosen, progress)

    result = options.run_agent(args, work, create=True)
    name = f"point {result.point[:16]}" if result.point else "dry run"
    line = (
        f"{name} of {result.item}: {size(result.bytes_source)}, {result.files} files; "
        f"read {size(result.bytes_read)}, stored {size(result.bytes_stored)} "
        f"in {result.seconds:.1f} s"
    )
    return output.of_result(result, [line])


def _globs(args: argparse.Namespace) -> list[bytes]:
    globs = [options.as_bytes(glob) for glob in args.exclude]
    if args.exclude_from:
        try:
            globs += args.exclude_from.read_bytes().splitlines()
        except OSError as error:
            raise UsageError(f"{args.exclude_from}: {error.strerror}") from error
    return globs
