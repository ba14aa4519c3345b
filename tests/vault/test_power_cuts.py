"""A vault that ends at any step keeps its word: all that it acknowledged, and nothing half."""

import asyncio
import shutil
from types import SimpleNamespace

import pytest

from tests.suites.vault import (
    DOMAIN,
    EPOCH,
    OWNER,
    begun,
    has,
    made_frame,
    made_keyring,
    made_point,
    made_tree,
)
from tests.vault.disk import Disk
from transfer.errors import PointMissing
from transfer.formats import point
from transfer.vault.base import fetched
from transfer.vault.open import open_vault, verify_vault

ITEMS = [b"1" * 16, b"2" * 16]
REFERENCES, FRAMES = made_tree()
LATER = made_frame(9)
POINTS = [
    made_point(REFERENCES[-1], name=1, item=ITEMS[0]),
    made_point(None, name=2, item=ITEMS[1]),
]  # fmt: skip


def told_nothing():
    return SimpleNamespace(frames={}, points={}, keyrings=set(), deleted=set())


async def a_life(vault, told):
    """Each kind of write once; *told* has what the vault acknowledged. A second time goes on."""
    if await vault.keyring(DOMAIN) is None:
        await vault.add_keyring(DOMAIN, 1, made_keyring())
    told.keyrings.add(1)
    sessions = [(await vault.open_session(DOMAIN, item, OWNER)).number for item in ITEMS]
    for frames in (FRAMES[:2], FRAMES[2:]):
        await vault.store(sessions[0], b"".join(frames))
        told.frames |= (
            zip(REFERENCES, FRAMES, strict=True)
            if len(told.frames)
            else zip(REFERENCES[:2], FRAMES[:2], strict=True)
        )
    for session, record in zip(sessions, POINTS, strict=True):
        if point.decode(record).point_id not in told.deleted:
            try:
                told.points[record] = await vault.commit(session, record)
            except PointMissing:
                assert record == POINTS[1]
    await vault.store(await begun(vault, None), LATER[1])
    told.frames[LATER[0]] = LATER[1]
    if await vault.keyring(DOMAIN, 2) is None:
        await vault.add_keyring(DOMAIN, 2, made_keyring(2, (EPOCH, b"epoch-02")))
    told.keyrings.add(2)
    dead = point.decode(POINTS[1]).point_id
    if dead in {point.decode(one.record).point_id for one in await vault.points(DOMAIN)}:
        told.points.pop(POINTS[1], None)
        await vault.delete_point(DOMAIN, dead)
    told.deleted.add(dead)


async def keeps_its_word(vault, told):
    reader = await begun(vault, None)
    known = list(told.frames)
    assert await fetched(vault, reader, known) == list(told.frames.values())
    assert await has(vault, reader, *known[:2]) == [True] * len(known[:2])
    listed = {one.record: one for one in await vault.points(DOMAIN)}
    assert listed.items() >= told.points.items()
    assert listed.keys() <= set(POINTS)
    assert len({one.arrival_number for one in listed.values()}) == len(listed)
    assert not {point.decode(record).point_id for record in listed} & told.deleted
    for version in told.keyrings:
        assert await vault.keyring(DOMAIN, version) is not None
    if POINTS[0] in listed:
        assert await has(vault, reader, *REFERENCES) == [True] * 4
        assert await fetched(vault, reader, REFERENCES) == FRAMES


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """The images of a vault's life."""
    images, told = tmp_path_factory.mktemp("images"), told_nothing()
    path = images / "vault"

    async def live():
        await (await open_vault(path, create=True)).close()
        with pytest.MonkeyPatch.context() as patched, Disk(patched, path, images, told) as disk:
            vault = await open_vault(path)
            await a_life(vault, told)
            await vault.close()
        return disk

    return asyncio.run(live())


@pytest.mark.parametrize("how", [pytest.param("kept", marks=pytest.mark.slow), "lost", "torn"])
async def test_whatever_step_is_the_last_the_vault_keeps_its_word_and_goes_on(disk, how):
    images = getattr(disk, how)
    assert len(images) > 10
    for image in images:
        vault = await open_vault(image.path)
        await keeps_its_word(vault, image.told)
        again = told_nothing()
        await a_life(vault, again)
        await keeps_its_word(vault, again)
        assert len(await vault.points(DOMAIN)) == 1
        await vault.close()
        assert (await verify_vault(image.path)).damaged == [], image.step
        shutil.rmtree(image.path)
