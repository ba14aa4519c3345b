"""Opening what is no vault, or not ours to open: the right error, and what to do."""

import asyncio
import contextlib
import os
import pwd
import shutil
import sqlite3
import subprocess
import sys

import pytest

from tests.suites.vault import DOMAIN, begun, has, made_frame, made_keyring, made_point
from tests.vault.stored import flip, opened, point_vault
from transfer.errors import (
    AccessError,
    DamagedData,
    LockHeld,
    NewerFormat,
    NoSpace,
    NotFound,
    Refused,
    TransientError,
    UsageError,
)
from transfer.formats.features import Features
from transfer.vault import directory
from transfer.vault.open import open_vault, rebuild_catalog, verify_vault

ALL = [open_vault, verify_vault, rebuild_catalog]


@pytest.mark.parametrize("look", ALL)
async def test_what_is_no_vault_is_named_with_what_to_do(path, tmp_path, look):
    with pytest.raises(NotFound, match="does not exist"):
        await look(path)
    path.mkdir()
    with pytest.raises(NotFound, match="is not a vault") as caught:
        await look(path)
    assert "empty" in caught.value.hint
    letter = tmp_path / "letter.txt"
    letter.write_text("mine")
    for file in (letter, letter / "below"):
        with pytest.raises(NotFound):
            await look(file)


async def test_only_a_missing_or_empty_directory_becomes_a_vault(path, tmp_path):
    path.mkdir()
    (path / "letter.txt").write_text("mine")
    with pytest.raises(NotFound):
        await open_vault(path, create=True)
    assert [one.name for one in path.iterdir()] == ["letter.txt"]
    with pytest.raises(NotFound):
        await open_vault(path / "letter.txt", create=True)
    for name in ("new/vault", "new/empty"):
        if name == "new/empty":
            (tmp_path / name).mkdir()
        async with opened(tmp_path / name, create=True):
            pass


async def test_a_vault_that_was_only_half_made_is_made_again(path):
    await (await open_vault(path, create=True)).close()
    (path / "vault").rename(path / ".vault.0a1b2c3d")
    async with opened(path, create=True) as vault:
        await begun(vault)


async def test_a_vault_whose_first_catalog_was_not_in_wal_mode_yet_is_made_again(path):
    """SQLite has a journal beside it until then."""
    path.mkdir()
    with contextlib.closing(sqlite3.connect(path / "whole", isolation_level=None)) as whole:
        whole.execute("pragma cache_size=1")
        whole.execute("create table early (raw)")
        whole.execute("begin")
        whole.execute("insert into early values (zeroblob(1000000))")
        for end in ("", "-journal"):  # as a kill leaves them
            shutil.copy(path / f"whole{end}", path / f"catalog.sqlite{end}")
        whole.execute("rollback")
    (path / "whole").unlink()
    async with opened(path, create=True) as vault:
        await begun(vault)


async def test_a_foreign_file_named_vault_is_not_ours(path):
    path.mkdir()
    (path / "vault").write_text('{"secrets": 3}')
    for create in (False, True):
        with pytest.raises(NotFound):
            await open_vault(path, create=create)


def rewritten(path, **changes):
    content = directory.read_vault_file(path)
    fields = {name: getattr(content, name) for name in content.__struct_fields__}
    directory.write_vault_file(path, directory.VaultFile(**fields | changes))


@pytest.mark.parametrize("look", ALL)
async def test_a_newer_vault_is_refused_by_name(path, look):
    await point_vault(path)
    rewritten(path, features=Features(read=["telepathy"]))
    with pytest.raises(NewerFormat, match="telepathy") as caught:
        await look(path)
    assert "newer version" in caught.value.hint
    rewritten_format = path / "vault"
    directory._write(path, {"format": "transfer vault 2", "ways": [1, 2], "features": {}})
    with pytest.raises(NewerFormat, match="transfer vault 2"):
        await look(path)
    assert b"ways" in rewritten_format.read_bytes()


async def test_features_that_only_writing_needs_leave_reading_open(path):
    await point_vault(path)
    rewritten(path, features=Features(write=["ink"], ignored=["scent"]))
    with pytest.raises(NewerFormat, match="ink"):
        await open_vault(path)
    async with opened(path, beside=True) as vault:
        assert len(await vault.points(DOMAIN)) == 1


async def test_what_a_later_version_wrote_in_the_vault_file_outlives_a_rebuild(path):
    await point_vault(path)
    content = directory.read_vault_file(path)
    fields = {"format": content.format, "vault": "AAAAAAAAAAAAAAAAAAAAAA==", "incarnation": 4}
    directory._write(path, fields | {"perfume": {"rose": 1}})
    assert (await rebuild_catalog(path)).incarnation == 5
    assert b"perfume" in (path / "vault").read_bytes()


async def test_any_flipped_bit_of_the_vault_file_is_reported_or_means_the_same(path):
    await (await open_vault(path, create=True)).close()
    file = path / "vault"
    sound, content = file.read_bytes(), directory.read_vault_file(path)
    for at in range(len(sound)):
        flip(file, at, 1 << at % 8)
        with contextlib.suppress(DamagedData, NewerFormat):
            assert directory.read_vault_file(path) == content
        file.write_bytes(sound)


@pytest.mark.parametrize("content", [b"", b"\0" * 300, b"{", b"[]", b"\xff\xfe", b'{"\xf5": 1}'])
async def test_a_damaged_vault_file_is_damage(path, content):
    await point_vault(path)
    (path / "vault").write_bytes(content)
    for look in ALL:
        with pytest.raises(DamagedData) as caught:
            await look(path)
        assert "copy" in caught.value.hint


