"""Register this machine with the vault of FILE, a credential that its administrator made.

It makes a key, a certificate, and the keyring of a domain of this machine's own, whose passphrase
is asked for twice. With a credential for a machine that was registered before, or for reading one,
it opens that machine's keyring, with that one's passphrase. A registration that was cut off is gone
on with by the same command.

With --vault DIR instead of FILE it begins a domain of this machine's own in a vault in a directory,
beside those of others.

Examples:
  transfer register credential.json
  transfer register credential.json --name db01
  transfer register --vault /mnt/vault

Exit status: 0 done, 64 usage or registered already, 75 the vault is away, 77 the credential has
expired, was superseded, edited or used; the name is taken; or wrong passphrase.
"""

import argparse
from pathlib import Path

from transfer.cli import options, output
from transfer.errors import UsageError


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "credential", metavar="FILE", nargs="?", type=Path, help="a credential of the vault"
    )
    parser.add_argument(
        "--name", metavar="NAME", help="what this machine is called (default: its host name)"
    )
    options.add_agent(parser)


def run(args: argparse.Namespace) -> output.Outcome:
    if (args.credential is None) == (args.vault is None):
        raise UsageError("FILE or --vault DIR, and not both", "`transfer register --help`")
    return _near(args) if args.credential is None else _far(args)


def _far(args: argparse.Namespace) -> output.Outcome:
    from transfer.cli.passphrase import passphrase_from, recovery_key_from
    from transfer.cli.running import run_async
    from transfer.formats import credential
    from transfer.jobs import register as job
    from transfer.jobs.opening import Secret, default_state

    try:
        with args.credential.open("rb") as file:
            raw = file.read(credential.MAX_CREDENTIAL + 1)
    except OSError as error:
        raise UsageError(
            f"{args.credential}: {error.strerror}", "name the credential's file"
        ) from error
    secret = Secret(passphrase_from(args), recovery_key_from(args))
    state = args.state or default_state()
    found = run_async(job.register(state, credential.decode(raw), secret, args.name))
    name = output.printable(found.machine)
    line = (
        f"{name} is registered with the vault at {output.printable(found.url)}, "
        f"in domain {found.domain[:8]}, until {found.certificate_end}"
    )
    return output.of_result(found, [line])


def _near(args: argparse.Namespace) -> output.Outcome:
    from transfer.jobs.agent import Agent

    async def work(agent: Agent) -> dict[str, str]:
        return {"machine": agent.machine.name, "domain": agent.domain.hex()}

    found = options.run_agent(args, work, create=True, name=args.name, new_domain=True)
    name = output.printable(found["machine"])
    return output.Outcome(found, [f"{name} is in domain {found['domain'][:8]}"])
