"""The keyring: show it, change the passphrase, print a new recovery key, rotate keys.

status      what opens the newest version, and its generation and epoch
passphrase  a new one replaces the old; old versions of the keyring still open with the old one
recovery    print a new recovery key, which replaces the old one and opens with --recovery-key-file
rotate      begin an epoch: new data gets a new key, nothing is sent again. --hard, after a machine
            or a key was compromised, begins a generation: everything is read and sent again, the
            passphrase must be another one, and the recovery key must be printed anew

Examples:
  transfer key recovery --vault /mnt/vault
  transfer key passphrase --vault /mnt/vault --recovery-key-file printed.txt

Exit status: 0 done, 64 usage, 65 damaged keyring, 75 vault in use: try again later, 77 wrong
passphrase or recovery key, or another machine changed the keyring at the same time.
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.cli import options, output
from transfer.cli.passphrase import prompt
from transfer.errors import UsageError
from transfer.jobs.secret_files import read_secret

if TYPE_CHECKING:
    from transfer.jobs.agent import Agent

NO_RECOVERY_KEY = "no recovery key opens this keyring: print one with `transfer key recovery`"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("status", "passphrase", "recovery", "rotate"))
    parser.add_argument(
        "--new-passphrase-file", type=Path, metavar="FILE",
        help="with passphrase and rotate --hard (default: ask on the terminal)",
    )  # fmt: skip
    parser.add_argument(
        "--hard", action="store_true", help="with rotate: a new generation, after a compromise"
    )
    options.add_agent(parser)


def run(args: argparse.Namespace) -> output.Outcome:
    needs_new = args.action == "passphrase" or args.hard
    _check(args, needs_new)
    # Before anything is opened: what is wrong with it is said at once.
    given = read_secret(args.new_passphrase_file) if args.new_passphrase_file else None

    async def work(agent: "Agent") -> tuple[dict[str, Any], str | None]:
        from transfer.jobs import keys as job

        new = given or prompt(True) if needs_new else ""
        printed = None
        if args.action == "passphrase":
            await job.change_passphrase(agent, new)
        elif args.action == "recovery":
            printed = await job.new_recovery_key(agent)
        elif args.hard:
            await job.rotate_hard(agent, new)
        elif args.action == "rotate":
            await job.rotate(agent)
        return dataclasses.asdict(job.key_status(agent)), printed

    return _outcome(*options.run_agent(args, work))


def _check(args: argparse.Namespace, needs_new: bool) -> None:
    if args.hard and args.action != "rotate":
        raise UsageError(f"--hard is no option of `key {args.action}`", "it goes with rotate")
    if args.quiet and args.action == "recovery" and not args.json:
        raise UsageError("--quiet would hide the recovery key", "leave it out")
    if args.new_passphrase_file and not needs_new:
        raise UsageError(
            f"this takes no new passphrase: key {args.action}", "passphrase and rotate --hard do"
        )
    if needs_new and not args.new_passphrase_file and not sys.stdin.isatty():
        raise UsageError(
            "no new passphrase: there is no terminal to ask on", "use --new-passphrase-file FILE"
        )


def _outcome(status: dict[str, Any], printed: str | None) -> output.Outcome:
    lines = [f"{name.replace('_', ' '):<14} {value}" for name, value in status.items()]
    if printed is not None:
        lines = [
            printed,
            f"opens the keyring of domain {status['domain'][:8]}, instead of older ones",
            "print it and keep it away from the machine; it is not shown again",
        ]
        return output.Outcome({**status, "recovery_key": printed}, lines)
    if not status["recovery_keys"]:
        return output.Outcome({**status, "hint": NO_RECOVERY_KEY}, [*lines, NO_RECOVERY_KEY])
    return output.Outcome(status, lines)
