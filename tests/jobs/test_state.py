"""What a machine remembers is its own, is whole, and is checked before it is believed."""

import base64
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cli.machine import powerless
from transfer.errors import FormatError, ItemBusy, UsageError
from transfer.jobs.state import Head, Known, StateDirectory, default_state

VAULT, ITEM = b"v" * 16, b"i" * 16
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state"


def mode(path):
    return path.stat().st_mode & 0o7777


def test_it_is_the_users_alone(path):
    state = StateDirectory(path)
    state.machine()
    state.update(VAULT, lambda _: Known(b"d" * 16, 1))
    with state.lock(ITEM, "home"):
        pass
    found = list(path.rglob("*"))
    assert len(found) == 7
    for each in (path, *found):
        assert mode(each) == (0o700 if each.is_dir() else 0o600), each


def test_what_is_open_to_others_is_closed(path):
    machine = StateDirectory(path).machine()
    path.chmod(0o755)
    (path / "machine.json").chmod(0o644)
    assert StateDirectory(path).machine() == machine
    assert (mode(path), mode(path / "machine.json")) == (0o700, 0o600)
    empty = path.with_name("empty")
    empty.mkdir(0o755)
    StateDirectory(empty)
    assert mode(empty) == 0o700


def test_a_directory_with_other_things_is_not_taken(path):
    path.mkdir(0o755)
    (path / "letter").touch()
    with pytest.raises(UsageError, match="no state directory"):
        StateDirectory(path)
    assert mode(path) == 0o755
    assert os.listdir(path) == ["letter"]


@needs_root
def test_a_directory_of_somebody_else_is_not_used(path):
    StateDirectory(path)
    os.chown(path, 54321, 54321)
    with pytest.raises(UsageError, match="54321"):
        StateDirectory(path)


@needs_root
@pytest.mark.parametrize("name", ["machine.json", "owner.json"])
def test_a_file_of_somebody_else_is_not_read(path, name):
    StateDirectory(path).machine()
    os.chown(path / name, 54321, 54321)
    with pytest.raises(UsageError, match=name):
        StateDirectory(path).machine()


@pytest.mark.parametrize("name", ["machine.json", "owner.json"])
@pytest.mark.parametrize("plant", ["symlink", "fifo", "directory"])
def test_what_is_no_file_is_not_read(path, tmp_path, name, plant):
    StateDirectory(path).machine()
    (path / name).rename(tmp_path / "aside")
    if plant == "symlink":
        (path / name).symlink_to(tmp_path / "aside")
    else:
        os.mkfifo(path / name) if plant == "fifo" else (path / name).mkdir()
    with pytest.raises(UsageError, match=name):
        StateDirectory(path).machine()


@pytest.mark.parametrize("where", [b"/dev/null/state", b"/proc/no/state"])
def test_a_place_where_none_can_be(where):
    with pytest.raises(UsageError, match="state directory"):
        StateDirectory(Path(os.fsdecode(where)))


ID = base64.b64encode(bytes(16))


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"{}", b'{"id":"AAAA","name":"x"}', b'{"id":"%s","name":5}' % ID,
     b"[" * 100_000],
)  # fmt: skip
def test_a_damaged_machine_is_named_and_never_made_anew(path, raw):
    StateDirectory(path).machine()
    (path / "machine.json").write_bytes(raw)
    with pytest.raises(FormatError, match=r"machine\.json is damaged") as damaged:
        StateDirectory(path).machine()
    assert "move it away" in damaged.value.hint
    assert (path / "machine.json").read_bytes() == raw


@pytest.mark.parametrize(
    "raw",
    [b"x", b'{"domain":"AA==","incarnation":1}', b'{"domain":"%s","incarnation":-1}' % ID,
     b'{"domain":"%s","incarnation":1,"heads":{"00":{"number":0,"point":"AA=="}}}' % ID],
)  # fmt: skip
def test_what_is_known_of_a_vault_is_checked(path, raw):
    state = StateDirectory(path)
    state.update(VAULT, lambda _: Known(b"d" * 16, 1))
    (known,) = (path / "vaults").iterdir()
    known.write_bytes(raw)
    with pytest.raises(FormatError, match="is damaged"):
        state.known(VAULT)
    with pytest.raises(FormatError, match="is damaged"):
        state.update(VAULT, lambda _: Known(b"d" * 16, 1))


def test_a_machine_stays_what_it_is(path):
    first = StateDirectory(path).machine("one")
    assert StateDirectory(path).machine("two") == first
    renamed = StateDirectory(path).rename(first, "two")
    assert StateDirectory(path).machine() == renamed
    assert (renamed.id, renamed.name, renamed.owner) == (first.id, "two", first.owner)
    assert first.name == "one"
    assert len(first.id) == len(first.owner) == 16


