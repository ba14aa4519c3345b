"""A vault in DIR: make it, serve it, say who may use it, check and mend it. None needs a key.

Actions work beside a running server, which sees their effect at once; only `serve` and `rebuild`
need the vault for themselves. `transfer vault ACTION --help` says more, with examples.

Examples:
  transfer vault init /srv/vault --host vault.example.org
  transfer vault serve /srv/vault --listen 0.0.0.0:8443
  transfer vault credentials /srv/vault --out for-new-machines.json
  transfer vault verify /srv/vault

Exit status: 0 done, 64 usage or DIR is no vault, 65 damaged, 75 in use by another process or its
disk is full, 77 no permission.
"""

import argparse
from pathlib import Path

from transfer.cli import actions, output, values
from transfer.cli.actions import Action


def _directory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR", help="the vault's directory")


def _init_options(parser: argparse.ArgumentParser) -> None:
    _directory(parser)
    parser.add_argument(
        "--host", action="append", metavar="NAME|ADDRESS",
        help="by what clients call the server; may be repeated",
    )  # fmt: skip


def _serve_options(parser: argparse.ArgumentParser) -> None:
    _directory(parser)
    parser.add_argument(
        "--listen", default="127.0.0.1:8443", metavar="ADDRESS:PORT",
        help="where to listen (default: 127.0.0.1:8443); port 0 picks one",
    )  # fmt: skip
    parser.add_argument(
        "--log-requests", action="store_true", help="say on stderr what each request asked for"
    )
    parser.add_argument(
        "--until-stdin-closes", action="store_true",
        help="stop as well when standard input ends, as a pipe from a program that has ended does",
    )  # fmt: skip


def _credentials_options(parser: argparse.ArgumentParser) -> None:
    _directory(parser)
    add = parser.add_argument
    add("--out", required=True, metavar="FILE", help="the file to make; - prints it")
    add("--valid", type=values.duration, default=48 * 3600.0, metavar="TIME",
        help="how long it is good (default: 48h)")  # fmt: skip
    add("--url", metavar="https://HOST:PORT",
        help="where machines find the server (default: where it last listened)")  # fmt: skip
    scope = parser.add_mutually_exclusive_group()
    scope.add_argument("--for", dest="for_machine", metavar="MACHINE",
        help="for that machine, by name or ID, which is registered again")  # fmt: skip
    scope.add_argument("--read", dest="read_machine", metavar="MACHINE",
        help="for a new machine that may read that machine's points")  # fmt: skip


def _machines_options(parser: argparse.ArgumentParser) -> None:
    _directory(parser)
    parser.add_argument("--revoke", metavar="NAME", help="answer that machine no more")


def _verify_options(parser: argparse.ArgumentParser) -> None:
    _directory(parser)
    add = parser.add_argument
    add("--for", dest="seconds", type=values.duration, metavar="TIME",
        help="end after so long (90s, 30m, 1h), and go on from there next time")  # fmt: skip
    add("--rate", type=values.rate, metavar="RATE",
        help="read no more than so many bytes a second (50M)")  # fmt: skip


def _ca_options(parser: argparse.ArgumentParser) -> None:
    _directory(parser)
    parser.add_argument(
        "--renew", action="store_true", help="make a successor, which signs from now on"
    )


_ACTIONS = {
    "init": Action("vault_directory", "make a vault in a missing or empty directory", """\
--host names what clients call the server by, besides localhost: its names and addresses. It may be
given again later, for a vault that is there, and replaces what was given before; a server takes it
up when it is next started.

Examples:
  transfer vault init /srv/vault --host vault.example.org --host 192.0.2.7""", _init_options),
    "serve": Action("serve", "answer machines over HTTPS", """\
Prints `listening on https://HOST:PORT` once it is ready, and remembers that address for new
credentials. SIGINT and SIGTERM stop it; what clients were sending then goes on when it is back.

Examples:
  transfer vault serve /srv/vault
  transfer vault serve /srv/vault --listen 0.0.0.0:8443""", _serve_options, "run"),
    "credentials": Action("vault_identity", "let a machine register", """\
Writes a credential, a file to hand over for `transfer register FILE`. It registers new machines,
each with a domain of its own, until it expires or a newer one is made. It gives access to no data,
but keep it secret: who has it can add machines. FILE is never overwritten; - prints.

--for MACHINE registers that machine again, once, after it has lost its state; its old certificate
is revoked when the new one is first used. --read MACHINE registers one new machine that may read
what that machine has backed up. Both ask for the passphrase of that machine's keyring.

Examples:
  transfer vault credentials /srv/vault --out new.json --valid 2h
  transfer vault credentials /srv/vault --out db1.json --for db1""", _credentials_options),
    "machines": Action("vault_identity", "list the machines of a vault, or revoke one", """\
NAME is a machine's name or its ID. A revoked machine is answered no more, from now on, and never
comes back; what it has backed up stays, for a machine registered with `credentials --read`.

Examples:
  transfer vault machines /srv/vault
  transfer vault machines /srv/vault --revoke old-laptop""", _machines_options),
    "ca": Action("vault_identity", "show the certificate authority, or make its successor", """\
Successors are made without being asked, at two thirds of an authority's life of 30 years. The old
one signs the new one, so machines follow when they next call, and certificates stay good.

Examples:
  transfer vault ca /srv/vault
  transfer vault ca /srv/vault --renew""", _ca_options),
    "verify": Action("vault_directory", "read everything, and name what is damaged", """\
Reads every frame against its checksum, and every record. What is damaged is marked, and the next
backup of the machine sends it again.

With --for it ends after that time, at the end of a pack, and the next run with --for goes on from
there: in a timer, that reads the whole vault over and over, a part each night.

Examples:
  transfer vault verify /srv/vault
  transfer vault verify /srv/vault --for 1h --rate 50M""", _verify_options),
    "stats": Action("vault_directory", "count what is there", """\
Examples:
  transfer vault stats /srv/vault --json""", _directory),
    "rebuild": Action("vault_directory", "make a new catalog from packs and records", """\
For a vault whose catalog is lost or damaged. Nothing that was committed is lost by it.

Examples:
  transfer vault rebuild /srv/vault""", _directory),
}  # fmt: skip


def configure(parser: argparse.ArgumentParser) -> None:
    actions.configure(parser, _ACTIONS)


def run(args: argparse.Namespace) -> output.Outcome:
    return actions.run(args, _ACTIONS)
