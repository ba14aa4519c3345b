"""This machine, its vault and keyring, and the last point of each item."""

import argparse
from typing import Any

from transfer.cli import options, output


def configure(parser: argparse.ArgumentParser) -> None:
    options.add_agent(parser)


def run(args: argparse.Namespace) -> output.Outcome:
    from transfer.jobs.agent import Agent
    from transfer.jobs.points import list_points

    async def work(agent: Agent) -> dict[str, Any]:
        newest = {(each.machine, each.item): each for each in await list_points(agent)}
        return {
            "machine": agent.machine.name,
            "machine_id": agent.machine.id.hex(),
            "vault": agent.vault_id.hex(),
            "domain": agent.domain.hex(),
            "certificate_end": None,
            "items": [
                {"item": each.item, "machine": each.machine, "point": each.point, "time": each.time}
                for each in newest.values()
            ],
        }

    found = options.run_agent(args, work)
    lines = [
        f"machine  {output.printable(found['machine'])} ({found['machine_id'][:8]})",
        f"vault    {output.printable(str(args.vault))} ({found['vault'][:8]})",
        f"domain   {found['domain'][:8]}",
    ]
    for each in found["items"]:
        name = output.printable(f"{each['machine']}/{each['item']}")
        lines.append(f"item     {name}  {each['time']}  {each['point'][:16]}")
    return output.Outcome(found, lines)
