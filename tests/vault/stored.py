"""A stored vault on the disk, for tests to cut and to damage."""

import contextlib
import sqlite3

from tests.suites.vault import with_point
from transfer.vault.open import open_vault


def packs_of(path, pack_class="*"):
    return sorted(one for one in (path / "packs").glob(f"*/{pack_class}/*/*") if one.is_file())


def records_of(path, kind):
    return sorted(one for one in (path / "records" / kind).rglob("*") if one.is_file())


async def point_vault(path):
    """A closed vault with one committed tree; its references and frames."""
    vault = await open_vault(path, create=True)
    made = await with_point(vault)
    await vault.close()
    return made


@contextlib.asynccontextmanager
async def opened(path, **options):
    vault = await open_vault(path, **options)
    try:
        yield vault
    finally:
        await vault.close()


def sql(path, *statements):
    """Run statements on a closed vault's catalog; what the last one gives."""
    with contextlib.closing(sqlite3.connect(path / "catalog.sqlite")) as connection:
        for statement in statements:
            rows = connection.execute(statement).fetchall()
        connection.commit()
    return rows


def flip(path, offset, bit=1):
    """Flip a bit of a file; a negative *offset* counts from the end."""
    raw = bytearray(path.read_bytes())
    raw[offset] ^= bit
    path.write_bytes(raw)
