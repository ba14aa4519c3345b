"""The actions of `transfer vault` on who may use it: credentials, machines, the authority.

They work beside a running server, and take no lock of the vault.
"""

import argparse
import os
from pathlib import Path
from typing import Any

import msgspec

from transfer.cli import output
from transfer.crypto import certificates
from transfer.errors import DamagedData, FormatError, NotFound, UsageError
from transfer.formats import credential, documents
from transfer.formats.credential import Credential, CredentialKind, checked_url
from transfer.formats.record import MachineRecord
from transfer.vault.directory import explained
from transfer.vault.registry import Registry, registry_of

_MAX_ADDRESS_FILE = 4096
_MAX_VALID = 365 * 24 * 3600  # seconds


class _Address(msgspec.Struct):
    """DIR/address.json, which a server writes: where it listens."""

    url: str


# Credentials.


def run_credentials(args: argparse.Namespace) -> output.Outcome:
    if not 0 < args.valid <= _MAX_VALID:
        raise UsageError("--valid is more than nothing, and at most a year", "write 48h or 30m")
    if args.out == "-" and args.quiet and not args.json:
        raise UsageError("--quiet would hide the credential", "leave it out, or name a file")
    registry = registry_of(args.directory)
    url = checked_url(args.url) if args.url else _last_address(args.directory)
    target = args.for_machine or args.read_machine
    confirmed = [] if target is None else [_described_target(registry.find(target))]
    if args.out == "-":
        made = _make(registry, args, url)
        text = credential.encode(made).decode()
        return output.Outcome({**_described(made), "credential": text}, [text.rstrip()])
    made = _make_file(registry, args, url)
    result = {**_described(made), "file": args.out}
    return output.Outcome(result, [*_explained(made, args.out), *confirmed])


def _last_address(path: Path) -> str:
    try:
        with explained(path), (path / "address.json").open("rb") as file:
            raw = file.read(_MAX_ADDRESS_FILE)
    except NotFound as error:
        raise UsageError(
            "where will machines find this vault? No server has told its address yet",
            "name it with --url https://HOST:PORT, or start `transfer vault serve` first",
        ) from error
    try:
        return checked_url(documents.decode(raw, _Address, str(path / "address.json")).url)
    except (FormatError, UsageError) as error:
        raise UsageError(str(error), "name the address with --url https://HOST:PORT") from error


def _make(registry: Registry, args: argparse.Namespace, url: str) -> Credential:
    kind, machine = CredentialKind.REGISTER, args.for_machine or args.read_machine
    if machine is not None:
        kind = CredentialKind.FOR if args.for_machine else CredentialKind.READ
    return registry.make_credential(kind, machine, int(args.valid * 10**9), url)


def _make_file(registry: Registry, args: argparse.Namespace, url: str) -> Credential:
    """The file first: a credential that cannot be written must not void the one before."""
    try:
        descriptor = os.open(args.out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UsageError(
            f"{args.out} cannot be made: {error.strerror}", "name another file with --out"
        ) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            made = _make(registry, args, url)
            file.write(credential.encode(made))
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        os.unlink(args.out)
        raise
    return made


def _described(made: Credential) -> dict[str, Any]:
    return {
        "id": made.id.hex(), "kind": made.kind.value, "machine": made.machine,
        "vault": made.vault.hex(), "url": made.url, "expires": credential.when(made.expires),
    }  # fmt: skip


def _explained(made: Credential, file: str) -> list[str]:
    whom = {
        CredentialKind.REGISTER: "new machines",
        CredentialKind.FOR: f"machine {made.machine}, once",
        CredentialKind.READ: f"one machine that may read those of {made.machine}",
    }[made.kind]
    until = credential.when(made.expires)
    return [
        f"credential for {output.printable(whom)} in {output.printable(file)}",
        f"good until {until}, for {made.url}; earlier ones of this kind are void",
    ]


def _described_target(machine: MachineRecord) -> str:
    """What an administrator compares before the file leaves the house."""
    found = _as_json(machine)
    seen, address = found["last_used"] or "never", found["last_address"] or "nowhere"
    return (
        f"{output.printable(found['name'])} is machine {found['id']}, registered "
        f"{found['registered']}, last seen {seen} from {output.printable(address)}"
    )


# Machines.


def run_machines(args: argparse.Namespace) -> output.Outcome:
    registry = registry_of(args.directory)
    if args.revoke is not None:
        revoked = _as_json(registry.revoke(args.revoke))
        line = f"machine {output.printable(revoked['name'])} ({revoked['id']}) is revoked"
        return output.Outcome(revoked, [line])
    machines, damaged = [_as_json(one) for one in registry.machines()], registry.damaged()
    result = {"machines": machines, "damaged": damaged}
    code = DamagedData.exit_code if damaged else 0
    lines = [_HEADER, *map(_line, machines)] if machines else ["no machine has registered"]
    return output.Outcome(result, lines, code)


def _as_json(machine: MachineRecord) -> dict[str, Any]:
    newest = machine.certificates[-1]
    return {
        "name": machine.name,
        "id": machine.machine.hex(),
        "role": machine.role,
        "domain": machine.domain.hex(),
        "registered": certificates.when(machine.registered),
        "last_used": _when(machine.last_used),
        "last_address": machine.last_address,
        "certificate_end": certificates.when(certificates.read(newest.der).ends),
        "revoked": _when(machine.revoked),
    }


def _when(moment: int | None) -> str | None:
    return None if moment is None else certificates.when(moment)


_COLUMNS = "{:<20} {:<32} {:<8} {:<20} {:<20} {}"
_HEADER = _COLUMNS.format("name", "id", "role", "last seen", "certificate's end", "last address")


def _line(machine: dict[str, Any]) -> str:
    end = "revoked" if machine["revoked"] else machine["certificate_end"]
    return _COLUMNS.format(
        output.printable(machine["name"]), machine["id"], machine["role"],
        machine["last_used"] or "never", end, output.printable(machine["last_address"] or ""),
    ).rstrip()  # fmt: skip


# The authority.


def run_ca(args: argparse.Namespace) -> output.Outcome:
    authority = registry_of(args.directory).authority
    if args.renew:
        authority.renew()
    found = [
        {
            "id": ca.key.hex(),
            "begins": certificates.when(ca.begins),
            "ends": certificates.when(ca.ends),
        }
        for ca in map(certificates.read, authority.trusted())
    ]
    lines = [f"{one['id'][:16]}  {one['begins']} to {one['ends']}" for one in found]
    lines[0] += "  signs"
    return output.Outcome({"authorities": found}, lines)
