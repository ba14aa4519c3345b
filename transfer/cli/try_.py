"""Try transfer on PATH: back it up, restore it, verify it, compare both, and say what it took.

A vault is served on loopback by a process of its own, and this program is registered with it, so
all of it is as it will be over a network. It needs no vault, no state, no passphrase and no
network, changes nothing in PATH, and leaves nothing behind. What it makes meanwhile stands in
TMPDIR (default /tmp), whose disk needs room for PATH twice; of a directory that takes more than a
third of what is free, the first files are tried.

Examples:
  transfer try ~/documents
  TMPDIR=/mnt/large transfer try /srv
  transfer try /srv --up 20Mbit --down 100Mbit

Exit status: 0 all came back the same, 3 the same with warnings (what could not be read or set, or
changed meanwhile, is named), 64 usage or PATH missing, 65 something differs, 75 a disk is full.
"""

import argparse
import os
import re
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from transfer.cli import options, output
from transfer.cli.output import printable, size
from transfer.errors import DamagedData

if TYPE_CHECKING:
    from transfer.jobs.try_result import TryResult


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", metavar="PATH", type=Path, help="a directory, or a file or device as an image"
    )
    options.add_transfer(parser)
    options.add_common(parser)


def run(args: argparse.Namespace) -> output.Outcome:
    from transfer.cli.progress import shown
    from transfer.cli.running import run_async
    from transfer.jobs import try_ as job

    chosen = job.TryOptions(args.path, args.workers, args.connections, args.up, args.down)
    _end_with_the_terminal()
    result = run_async(job.try_(chosen, lambda: shown(args)))
    outcome = output.of_result(result, _lines(result))
    if not result.same:
        outcome.exit_code = DamagedData.exit_code
    for each in [] if args.json else result.differences:
        print(f"transfer: {printable(each['path'])}: differs: {each['what']}", file=sys.stderr)
    return outcome


def _end_with_the_terminal() -> None:
    """A terminal that is closed ends this as SIGTERM does, which cleans up; not under nohup."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))


def _lines(result: "TryResult") -> list[str]:
    source = size(result.bytes_source)
    files = f"{result.files} file" + "s" * (result.files != 1)
    ratio = f", 1 : {result.ratio}" if result.ratio else ""
    backup = f"{result.backup_seconds:.1f} s, {size(int(result.backup_speed))}/s"
    restore = f"{result.restore_seconds:.1f} s, {size(int(result.restore_speed))}/s"
    moved = f"read {size(result.bytes_read)}, sent {size(result.bytes_sent)}"
    stored = f"stored {size(result.bytes_stored)}{ratio}"
    server = f"{size(result.memory_server)} the vault's server"
    lines = [
        f"backup   {files}, {source} in {backup}; {moved}, {stored}",
        f"restore  {source} in {restore}; received {size(result.bytes_received)}",
        f"verify   in {result.verify_seconds:.1f} s",
        f"memory   {size(result.memory_client)} with {result.workers} workers, {server}",
    ]
    if not result.whole:
        without = f", without {result.left_out} too large for that" if result.left_out else ""
        lines.append(
            "There is no room for all of it: its first files were tried, up to a third of what is "
            f"free{without}. TMPDIR can name a larger place."
        )
    return [*lines, _verdict(result), *_next(result.path)]


def _verdict(result: "TryResult") -> str:
    if not result.same:
        bad = result.differences_total + len(result.damaged)
        return f"NOT THE SAME: {bad} differences between what went in and what came back"
    but = ", but for what is named here" if result.warnings_total else ""
    return (
        f"the same: names, content and attributes of what came back are those of what went in{but}"
    )


def _next(path: str) -> list[str]:
    name = os.path.basename(os.path.abspath(path))
    item = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:64] or "root"
    shown = shlex.quote(printable(os.path.abspath(path)))
    return [
        "",
        "Nothing of it is left. To keep backups, on the machine that shall have the vault:",
        "  transfer vault init /srv/vault --host NAME",
        "  transfer vault serve /srv/vault --listen 0.0.0.0:8443",
        "  transfer vault credentials /srv/vault --url https://NAME:8443 --out credential.json",
        "and here, with that file:",
        "  transfer register credential.json",
        f"  transfer backup {item} {shown}",
    ]
