"""Begin a domain of this machine's own in the vault of --vault DIR, beside those of others."""

import argparse

from transfer.cli import options, output


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", metavar="NAME", help="this machine's name (default: host name)")
    options.add_agent(parser)


def run(args: argparse.Namespace) -> output.Outcome:
    from transfer.jobs.agent import Agent

    async def work(agent: Agent) -> dict[str, str]:
        return {"machine": agent.machine.name, "domain": agent.domain.hex()}

    found = options.run_agent(args, work, create=True, name=args.name, new_domain=True)
    name = output.printable(found["machine"])
    return output.Outcome(found, [f"{name} is in domain {found['domain'][:8]}"])
