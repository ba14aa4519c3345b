"""This machine, its vault and keyring, the last point of each item, and unfinished restores.

Examples:
  transfer status --vault /mnt/vault

Exit status: 0 done, 64 no vault or no keyring in it, 65 a point is damaged, 77 wrong passphrase.
"""

import argparse
import os
from typing import TYPE_CHECKING, Any

from transfer.cli import options, output
from transfer.errors import DamagedData

if TYPE_CHECKING:
    from transfer.jobs.agent import Agent


def configure(parser: argparse.ArgumentParser) -> None:
    options.add_agent(parser)


def run(args: argparse.Namespace) -> output.Outcome:
    from transfer.jobs.points import list_points, rfc3339
    from transfer.jobs.unfinished import unfinished

    async def work(agent: "Agent") -> dict[str, Any]:
        listed = await list_points(agent)
        newest = {(each.machine, each.item): each for each in listed.points}
        return {
            "machine": agent.machine.name,
            "machine_id": agent.machine.id.hex(),
            "vault": agent.vault_id.hex(),
            "domain": agent.domain.hex(),
            "url": agent.place if isinstance(agent.place, str) else None,
            "role": agent.registration.role if agent.registration else "machine",
            "certificate_end": _end(agent),
            "items": [
                {"item": each.item, "machine": each.machine, "point": each.point, "time": each.time}
                for each in newest.values()
            ],
            "unfinished": [
                {"item": each.item, "point": each.point.hex(), "begun": rfc3339(each.begun),
                 "target": os.fsdecode(each.target)}
                for each in unfinished(agent.state) if each.vault == agent.vault_id
            ],
            "damaged": listed.damaged,
        }  # fmt: skip

    found = options.run_agent(args, work)
    lines = [
        f"machine  {output.printable(found['machine'])} ({found['machine_id'][:8]})",
        f"vault    {output.printable(str(args.vault or found['url']))} ({found['vault'][:8]})",
        f"domain   {found['domain'][:8]}",
    ]
    if found["certificate_end"]:
        lines.append(f"until    {found['certificate_end']} (the certificate; it is renewed before)")
    for each in found["items"]:
        name = output.printable(f"{each['machine']}/{each['item']}")
        lines.append(f"item     {name}  {each['time']}  {each['point'][:16]}")
    for each in found["unfinished"]:
        target = output.printable(each["target"])
        lines.append(
            f"restore  {target} is not whole: {output.printable(each['item'])} "
            f"{each['point'][:16]}, begun {each['begun']}; the same restore goes on"
        )
    return output.Outcome(found, lines, DamagedData.exit_code if found["damaged"] else 0)


def _end(agent: "Agent") -> str | None:
    from transfer.crypto import certificates

    if agent.registration is None:
        return None
    return certificates.when(certificates.read(agent.registration.certificate).ends)
