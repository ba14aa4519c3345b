"""Make, check and mend a vault in DIR. None of it needs a key.

`init` makes a vault of a missing or empty directory. `verify` reads every frame against its
checksum, `stats` counts what is there; both work beside another process that has the vault open.
`rebuild` makes a new catalog from packs and records.

Examples:
  transfer vault verify /mnt/vault
  transfer vault rebuild /mnt/vault

Exit status: 0 sound, 64 DIR is no vault, 65 damaged, 75 in use by another process.
"""

import argparse
from pathlib import Path
from typing import Any

from transfer.cli import options, output


def configure(parser: argparse.ArgumentParser) -> None:
    actions = ("init", "verify", "stats", "rebuild")
    parser.add_argument("action", choices=actions, metavar="ACTION", help=", ".join(actions))
    parser.add_argument("directory", type=Path, metavar="DIR", help="the vault's directory")
    options.add_common(parser)


def run(args: argparse.Namespace) -> output.Outcome:
    actions = {"init": _init, "verify": _verify, "stats": _stats, "rebuild": _rebuild}
    return actions[args.action](args.directory)


def _init(path: Path) -> output.Outcome:
    from transfer.cli.running import run_async
    from transfer.vault.open import open_vault

    async def work() -> str:
        vault = await open_vault(path, create=True)
        try:
            return (await vault.info()).vault.hex()
        finally:
            await vault.close()

    found = run_async(work())
    line = f"vault {found[:8]} in {output.printable(str(path))}"
    return output.Outcome({"vault": found}, [line])


def _stats(path: Path) -> output.Outcome:
    from transfer.cli.running import run_async
    from transfer.vault.open import open_vault

    async def work() -> dict[str, int]:
        vault = await open_vault(path, beside=True)
        try:
            return await vault.statistics()
        finally:
            await vault.close()

    found = run_async(work())
    return output.Outcome(dict(found), [f"{name:<13} {value}" for name, value in found.items()])


def _verify(path: Path) -> output.Outcome:
    from transfer.cli.running import run_async
    from transfer.vault.open import verify_vault

    report = run_async(verify_vault(path))
    damaged = [f"{each.place} at {each.offset}: {each.reason}" for each in report.damaged]
    points = [each.hex() for each in report.points_affected]
    found: dict[str, Any] = {
        "frames": report.frames, "bytes": report.bytes, "damaged": damaged,
        "points_affected": points,
    }  # fmt: skip
    lines = [f"{report.frames} frames, {output.size(report.bytes)}: {len(damaged)} damaged"]
    lines += [f"affected: point {each[:16]}" for each in points]
    return output.Outcome(found, lines, 65 if damaged else 0)


def _rebuild(path: Path) -> output.Outcome:
    from transfer.cli.running import run_async
    from transfer.vault.open import rebuild_catalog

    found = run_async(rebuild_catalog(path))._asdict()
    shown = {name: _plain(value) for name, value in found.items()}
    return output.Outcome(shown, [f"{name:<13} {value}" for name, value in shown.items()])


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
