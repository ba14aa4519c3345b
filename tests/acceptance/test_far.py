"""What only a vault behind HTTPS can break: who is let in, and servers that come and go."""

import shlex
import shutil
import signal
import sys
import time

import pytest

from tests.acceptance import trees
from tests.acceptance.agent import damage, frames_of
from tests.acceptance.compare import differences
from tests.acceptance.served import Server
from tests.acceptance.shell import Shell, kill
from transfer.formats.reference import Kind

MIB = 2**20


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One for all tests that leave it as it is; each has machines of its own."""
    started = Server(tmp_path_factory.mktemp("served") / "vault").start()
    yield started
    started.end()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Enough for a backup to take a moment."""
    top = tmp_path_factory.mktemp("far") / "source"
    trees.many_files(top / "many", 300)
    trees.image(top / "large", 24 << 20)
    return top


@pytest.fixture
def far(tmp_path):
    return Shell(tmp_path, far=True)


@pytest.fixture
def own(tmp_path):
    """A server of a vault of its own, which may be stopped and damaged."""
    return Server(tmp_path / "vault").start()


def small(top):
    top.mkdir()
    (top / "file").write_bytes(b"small")
    (top / "blocks").write_bytes(trees.noise(top, 3 << 20))
    return top


def exact(shell, source, item="item", **options):
    """Whether what is restored is *source*, without a word of warning."""
    back = shell.top / f"back-{time.monotonic_ns()}"
    result = shell("restore", item, "--to", back, **options)
    return (result["warnings"], result["damaged"]) == ([], []) and not differences(
        source, back / source.name
    )


def under_way(vault, process, size=6 << 20):
    """Wait until so much has arrived in the vault."""
    packs = vault / "packs"
    while process.poll() is None:
        if sum(path.stat().st_size for path in packs.rglob("*") if path.is_file()) > size:
            return
        time.sleep(0.005)
    raise AssertionError("it ended too soon")


def stored_once(vault):
    return all(len(places) == 1 for places in frames_of(vault).values())


# Who is let in.


def test_a_machine_that_lost_its_state_goes_on_with_a_credential_and_the_passphrase(
    server, far, tmp_path
):
    """A credential for new machines gives it neither its name nor a look at its points."""
    top = small(tmp_path / "source")
    lost = server.register(far, name="lost")
    made = far("backup", "item", top)
    server.register(far, name="lost", state="taken", expect=77)
    server.register(far, name="stranger", state="stranger")
    assert far("points", state="stranger")["points"] == []
    far("restore", "lost/item", "--to", tmp_path / "none", state="stranger", expect=64)
    assert not (tmp_path / "none").exists()

    again = server.register(far, "--for", "lost", name="whatever", state="again")
    assert (again["machine"], again["machine_id"]) == ("lost", lost["machine_id"])
    assert exact(far, top, state="again")
    next_one = far("backup", "item", top, state="again")
    assert (next_one["parent"], next_one["bytes_stored"]) == (made["point"], 0)


@pytest.mark.slow
def test_without_the_passphrase_a_credential_for_a_machine_opens_nothing(server, far, tmp_path):
    top = small(tmp_path / "source")
    server.register(far, name="guarded")
    far("backup", "item", top)
    (tmp_path / "other").write_text("another passphrase, long enough\n")
    for words in (["--for", "guarded"], ["--read", "guarded"]):
        state = words[0][2:]
        server.register(far, *words, name=state, state=state, passphrase="other", expect=77)


def test_a_reader_restores_and_cannot_back_up(server, far, tmp_path):
    top = small(tmp_path / "source")
    server.register(far, name="written")
    far("backup", "item", top)
    assert server.register(far, "--read", "written", name="reads", state="r")["role"] == "reader"
    assert exact(far, top, "written/item", state="r")
    far("backup", "item", top, state="r", expect=77)
    far("key", "rotate", state="r", expect=77)
    assert len(far("points")["points"]) == 1


