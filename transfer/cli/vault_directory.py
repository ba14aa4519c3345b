"""The actions of `transfer vault` on the whole directory: make, check, count, mend."""

import argparse
import time
from typing import Any

from transfer.cli import output
from transfer.cli.running import run_async
from transfer.crypto.issuing import checked_hosts
from transfer.errors import NotFound
from transfer.vault.authority import Authority
from transfer.vault.directory import read_vault_file
from transfer.vault.open import open_vault, rebuild_catalog, verify_vault
from transfer.vault.scrub import Budget


def run_init(args: argparse.Namespace) -> output.Outcome:
    if args.host is not None:
        checked_hosts(args.host)  # before a vault is made
    found = _vault_of(args)
    line = f"vault {found.hex()[:8]} in {output.printable(str(args.directory))}"
    result: dict[str, Any] = {"vault": found.hex()}
    if args.host is not None:
        authority = Authority(args.directory, found, time.time_ns)
        authority.set_hosts(args.host)
        result["hosts"] = authority.hosts()
    return output.Outcome(result, [line])


def _vault_of(args: argparse.Namespace) -> bytes:
    """The ID of the vault, which is made, or with --host may be open in another process."""
    if args.host is not None:
        try:
            return read_vault_file(args.directory).vault
        except NotFound:
            pass  # or what is there is no vault and not empty, which making one will say

    async def work() -> bytes:
        vault = await open_vault(args.directory, create=True)
        try:
            return (await vault.info()).vault
        finally:
            await vault.close()

    return run_async(work())


def run_stats(args: argparse.Namespace) -> output.Outcome:
    async def work() -> dict[str, int]:
        vault = await open_vault(args.directory, beside=True)
        try:
            return await vault.statistics()
        finally:
            await vault.close()

    found = run_async(work())
    return output.Outcome(dict(found), [f"{name:<13} {value}" for name, value in found.items()])


def run_verify(args: argparse.Namespace) -> output.Outcome:
    report = run_async(verify_vault(args.directory, Budget(args.seconds, args.rate)))
    damaged = [f"{each.place} at {each.offset}: {each.reason}" for each in report.damaged]
    points = [each.hex() for each in report.points_affected]
    found: dict[str, Any] = {
        "frames": report.frames, "bytes": report.bytes, "damaged": damaged,
        "points_affected": points, "part": round(report.part, 4),
    }  # fmt: skip
    lines = [f"{report.frames} frames, {output.size(report.bytes)}: {len(damaged)} damaged"]
    if report.part < 1:
        lines.append(f"{report.part:.0%} of the vault are done; --for goes on from there")
    lines += [f"affected: point {each[:16]}" for each in points]
    return output.Outcome(found, lines, 65 if damaged else 0)


def run_rebuild(args: argparse.Namespace) -> output.Outcome:
    found = run_async(rebuild_catalog(args.directory))._asdict()
    shown = {name: _plain(value) for name, value in found.items()}
    return output.Outcome(shown, [f"{name:<13} {value}" for name, value in shown.items()])


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
