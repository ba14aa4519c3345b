"""Move something large into a vault, no faster than it may be, and show a bar.

    python examples/bulk_upload.py scans /srv/scans --passphrase-file FILE --up 20Mbit

Stop it at any time, with Ctrl-C or by a crash: what was sent is not sent again by the next call.
"""

import argparse
import asyncio
import sys
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

import transfer


async def upload(args: argparse.Namespace) -> transfer.BackupResult:
    async with (
        transfer.connect(
            vault=args.vault, state=args.state, passphrase_file=args.passphrase_file,
            create=args.create,
        ) as client,
        client.backup(
            args.item, args.paths, up=args.up, workers=args.workers, compression="fast"
        ) as run,
    ):  # fmt: skip
        await show(run)
        return await run.result()


async def show(run: transfer.Run[transfer.BackupResult]) -> None:
    bars = Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    )
    with bars:
        bar = bars.add_task("starting", total=None)
        async for progress in run.progress(every=0.2):
            # The total is known for images; a tree is counted while it is read.
            total = progress.bytes_total if progress.fraction is not None else None
            bars.update(bar, description=progress.phase, completed=progress.bytes_done, total=total)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("item")
    parser.add_argument("paths", nargs="+", type=Path, help="a directory, a file or a disk")
    parser.add_argument("--passphrase-file", type=Path, required=True)
    parser.add_argument(
        "--up", metavar="RATE", help="as 20Mbit or 2M; needs a vault over a network"
    )
    parser.add_argument("--vault", type=Path, help="a directory (default: the registered vault)")
    parser.add_argument("--state", type=Path)
    parser.add_argument("--create", action="store_true", help="make the vault if there is none")
    parser.add_argument("--workers", type=int)
    try:
        result = asyncio.run(upload(parser.parse_args()))
    except transfer.errors.TransferError as error:
        print(f"{error}\n  {error.hint}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; the next call goes on from here", file=sys.stderr)
        return 130
    print(f"{result.bytes_source} bytes are safe, {result.bytes_sent} were sent: {result.point}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
