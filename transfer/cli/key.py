"""The keyring: show it, change the passphrase, print a new recovery key, rotate keys.

A soft rotation begins an epoch: new data gets a new key, nothing is sent again. --hard is for after
a compromise: everything is read and sent again under new IDs, and recovery keys must be made anew.
"""

import argparse
import dataclasses
from pathlib import Path

from transfer.cli import options, output
from transfer.cli.passphrase import prompt, read_secret


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("status", "passphrase", "recovery", "rotate"))
    parser.add_argument("--new-passphrase-file", type=Path, metavar="FILE")
    parser.add_argument("--hard", action="store_true", help="with rotate: a new generation")
    options.add_agent(parser)


def run(args: argparse.Namespace) -> output.Outcome:
    from transfer.jobs import keys as job
    from transfer.jobs.agent import Agent

    async def work(agent: Agent) -> tuple[job.KeyStatus, str | None]:
        printed = None
        if args.action == "passphrase":
            await job.change_passphrase(agent, _new(args))
        elif args.action == "recovery":
            printed = await job.new_recovery_key(agent)
        elif args.action == "rotate":
            await job.rotate(agent, _new(args) if args.hard else None)
        return job.key_status(agent), printed

    status, printed = options.run_agent(args, work)
    found = dataclasses.asdict(status)
    lines = [f"{name:<14} {value}" for name, value in found.items()]
    if printed is not None:
        found["recovery_key"] = printed
        lines = [printed, "print it and keep it away from the machine; it is not shown again"]
    return output.Outcome(found, lines)


def _new(args: argparse.Namespace) -> str:
    if args.new_passphrase_file:
        return read_secret(args.new_passphrase_file)
    return prompt(True)
