"""Jobs in this process, with threads for workers: many runs in little time."""

from pathlib import Path

from tests.acceptance.shell import PASSPHRASE
from transfer.formats import pack, point
from transfer.formats.reference import REFERENCE_SIZE, Reference, decode_references
from transfer.jobs import backup as backup_job
from transfer.jobs import restore as restore_job
from transfer.jobs.opening import Secret, open_agent
from transfer.jobs.progress import Progress
from transfer.vault.open import open_vault


class Machine:
    """A machine's state and the vault that it uses, both below *top*.

    *far*: through the server of that vault, with which the state is registered.
    """

    def __init__(
        self, top: Path, state: str = "state", vault: str = "vault", far: bool = False
    ) -> None:
        self.top, self.state, self.vault, self.far = top, top / state, top / vault, far
        self.passphrase = PASSPHRASE

    def open(self):
        vault = None if self.far else self.vault
        return open_agent(self.state, vault, Secret(lambda _: self.passphrase), create=True)

    async def backup(self, *paths, item="item", **options):
        options = {"workers": 0} | options
        async with self.open() as agent:
            wanted = backup_job.BackupOptions(item, list(paths), **options)
            return await backup_job.backup(agent, wanted, Progress())

    async def restore(self, to, item="item", **options):
        options = {"workers": 0} | options
        async with self.open() as agent:
            wanted = restore_job.RestoreOptions(item, to, **options)
            return await restore_job.restore(agent, wanted, Progress())

    async def points(self) -> list[point.Point]:
        return await points_of(self.vault)


async def points_of(vault: Path) -> list[point.Point]:
    """All points of the vault's one domain, in order of arrival; needs no key."""
    opened = await open_vault(vault, beside=True)
    try:
        (domain,) = await opened.domains()
        return [point.decode(each.record) for each in await opened.points(domain)]
    finally:
        await opened.close()


def frames_of(vault: Path) -> dict[Reference, list[tuple[Path, pack.PlacedFrame]]]:
    """Where each frame of a closed vault is."""
    found: dict[Reference, list[tuple[Path, pack.PlacedFrame]]] = {}
    for path in sorted((vault / "packs").rglob("*")):
        if path.is_file():
            for placed in pack.walk(path.read_bytes()):
                found.setdefault(placed.frame.header.reference, []).append((path, placed))
    return found


def closure(
    frames: dict[Reference, list[tuple[Path, pack.PlacedFrame]]], root: Reference | None
) -> set[Reference]:
    """*root* and all that it reaches by the child lists, which need no key."""
    reached: set[Reference] = set()
    left = [] if root is None else [root]
    while left:
        reference = left.pop()
        if reference not in reached:
            reached.add(reference)
            left += decode_references(frames[reference][0][1].frame.children)
    return reached


def damage(path: Path, placed: pack.PlacedFrame) -> None:
    """Flip a bit in the middle of the sealed part."""
    start = placed.offset + pack.frame.HEADER_SIZE
    start += placed.frame.header.child_count * REFERENCE_SIZE
    at = (start + placed.end) // 2
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes((byte ^ 16,)))