def test_two_machines_back_up_at_once(server, far, tmp_path, source):
    """Each into a domain of its own: neither sees the other's, nor shares a block with it."""
    names = ["one", "two"]
    for name in names:
        server.register(far, name=name, state=name)
    made = [
        far.finish(process)
        for process in [far.start("backup", "item", source, state=name) for name in names]
    ]
    stored = [each["bytes_stored"] for each in made]
    assert stored[0] == pytest.approx(stored[1], rel=0.1)
    for name, mine in zip(names, made, strict=True):
        assert [each["point"] for each in far("points", state=name)["points"]] == [mine["point"]]
        assert exact(far, source, state=name)


def test_one_domain_stores_the_same_content_once(server, far, tmp_path):
    """Two state directories of one machine, and two of its items."""
    top = small(tmp_path / "source")
    server.register(far, name="shared")
    assert far("backup", "first", top)["blocks_new"] > 0
    server.register(far, "--for", "shared", state="other")
    other = far("backup", "second", top, state="other")
    assert (other["blocks_new"], other["parent"]) == (0, None)
    assert exact(far, top, "second", state="other")


# All that an agent's commands do.


@pytest.mark.slow
def test_every_command_of_an_agent_works(server, tmp_path):
    far = Shell(tmp_path, far=True, forks=False)  # each imports what it needs by itself
    top = small(tmp_path / "source")
    server.register(far, name="commands")
    made = far("backup", "item", top)
    status = far("status")
    assert (status["machine"], status["role"], status["url"]) == ("commands", "machine", server.url)
    assert [each["point"] for each in status["items"]] == [made["point"]]
    assert [each["point"] for each in far("points", "item")["points"]] == [made["point"]]
    listed = {each["path"] for each in far("ls", "item", "source")["entries"]}
    assert listed == {"source/file", "source/blocks"}
    assert far("verify", "item")["blocks"] > 0


@pytest.mark.slow
def test_keys_change_and_what_was_stored_before_stays_readable(server, far, tmp_path):
    top = small(tmp_path / "source")
    server.register(far, name="keys")
    far("backup", "item", top)
    (tmp_path / "new").write_text("a new passphrase of this machine\n")
    far("key", "passphrase", "--new-passphrase-file", tmp_path / "new")
    far("points", expect=77)
    printed = far("key", "recovery", passphrase="new")
    (tmp_path / "printed").write_text(printed["recovery_key"])
    assert far("points", "--recovery-key-file", tmp_path / "printed", passphrase="new")["points"]
    assert far("key", "rotate", passphrase="new")["epoch"] != printed["epoch"]
    (top / "file").write_bytes(b"after the rotation")
    assert far("backup", "item", top, passphrase="new")["blocks_new"] == 0
    assert exact(far, top, passphrase="new")


def test_a_limit_holds_and_costs_no_more_than_it_says(server, far, tmp_path):
    """3 MiB at 1 MiB a second; without keeping to it this takes a tenth of a second."""
    top = small(tmp_path / "source")
    server.register(far, name="limited")
    assert 2.5 < far("backup", "item", top, "--up", "1M")["seconds"] < 15
    assert 2.5 < far("restore", "item", "--to", tmp_path / "back", "--down", "1M")["seconds"] < 15
    near = Shell(tmp_path)
    near("backup", "item", top, "--up", "1M", expect=64)
    near("restore", "item", "--to", tmp_path / "none", "--down", "1M", expect=64)
    assert not (tmp_path / "vault").exists()


