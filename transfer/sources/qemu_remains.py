"""What a view puts into a running QEMU, and how it is taken out: at the end, or after kill -9.

    transfer-CHAIN-a    snapshot-access: what the export serves        CHAIN: 16 of its digits
    transfer-CHAIN-c    copy-before-write, between the disk and the filter above it
    transfer-CHAIN-f    the fleece
    transfer-CHAIN      the ID of the export; with -f that of the fleece's
    transfer-CHAIN-view  a bitmap: what changed since the mark before    CHAIN: all of it
    DIR/transfer-CHAIN-*  a directory with the NBD server's socket       CHAIN: that of the machine

All is found by its name, so that whoever died half way needs no other treatment than who ends.
"""

import asyncio
import glob
import os
import shutil
import stat
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from transfer.errors import SourceFailed
from transfer.sources.qemu_disks import CHAIN_DIGITS, OURS, Machine, chain_of, own
from transfer.sources.qmp import Qmp, peer_of

ACCESS, FILTER, FLEECE = "-a", "-c", "-f"
SOCKET = "nbd"
_LOOK, _LOOKS = 0.005, 1000


async def machine(qmp: Qmp) -> Machine:
    return Machine(
        await qmp.ask("query-block"),
        await qmp.ask("query-named-block-nodes", flat=True),
        await qmp.ask("x-debug-query-block-graph"),
        await qmp.ask("query-block-exports"),
    )


def view_bitmap(chain: str) -> str:
    return f"{OURS}{chain}-view"


async def release(qmp: Qmp, chains: Collection[str]) -> list[str]:
    """Take out what the views of *chains* put in; gives the names. What cannot go stays."""
    found, prefixes = await machine(qmp), {own(chain) for chain in chains}
    gone = await _end_exports(qmp, found, prefixes)
    nodes = [name for name in found.own_nodes() if name[:-2] in prefixes]
    for role in (ACCESS, FILTER, FLEECE):
        for name in (each for each in nodes if each.endswith(role)):
            if role == FILTER:
                await _bypass(qmp, found, name)
            if await _tried(qmp, "blockdev-del", {"node-name": name}):
                gone.append(name)
    views = {view_bitmap(chain) for chain in chains}
    for node in found.nodes:
        for name in {each.get("name") for each in node.get("dirty-bitmaps", ())} & views:
            said = {"node": node["node-name"], "name": name}
            if await _tried(qmp, "block-dirty-bitmap-remove", said):
                gone.append(name)
    return gone


async def _end_exports(qmp: Qmp, found: Machine, prefixes: set[str]) -> list[str]:
    ids = [each["id"] for each in found.exports]
    ending = [id for id in ids if id in prefixes or id.removesuffix(FLEECE) in prefixes]
    for id in ending:
        await _tried(qmp, "block-export-del", {"id": id, "mode": "hard"})
    left: set[str] = set()
    for _ in range(_LOOKS if ending else 0):
        left = {each["id"] for each in await qmp.ask("query-block-exports")}
        if left.isdisjoint(ending):
            break
        await asyncio.sleep(_LOOK)
    return [id for id in ending if id not in left]


async def _bypass(qmp: Qmp, found: Machine, name: str) -> None:
    """What stands above the filter of that name stands on what is below it again."""
    for above in found.parents(name):
        if not above.startswith(OURS) and (options := found.options(above)) is not None:
            said = [{**options, "file": found.child(name)}]
            await _tried(qmp, "blockdev-reopen", {"options": said})


async def _tried(qmp: Qmp, name: str, arguments: dict[str, Any]) -> bool:
    try:
        await qmp.ask(name, **arguments)
    except SourceFailed:
        return False
    return True


async def release_bitmaps(qmp: Qmp, chains: Collection[str]) -> list[str]:
    """Remove what records for next marks of *chains*; gives the names."""
    disks = (await machine(qmp)).disks()
    found = [(disk.node, each.name) for disk in disks for each in disk.bitmaps]
    return [
        name for node, name in found if chain_of(name) in chains
        and await _tried(qmp, "block-dirty-bitmap-remove", {"node": node, "name": name})
    ]  # fmt: skip


async def release_places(qmp: Qmp, place: str, chain: str) -> None:
    """Remove the directories that runs of the machine's *chain* made in *place*, and what is there.

    A run has started the NBD server there. Of all chains, which is "", only those go where this
    QEMU's listens: the others may be other machines'. Anybody may make some in *place*, and link
    what is there to any server: other users' are left alone.
    """
    whose = own(chain) if chain else OURS + "[0-9a-f]" * CHAIN_DIGITS
    found = glob.glob(os.path.join(glob.escape(place), f"{whose}-*"))
    makers = {os.geteuid(), qmp.peer.user}  # QEMU's user is lent what root makes
    for directory in (each for each in found if _maker(each) in makers):
        is_served = await _listener(os.path.join(directory, SOCKET)) == qmp.peer.pid
        if is_served:
            await _tried(qmp, "nbd-server-stop", {})
        if is_served or chain:
            shutil.rmtree(directory, ignore_errors=True)


def _maker(directory: str) -> int | None:
    with suppress(OSError):
        status = os.lstat(directory)
        return status.st_uid if stat.S_ISDIR(status.st_mode) else None
    return None


async def _listener(path: str) -> int | None:
    """Its process: QEMU may have another user and group than when it made its first socket."""
    with suppress(OSError):
        _, writer = await asyncio.open_unix_connection(path)
        try:
            return peer_of(writer).pid
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
    return None
