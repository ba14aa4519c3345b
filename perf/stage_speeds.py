"""Each stage by itself, on one core: the engine's own functions on a sample of the data."""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from perf.loopback import through_tls
from perf.sample import KEYS, Sample, read
from transfer.crypto import keys
from transfer.files.direct import aligned_room, write_all
from transfer.formats import frame
from transfer.formats.pack import IndexEntry, PackClass
from transfer.pipeline.sealing import Opener, Sealer
from transfer.pipeline.tasks import BATCH, DATA
from transfer.vault.catalog import Catalog, put_frames
from transfer.vault.copies import row_of
from transfer.vault.objects import DirectoryObjects
from transfer.vault.open_pack import OpenPack

TIMES = 3
ROWS = 16  # of one request: 4 MiB of compressed blocks, or as many nodes


class Speed(NamedTuple):
    """*cpu* and *wall*, in seconds, are what *amount* of *unit* took.

    *unit*: "plain" bytes, those of them that are "new" to the vault and no zeros, "sealed" bytes,
    or "rows" of the catalog. *side*: "client", "server" or "both". *of*: the steps that have this
    stage, for all that they move of the unit.
    """

    name: str
    side: str
    unit: str
    of: tuple[str, ...]
    amount: int
    cpu: float
    wall: float

    @property
    def rate(self) -> float:
        """Of *unit* in a second of one core, which also waits where the stage waits."""
        return self.amount / max(self.cpu, self.wall, 1e-9)


BACKUP, RESTORE = ("backup",), ("restore",)


def speeds(sample: Sample, top: Path) -> Iterator[Speed]:
    """The stages in the order in which a backup and then a restore have them; *top* is a disk."""
    plain, sealed = sample.plain, sample.sealed
    sealer, opener = Sealer(KEYS), Opener(KEYS)

    def client(
        name: str, work: Callable[[], object], of: tuple[str, ...], unit: str = "new"
    ) -> Speed:
        amount = sealed if unit == "sealed" else plain
        return Speed(name, "client", unit, of, amount, *timed(work))

    yield client("read, from the page cache", lambda: [*map(read, sample.extents)], BACKUP, "plain")
    yield client("hash", lambda: [sealer.id_of(DATA, b"", each) for each in sample.blocks], BACKUP)
    yield client("probe", lambda: [sealer._worth_it(each) for each in sample.blocks], ())
    for level in ("fast", "auto", "better"):
        packing = Sealer(KEYS, level)
        yield client(
            f"probe and compress, {level}",
            lambda packing=packing: [packing._pack(each, False) for each in sample.blocks],  # type: ignore[misc]
            BACKUP if level == "auto" else (),
        )
    yield client("encrypt", lambda: encrypt(sample), BACKUP, "sealed")
    yield client("checksum", lambda: [*map(frame.checksum_of, sample.frames)], BACKUP, "sealed")
    yield client("open again", lambda: [*map(opener.open, sample.frames)], BACKUP)
    yield client("seal, all of these in one", lambda: seal(sample, sealer), ())
    yield Speed("TLS, both ends", "both", "sealed", (*BACKUP, *RESTORE), sealed,
                *timed(lambda: through_tls(sample.frames)))  # fmt: skip
    yield from _vault(sample, top)
    yield client("open", lambda: [*map(opener.open, sample.frames)], RESTORE)
    yield client("write", lambda: write(sample, top), RESTORE)


def _vault(sample: Sample, top: Path) -> Iterator[Speed]:
    objects, packs = DirectoryObjects(top), list[OpenPack]()
    entries, room = list[IndexEntry](), aligned_room(BATCH)

    def put() -> None:
        packs.append(OpenPack(objects, KEYS.domain, PackClass.DATA, room))
        entries[:] = append(packs[-1], sample)

    def get() -> None:
        for entry in entries:
            objects.read_frame(packs[-1].header, entry.offset, entry.frame_length)

    catalog = Catalog(top / "catalog", create=True)

    def insert() -> None:
        for at in range(0, len(entries), ROWS):
            with catalog.begin() as connection:
                rows = [row_of(packs[-1].header, entry, 1) for entry in entries[at : at + ROWS]]
                put_frames(connection, rows)

    sealed, count = sample.sealed, len(sample.frames)
    checks = timed(lambda: [*map(frame.decode, sample.frames)])
    yield Speed("check what arrives", "server", "sealed", BACKUP, sealed, *checks)
    yield Speed("write packs, fdatasync", "server", "sealed", BACKUP, sealed, *timed(put))
    yield Speed("insert rows", "server", "rows", BACKUP, count, *timed(insert))
    yield Speed("read packs", "server", "sealed", RESTORE, sealed, *timed(get))
    catalog.close()
    for each in packs:
        each.close()


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of CPU and of wall, medians of TIMES; what comes first warms up."""
    work()
    took = []
    for _ in range(TIMES):
        cpu, wall = time.process_time(), time.perf_counter()
        work()
        took.append((time.process_time() - cpu, time.perf_counter() - wall))
    cpus, walls = zip(*took, strict=True)
    return statistics.median(cpus), statistics.median(walls)


def encrypt(sample: Sample) -> None:
    """What a frame's payload takes: a key of its own, then AES-256-GCM."""
    for raw in sample.frames:
        header, children, payload = _decoded(raw)
        unchecked = frame.unchecked_header(header)
        cipher = AESGCM(keys.frame_key(KEYS.seal_keys[KEYS.epoch], unchecked))
        out = bytearray(len(payload))
        associated = frame.LABEL + KEYS.domain + unchecked + children
        cipher.encrypt_into(header.counter.to_bytes(12, "big"), payload[:-16], associated, out)


def _decoded(raw: memoryview) -> frame.Frame:
    decoded = frame.decode(raw)
    assert decoded is not None
    return decoded[0]


def seal(sample: Sample, sealer: Sealer) -> None:
    out = memoryview(bytearray(max(map(len, sample.blocks), default=0) + 4096))
    for id, block in zip(sample.ids, sample.blocks, strict=True):
        sealer.seal_into(out, DATA, id, block)


def append(pack: OpenPack, sample: Sample) -> Iterator[IndexEntry]:
    """Durable after each BATCH bytes, as after each request."""
    waiting = 0
    for raw in sample.frames:
        yield pack.append(_decoded(raw).header, raw)
        waiting += len(raw)
        if waiting >= BATCH:
            pack.sync()
            pack.confirm()
            waiting = 0
    pack.sync()
    pack.confirm()


def write(sample: Sample, top: Path) -> None:
    """All of it into one new file, as into an image; durable at its end."""
    fd = os.open(top / "written", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        at = 0
        for block in sample.blocks:
            write_all(fd, block, at)
            at += len(block)
        os.fsync(fd)
    finally:
        os.close(fd)