@pytest.mark.slow
def test_machine_and_server_need_no_home_and_write_only_where_they_are_told(confined, tmp_path):
    """The root is read-only for both."""
    top, work = small(tmp_path / "source"), tmp_path / "work"
    program = [sys.executable, "-m", "transfer"]
    vault, state = work / "vault", work / "state"
    listen = shlex.join([*program, "vault", "serve", str(vault), "--listen", "127.0.0.1:0"])
    agent = ["--state", str(state), "--passphrase-file", str(work / "passphrase")]
    done = confined(
        [*program, "vault", "init", str(vault)],
        ["sh", "-c", f"timeout 60 {listen} > $WORK/out 2>&1 & echo $! > $WORK/server"],
        ["sh", "-c", "until grep -q listening $WORK/out; do sleep 0.05; done"],
        [*program, "vault", "credentials", str(vault), "--out", str(work / "credential")],
        [*program, "register", str(work / "credential"), *agent],
        [*program, "backup", "item", str(top), *agent],
        [*program, "restore", "item", "--to", str(work / "back"), *agent],
        ["diff", "-r", str(top), str(work / "back" / "source")],
        ["sh", "-c", "kill $(cat $WORK/server)"],
        ["find", str(work / "tmp"), "/dev/shm", "-mindepth", "1"],
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "wrote 3.0 MiB" in done.stdout.splitlines()[-1]  # nothing is left in TMPDIR


# Servers that come and go.


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_run_goes_on_when_its_server_is_started_again(own, far, tmp_path, source, number):
    """SIGTERM answers the calls that are under way, and is no failure of the server."""
    own.register(far)
    process = far.start("backup", "item", source)
    under_way(own.directory, process)
    assert own.end(number) == (0 if number == signal.SIGTERM else -number)
    time.sleep(0.5)
    assert process.poll() is None
    own.start()
    assert far.finish(process)["warnings"] == []
    assert exact(far, source)
    assert far("vault", "verify", own.directory, plain=True)["damaged"] == []
    assert own.end(signal.SIGTERM) == 0
    assert stored_once(own.directory)


def test_the_next_run_goes_on_where_one_that_was_killed_ended(own, far, tmp_path, source):
    own.register(far)
    process = far.start("backup", "item", source)
    under_way(own.directory, process)
    kill(process.pid)
    far.finish(process, None)
    made = far("backup", "item", source)
    assert made["warnings"] == []
    assert made["bytes_sent"] < made["bytes_source"] // 2
    assert exact(far, source)
    assert own.end(signal.SIGTERM) == 0
    assert stored_once(own.directory)


def test_other_commands_work_beside_a_server_and_a_second_server_is_refused(own, far, tmp_path):
    """What they change is seen at once: the machine registers with a credential made meanwhile."""
    top = small(tmp_path / "source")
    second = ["vault", "serve", own.directory, "--listen", "127.0.0.1:0"]
    refused = far(*second, plain=True, expect=75)
    assert str(own.process.pid) in refused["error"]["message"]
    own.register(far, name="new")
    far("backup", "item", top)
    machines = far("vault", "machines", own.directory, plain=True)["machines"]
    assert [each["name"] for each in machines] == ["new"]
    assert far("vault", "stats", own.directory, plain=True)["points"] == 1
    (path, placed), *_ = next(
        places for each, places in frames_of(own.directory).items() if each.kind is Kind.DATA
    )
    assert far("vault", "verify", own.directory, plain=True)["damaged"] == []
    damage(path, placed)
    assert far("restore", "item", "--to", tmp_path / "hurt", expect=65)["damaged"]
    assert far("verify", "item", expect=65)["damaged"]
    found = far("vault", "verify", own.directory, plain=True, expect=65)
    assert len(found["damaged"]) == len(found["points_affected"]) == 1
    assert far("backup", "item", top)["blocks_new"] == 1
    assert exact(far, top)


@pytest.mark.slow
def test_a_vault_that_was_replaced_by_an_older_copy_is_noticed(own, far, tmp_path):
    top = small(tmp_path / "source")
    own.register(far)
    first = far("backup", "item", top)
    assert own.end(signal.SIGTERM) == 0
    shutil.copytree(own.directory, tmp_path / "older")
    with own.running():
        (top / "file").write_bytes(b"a change that the older copy lacks")
        time.sleep(2.1)  # its times would prove it unchanged
        far("backup", "item", top)
    shutil.rmtree(own.directory)
    (tmp_path / "older").rename(own.directory)
    with own.running():
        far("restore", "item", "--to", tmp_path / "none", expect=65)
        again = far("backup", "item", top, expect=3)
        assert {each["code"] for each in again["warnings"]} == {"vault-rolled-back"}
        assert again["parent"] == first["point"]
        assert exact(far, top)


def test_of_a_domains_first_point_nobody_asks_what_is_there(own, far, tmp_path):
    """Hardly anything can be; from then on each is asked for, and nothing is sent twice."""
    own.register(far)
    source = small(tmp_path / "source")

    def asked():
        return own.log.read_text().count(" /v1/have ")

    first = far("backup", "item", source)
    assert asked() == 0 and first["blocks_new"] == 3
    other = far("backup", "other", source)
    assert asked() > 0 and other["blocks_new"] == 0
    assert exact(far, source) and exact(far, source, "other")