@pytest.mark.parametrize("content", [None, b"", b"\0" * 8192, b"SQLite format 3\0" + b"\1" * 5000])
async def test_a_missing_or_damaged_catalog_asks_for_a_rebuild(path, content):
    await point_vault(path)
    file = path / "catalog.sqlite"
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(DamagedData) as caught:
        await open_vault(path)
    assert caught.value.hint == f"run: transfer vault rebuild {path}"
    await rebuild_catalog(path)
    async with opened(path) as vault:
        assert len(await vault.points(DOMAIN)) == 1


async def test_a_vault_has_one_writer_and_the_second_is_told_which(path):
    async with opened(path, create=True) as vault:
        for look in (open_vault, rebuild_catalog):
            with pytest.raises(LockHeld, match=f"process {os.getpid()} has the vault {path} open"):
                await look(path)
        await vault.close()
        await vault.close()
        async with opened(path):
            pass


def test_a_writer_in_another_process_is_named_and_its_end_frees_the_vault(path):
    asyncio.run(point_vault(path))
    script = (
        "import sys, pathlib\n"
        "from transfer.vault.directory import take_lock\n"
        "take_lock(pathlib.Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(LockHeld, match=f"process {holder.pid} ") as caught:
            asyncio.run(open_vault(path))
        assert caught.value.hint == "wait, or stop it"
        assert asyncio.run(verify_vault(path)).damaged == []
        holder.kill()
    asyncio.run(point_vault(path))


async def test_a_lock_that_is_a_symlink_is_not_followed(path, tmp_path):
    await (await open_vault(path, create=True)).close()
    (path / "lock").unlink()
    (tmp_path / "precious").write_text("content")
    (path / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(UsageError, match="symlink"):
        await open_vault(path)
    assert (tmp_path / "precious").read_text() == "content"


async def test_beside_another_process_nothing_can_be_written(path):
    async with opened(path, create=True) as vault:
        await begun(vault)
        async with opened(path, beside=True) as beside:
            assert (await beside.statistics())["points"] == 0
            session = (await beside.open_session(DOMAIN, None)).number
            for call in (
                beside.open_session(DOMAIN, b"k" * 16), beside.store(session, made_frame(1)[1]),
                beside.commit(session, made_point(None)), beside.delete_point(DOMAIN, bytes(32)),
                beside.add_keyring(DOMAIN, 2, made_keyring(2)),
            ):  # fmt: skip
                with pytest.raises(Refused, match="reading only"):
                    await call


async def test_names_with_odd_characters_are_names(tmp_path):
    path = tmp_path / "a ?b%20c#d;e'f"
    async with opened(path, create=True) as vault:
        reference, raw = made_frame(1)
        await vault.store(await begun(vault), raw)
    async with opened(path) as vault:
        assert await has(vault, await begun(vault, None), reference) == [True]
    assert (path / "catalog.sqlite").exists()


async def test_only_the_owner_can_look_in(path):
    await point_vault(path)
    for one in [path, *path.rglob("*")]:
        assert one.stat().st_mode & 0o077 == 0, one


@pytest.fixture
def as_nobody(tmp_path):
    """Root may do everything; for these tests it is someone else."""
    if os.geteuid() != 0:
        yield
        return
    nobody = pwd.getpwnam("nobody")
    for one in [tmp_path, *tmp_path.rglob("*")]:
        os.chown(one, nobody.pw_uid, nobody.pw_gid)
    parents = [one for one in tmp_path.parents if one.stat().st_uid == 0]
    modes = {one: one.stat().st_mode for one in parents}
    for one in parents:
        one.chmod(modes[one] | 0o011)
    os.setegid(nobody.pw_gid)
    os.seteuid(nobody.pw_uid)
    yield
    os.seteuid(0)
    os.setegid(0)
    for one, mode in modes.items():
        one.chmod(mode)


@pytest.mark.parametrize("mode", [0o000, 0o500])
async def test_a_vault_without_permission_is_another_users(tmp_path, as_nobody, mode):
    path = tmp_path / "vault"
    await point_vault(path)
    path.chmod(mode)
    (path / "lock").chmod(0o400) if mode else None
    try:
        with pytest.raises(AccessError) as caught:
            await open_vault(path)
        assert str(path) in caught.value.message
        assert (caught.value.exit_code, "owns" in caught.value.hint) == (77, True)
        with pytest.raises(AccessError):
            await open_vault(path / "below" / "new", create=True)
    finally:
        path.chmod(0o700)


async def test_a_read_only_file_system_is_for_later(path, monkeypatch):
    """A real one needs a mount; the error is the same."""
    await point_vault(path)
    real = os.open

    def read_only(name, flags, *args, **kwargs):
        if flags & (os.O_RDWR | os.O_WRONLY | os.O_CREAT):
            raise OSError(30, os.strerror(30), str(name))
        return real(name, flags, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", read_only)
        with pytest.raises(TransientError, match="Read-only") as caught:
            await open_vault(path)
    assert "writable" in caught.value.hint
    assert not isinstance(caught.value, NoSpace)


@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_who_is_cancelled_while_a_vault_opens_leaves_it_free(path, turns):
    await (await open_vault(path, create=True)).close()
    opening = asyncio.create_task(open_vault(path))
    for _ in range(turns):
        await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await (await open_vault(path)).close()
