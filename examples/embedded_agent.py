"""An agent with backups built in: a service calls `protect` on its own schedule; here, once.

    python examples/embedded_agent.py home /home --passphrase-file FILE --vault /mnt/vault

The class of an error says what to do, and its message the rest. Exit status: 0 done, 3 done and
something was skipped, 64 a person is needed, 65 the vault is damaged, 75 try again later.
"""

import argparse
import asyncio
import sys
from pathlib import Path

import transfer
from transfer import errors

TRIES, PAUSE = 3, 60.0  # seconds


async def protect(args: argparse.Namespace) -> transfer.BackupResult:
    """One recovery point. Leaving the blocks early, as when the task is cancelled, is safe."""
    async with (
        transfer.connect(
            vault=args.vault, state=args.state, passphrase_file=args.passphrase_file,
            create=args.create,
        ) as client,
        client.backup(args.item, args.paths, workers=args.workers) as run,
    ):  # fmt: skip
        async for progress in run:
            print(f"{progress.phase}: {progress.files_done} files, {progress.bytes_done} bytes")
        return await run.result()


async def on_schedule(args: argparse.Namespace) -> int:
    for left in reversed(range(TRIES)):
        try:
            return report(await protect(args))
        except errors.ItemBusy as error:
            return tell("another run does it already", error, 0)
        except errors.TransientError as error:
            # The vault is away, a disk is full: what was sent stays, so trying again is cheap.
            tell("try again", error, 75)
        except (errors.UsageError, errors.AccessError) as error:
            return tell("see to the configuration", error, 64)
        except errors.IntegrityError as error:
            return tell("WAKE SOMEBODY UP: the vault is not what it was", error, 65)
        await asyncio.sleep(PAUSE if left else 0)
    return 75


def report(result: transfer.BackupResult) -> int:
    for warning in result.warnings:
        print(f"skipped {warning.path}: {warning.message}", file=sys.stderr)
    print(f"point {result.point[:16]}: {result.files} files, {result.bytes_stored} new bytes")
    return 3 if result.warnings_total else 0


def tell(what: str, error: errors.TransferError, code: int) -> int:
    print(f"{what}: {error} ({error.hint or error.code})", file=sys.stderr)
    return code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("item")
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--passphrase-file", type=Path, required=True)
    parser.add_argument("--vault", type=Path, help="a directory (default: the registered vault)")
    parser.add_argument("--state", type=Path)
    parser.add_argument("--create", action="store_true", help="make the vault if there is none")
    parser.add_argument("--workers", type=int)
    return asyncio.run(on_schedule(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
