"""The keyring: show it, change the passphrase, print a new recovery key, rotate keys.

A soft rotation begins an epoch: new data gets a new key, nothing is sent again. --hard is for after
a compromise: everything is read and sent again under new IDs, the passphrase must be another one,
and recovery keys must be printed anew.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.cli import options, output
from transfer.cli.passphrase import prompt, read_secret
from transfer.errors import UsageError

if TYPE_CHECKING:
    from transfer.jobs.agent import Agent

NO_RECOVERY_KEY = "no recovery key opens this keyring: print one with `transfer key recovery`"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("status", "passphrase", "recovery", "rotate"))
    parser.add_argument(
        "--new-passphrase-file", type=Path, metavar="FILE", help="with passphrase, rotate --hard"
    )
    parser.add_argument(
        "--hard", action="store_true", help="with rotate: a new generation, after a compromise"
    )
    options.add_agent(parser)


def run(args: argparse.Namespace) -> output.Outcome:
    _check(args)

    async def work(agent: "Agent") -> tuple[dict[str, Any], str | None]:
        from transfer.jobs import keys as job

        printed = None
        if args.action == "passphrase":
            await job.change_passphrase(agent, _new(args))
        elif args.action == "recovery":
            printed = await job.new_recovery_key(agent)
        elif args.hard:
            await job.rotate_hard(agent, _new(args))
        elif args.action == "rotate":
            await job.rotate(agent)
        return dataclasses.asdict(job.key_status(agent)), printed

    return _outcome(*options.run_agent(args, work))


def _check(args: argparse.Namespace) -> None:
    if args.hard and args.action != "rotate":
        raise UsageError(f"--hard is no option of `key {args.action}`", "it goes with rotate")
    if args.new_passphrase_file and not (args.hard or args.action == "passphrase"):
        raise UsageError(
            f"`key {args.action}` takes no new passphrase", "key passphrase and rotate --hard do"
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


def _new(args: argparse.Namespace) -> str:
    if args.new_passphrase_file:
        return read_secret(args.new_passphrase_file)
    return prompt(True)
