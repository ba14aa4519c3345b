"""Make a recovery point of ITEM from PATH: directories, or a file or block device as an image.

A second run reads only files that changed, and sends only blocks that the vault lacks. A run that
is stopped leaves no point; what it sent stays, and the next run goes on from there.

PATH may name disks by themselves, too: qcow2:FILE is one that no machine uses now, qmp:SOCKET are
those of a QEMU that runs, at one moment, and nbd://HOST/EXPORT or nbd+unix:///EXPORT?socket=PATH is
what a server exports. Of qcow2 disks, and of an image on xfs or btrfs, only blocks are read that
changed: `transfer sources PATH` says how that is known. qmp:SOCKET may be followed by
?disks=A,B&agent=SOCKET&freeze=SECONDS&nbd=SOCKET&fleece=DIR&fleece-size=SIZE: by default all disks,
and no guest agent that freezes its file systems.

Examples:
  transfer backup home /home --vault /mnt/vault --exclude-caches --exclude '*.tmp'
  transfer backup vm /dev/vg0/vm --vault /mnt/vault
  transfer backup vm qcow2:/var/lib/libvirt/images/vm.qcow2
  transfer backup vm 'qmp:/run/vm.qmp?agent=/run/vm.agent'

Exit status: 0 done, 3 done with warnings (each skipped file is named), 64 usage or PATH missing,
65 damaged data, 75 vault or item in use, or a disk full: try again later, 77 wrong passphrase.
"""

import argparse
from pathlib import Path

from transfer.cli import advice, options, output, values
from transfer.cli.output import size
from transfer.errors import UsageError


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("item", metavar="ITEM", help="its name: 1 to 64 of A-Z a-z 0-9 . _ -")
    add("paths", metavar="PATH", nargs="+",
        help="directories, or files and devices; symlinks among them are followed")  # fmt: skip
    add("--exclude", action="append", default=[], metavar="GLOB",
        help="as in .gitignore, without negation; may be repeated")  # fmt: skip
    add("--exclude-from", type=Path, metavar="FILE", help="GLOBs, one per line")
    add("--exclude-caches", action="store_true",
        help="of directories with a CACHEDIR.TAG keep the tag only")  # fmt: skip
    add("--one-file-system", action="store_true",
        help="leave out other file systems below PATH")  # fmt: skip
    add("--block-size", type=values.block_size, default=2**20, metavar="N",
        help="a power of two from 64K to 4M (default: 1M)")  # fmt: skip
    add("--compression", choices=("auto", "fast", "better", "off"), default="auto",
        help="auto takes more time where the network or a limit is what holds the backup back, and "
        "leaves out what does not get smaller (default)")  # fmt: skip
    add("--check", choices=("all", "sampled"), default="all",
        help="open each block again before it is sent (default), or one in 16: the others are "
        "decrypted and compared with what was encrypted, which takes a fifth less")  # fmt: skip
    add("--full", action="store_true", help="read everything, whatever seems unchanged")
    add("--audit", type=values.share, default=0.001, metavar="SHARE",
        help="of what a disk's tracker calls unchanged look at so much, 64 blocks at most "
        "(default: 0.1%%)")  # fmt: skip
    add("--compare-every", type=values.duration, default=30 * 86400.0, metavar="TIME",
        help="compare all of a disk when so much time has passed (default: 30d)")  # fmt: skip
    add("--no-track", action="store_true",
        help="leave nothing at a disk that tells the next backup what changed")  # fmt: skip
    add("--dry-run", action="store_true", help="make no recovery point")
    options.add_transfer(parser)
    options.add_agent(parser)


def run(args: argparse.Namespace) -> output.Outcome:
    from transfer.cli.progress import shown
    from transfer.jobs import backup as job
    from transfer.jobs.agent import Agent

    chosen = job.BackupOptions(
        args.item, args.paths, _globs(args), args.exclude_caches, args.one_file_system,
        args.block_size, args.compression, args.full, args.dry_run, args.workers,
        job.Audits(args.audit, args.compare_every), not args.no_track, args.check,
    )  # fmt: skip
    job.check(chosen)

    async def work(agent: Agent) -> job.BackupResult:
        with shown(args) as progress:
            return await job.backup(agent, chosen, progress)

    result = options.run_agent(args, work, create=True)
    name = f"point {result.point[:16]}" if result.point else "dry run"
    resumed = f"{size(result.bytes_resumed)} before, " if result.bytes_resumed else ""
    line = (
        f"{name} of {result.item}: {size(result.bytes_source)}, {result.files} files; "
        f"read {resumed}{size(result.bytes_read)}, stored {size(result.bytes_stored)} "
        f"in {result.seconds:.1f} s"
    )
    return output.of_result(result, [line], advice.on_backup(result.limited_by))


def _globs(args: argparse.Namespace) -> list[bytes]:
    globs = [options.as_bytes(glob) for glob in args.exclude]
    if args.exclude_from:
        try:
            globs += args.exclude_from.read_bytes().splitlines()
        except OSError as error:
            raise UsageError(
                f"{args.exclude_from}: {error.strerror}", "name a file with one GLOB a line"
            ) from error
    return globs
