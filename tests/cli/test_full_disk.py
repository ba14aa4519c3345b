"""The vault's or the state's disk is full or read-only: 75 or 64, and nothing is lost."""

import os

import pytest

from tests.cli.conftest import contents
from tests.cli.machine import fill, make_read_only, small_disk


@pytest.fixture
def source(tmp_path):
    top = tmp_path / "source"
    top.mkdir()
    for number in range(3):
        (top / str(number)).write_bytes(os.urandom(2**20))
    return top


@pytest.mark.parametrize("leave", [0, 20_000])
def test_a_full_state_directory(stocked, tmp_path, leave):
    with small_disk(tmp_path / "small") as disk:
        fill(disk, leave)
        before = contents(tmp_path / "vault" / "records")
        stocked.refused(75, "no-space", "backup", "home", tmp_path / "tree", state="small/state",
                        says=[disk])  # fmt: skip
        assert contents(tmp_path / "vault" / "records") == before
    assert stocked("verify", "home")[0] == 0


def test_a_read_only_state_directory(stocked, tmp_path):
    with small_disk(tmp_path / "small") as disk:
        make_read_only(disk)
        error = stocked.refused(64, "usage-error", "points", state="small/state", says=[disk])
        assert "--state" in error["hint"]


def test_a_vault_that_fills_up_keeps_what_it_had(quick, source, tmp_path):
    (tmp_path / "first").write_text("first")
    with small_disk(tmp_path / "vault", size="3m") as disk:
        assert quick("backup", "first", tmp_path / "first")[0] == 0
        quick.refused(75, "no-space", "backup", "home", source, says=["full"])
        code, answer = quick("points")
        assert (code, [each["item"] for each in answer["points"]]) == (0, ["first"])
        assert quick("verify", "first")[0] == 0
        os.system(f"mount -o remount,size=20m {disk}")
        code, answer = quick("backup", "home", source)
        assert (code, answer["files"]) == (0, 3)
        assert quick("verify", "home")[0] == 0


@pytest.mark.parametrize("leave", [0, 5_000, 50_000, 300_000])
def test_a_vault_without_any_room(quick, source, tmp_path, leave):
    with small_disk(tmp_path / "vault", size="3m") as disk:
        (tmp_path / "first").write_text("first")
        assert quick("backup", "first", tmp_path / "first")[0] == 0
        fill(disk, leave)
        code, answer = quick("backup", "home", source)
        assert code == 75, answer
        assert answer["error"]["hint"]
        (disk / "filler").unlink()
        assert quick("verify", "first")[0] == 0
        assert len(quick("points")[1]["points"]) == 1


def test_no_room_for_a_vault(quick, source, tmp_path):
    with small_disk(tmp_path / "small") as disk:
        fill(disk)
        code, answer = quick("backup", "home", source, vault="small/vault")
        assert code == 75, answer
        assert "full" in answer["error"]["message"]
        (disk / "filler").unlink()
        assert quick("backup", "home", tmp_path / "passphrase", vault="small/vault")[0] == 0


def test_a_read_only_vault(quick, tmp_path):
    with small_disk(tmp_path / "vault") as disk:
        (tmp_path / "first").write_text("first")
        assert quick("backup", "first", tmp_path / "first")[0] == 0
        before = contents(disk)
        make_read_only(disk)
        code, answer = quick("backup", "first", tmp_path / "first")
        assert code == 75, answer
        assert str(disk) in answer["error"]["message"]
        assert contents(disk) == before
