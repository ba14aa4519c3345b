"""Find a file in the recovery points of an item, newest first, and bring it back.

python examples/restore_one_file.py home home/alice/letter.odt back --passphrase-file FILE
"""

import argparse
import asyncio
import sys
from pathlib import Path

import transfer
from transfer.errors import DamagedData, NotFound, TransferError


async def bring_back(args: argparse.Namespace) -> Path:
    async with transfer.connect(
        vault=args.vault, state=args.state, passphrase_file=args.passphrase_file
    ) as client:
        point = await newest_with(client, args.item, args.path)
        run = client.restore(
            f"{args.item}@{point.point}", args.to, paths=[args.path], workers=args.workers
        )
        async with run:
            result = await run.result()
    if result.damaged:  # no error: of many files the others came back
        raise DamagedData(result.damaged[0], "look for it in an older point")
    for warning in result.warnings:
        print(f"{warning.path}: {warning.message}", file=sys.stderr)
    print(f"{args.path} as it was at {point.time}")
    return Path(args.to, args.path)


async def newest_with(client: transfer.Client, item: str, path: str) -> transfer.PointSummary:
    listed = await client.points(item)
    for point in reversed(listed.points):
        try:
            await client.entries(f"{item}@{point.point}", path)
        except NotFound:
            continue
        return point
    raise NotFound(f"no point of {item} has {path}", "paths begin with a PATH's last part")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("item")
    parser.add_argument("path", help="as `transfer ls` shows it")
    parser.add_argument("to", type=Path, help="a directory; what exists in it stays")
    parser.add_argument("--passphrase-file", type=Path, required=True)
    parser.add_argument("--vault", type=Path, help="a directory (default: the registered vault)")
    parser.add_argument("--state", type=Path)
    parser.add_argument("--workers", type=int)
    try:
        print(asyncio.run(bring_back(parser.parse_args())))
    except TransferError as error:
        print(f"{error}\n  {error.hint}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