def test_a_state_without_an_owner_gets_one(path):
    first = StateDirectory(path).machine()
    (path / "owner.json").unlink()
    again = StateDirectory(path).machine()
    assert again.id == first.id
    assert again.owner not in (b"", first.owner)


def test_a_copy_has_an_owner_of_its_own(path, tmp_path):
    first = StateDirectory(path).machine()
    shutil.copytree(path, tmp_path / "copy")
    copied = StateDirectory(tmp_path / "copy").machine()
    assert copied.id == first.id
    assert copied.owner != first.owner
    assert StateDirectory(tmp_path / "copy").machine() == copied
    assert StateDirectory(path).machine() == first
    path.rename(tmp_path / "moved")
    assert StateDirectory(tmp_path / "moved").machine() == first


@pytest.mark.parametrize("name", ["", "a/b", "a@b", "x" * 65, "a\nb", "\x1b[31m"])
def test_a_machines_name_is_read_in_one_way_only(path, name):
    with pytest.raises(UsageError, match="machine name"):
        StateDirectory(path).machine(name)
    assert not (path / "machine.json").exists()


def test_two_first_runs_are_one_machine(path):
    StateDirectory(path)
    with ThreadPoolExecutor(8) as pool:
        found = {each.id for each in pool.map(lambda _: StateDirectory(path).machine(), range(64))}
    assert len(found) == 1
    assert StateDirectory(path).machine().id in found


def test_runs_at_the_same_time_forget_nothing(path):
    state = StateDirectory(path)

    def remember(number):
        heads = {f"{number:032x}": Head(1, b"p" * 32)}
        state.update(
            VAULT, lambda known: Known(b"d" * 16, 1, (known.heads if known else {}) | heads)
        )

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(remember, range(64)))
    assert len(state.known(VAULT).heads) == 64
    assert not list(path.rglob(".*"))


def test_an_update_that_fails_changes_nothing(path):
    state = StateDirectory(path)
    before = state.update(VAULT, lambda _: Known(b"d" * 16, 1))
    with pytest.raises(KeyError):
        state.update(VAULT, lambda _: {}["x"])
    assert state.known(VAULT) == before


def test_an_item_that_is_being_written_names_the_process(path):
    state = StateDirectory(path)
    program = (
        "import sys, pathlib; from transfer.jobs.state import StateDirectory\n"
        "with StateDirectory(pathlib.Path(sys.argv[1])).lock(b'i' * 16, 'home'):\n"
        "    print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"locked\n"
        with (
            pytest.raises(ItemBusy, match=rf"home .* process {other.pid}$"),
            state.lock(ITEM, "home"),
        ):
            pass
        with state.lock(b"j" * 16, "other"):
            pass
        other.kill()  # the lock goes with its holder
    with state.lock(ITEM, "home"):
        pass


def test_what_the_run_raises_is_not_taken_for_a_lock(path):
    with pytest.raises(BlockingIOError), StateDirectory(path).lock(ITEM, "home"):
        raise BlockingIOError


def test_where_it_is_by_default(monkeypatch):
    monkeypatch.setenv("TRANSFER_STATE", "/x")
    assert default_state() == Path("/x")
    monkeypatch.delenv("TRANSFER_STATE")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_state() == Path("/var/lib/transfer")
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    monkeypatch.setenv("XDG_STATE_HOME", "/home/x/state")
    assert default_state() == Path("/home/x/state/transfer")


def test_a_user_without_a_home_is_told_so(monkeypatch):
    for name in ("HOME", "TRANSFER_STATE", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    with pytest.raises(UsageError, match="home"):
        default_state()


def test_a_state_that_cannot_be_written(path):
    StateDirectory(path).machine()
    path.chmod(0o500)
    program = (
        "import sys, pathlib; from transfer.jobs.state import *\n"
        "new = lambda _: Known(b'd' * 16, 1)\n"
        "try: StateDirectory(pathlib.Path(sys.argv[1])).update(b'v' * 16, new)\n"
        "except UsageError as error: print(error, error.hint)"
    )
    (path / "vaults").chmod(0o500)
    done = subprocess.run(
        [sys.executable, "-c", program, path], capture_output=True, text=True, check=True,
        preexec_fn=powerless,
    )  # fmt: skip
    assert "denied" in done.stdout
    assert "--state" in done.stdout
    for each in (path, path / "vaults"):
        each.chmod(0o700)
