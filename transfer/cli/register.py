"""Begin a domain of this machine's own in the vault of --vault DIR, beside those of others.

A first `transfer backup` into an empty vault does the same; this is for a vault that others use
already. A new passphrase is asked for twice. --name renames a machine that is registered.

Examples:
  transfer register --vault /mnt/vault --name db01

Exit status: 0 done, 64 usage, 77 wrong passphrase.
"""

import argparse

from transfer.cli import options, output


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--name", metavar="NAME", help="what this machine is called (default: its host name)"
    )
    options.add_agent(parser)


def run(args: argparse.Namespace) -> output.Outcome:
    from transfer.jobs.agent import Agent

    async def work(agent: Agent) -> dict[str, str]:
        return {"machine": agent.machine.name, "domain": agent.domain.hex()}

    found = options.run_agent(args, work, create=True, name=args.name, new_domain=True)
    name = output.printable(found["machine"])
    return output.Outcome(found, [f"{name} is in domain {found['domain'][:8]}"])
