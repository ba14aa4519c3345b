"""Serve: a vault's directory behind HTTPS, for as long as a block lasts."""

import ipaddress
import json
import resource
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from transfer.errors import UsageError
from transfer.net.routes import Done
from transfer.net.server import VaultServer
from transfer.vault.directory import explained
from transfer.vault.durable import write_durably
from transfer.vault.open import open_vault
from transfer.vault.registry import registry_of

GRACE = 30.0  # seconds for requests that are under way when the end comes


@asynccontextmanager
async def serving(
    path: Path, host: str, port: int, *, grace: float = GRACE,
    log: Callable[[Done], None] | None = None,
) -> AsyncIterator[str]:  # fmt: skip
    """The address, once the vault in *path* takes calls there; port 0 chooses one.

    At the end calls that are under way get *grace* seconds. Raises NotFound for no vault, LockHeld,
    which names the process that serves it, UsageError for an address that cannot be listened on.
    """
    _allow_descriptors()
    vault = await open_vault(path)
    try:
        registry = registry_of(path)
        server = VaultServer(vault, registry, registry.authority, log=log)
        try:
            found = await server.start(host, port)
        except OSError as error:
            raise UsageError(
                f"cannot listen on {host}:{port}: {error.strerror}",
                "name a free one with --listen ADDRESS:PORT",
            ) from error
        try:
            known_as = _known_as(host, registry.authority.hosts())
            _remember(path, _url(known_as, found))
            yield _url(host, found)
        finally:
            await server.stop(grace)
    finally:
        await vault.close()


def _allow_descriptors() -> None:
    """As many as the system lets us have: a usual limit is as low as our connections are many."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _url(host: str, port: int) -> str:
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def _known_as(host: str, hosts: list[str]) -> str:
    """Where machines find a server that listens on *host*: on all addresses is nowhere."""
    try:
        everywhere = ipaddress.ip_address(host).is_unspecified
    except ValueError:
        everywhere = False
    return next(iter(hosts), socket.gethostname()) if everywhere else host


def _remember(path: Path, url: str) -> None:
    """For credentials that are made from now on."""
    with explained(path):
        write_durably(path / "address.json", json.dumps({"url": url}).encode() + b"\n")
