"""Limits of real processes, seen on the wire through a relay that counts bytes."""

import json
import os
import signal
import time
from contextlib import contextmanager

import pytest

from perf.relay import BIN, Relay
from tests.acceptance.served import Server
from tests.acceptance.shell import Shell, kill
from transfer.jobs import control, machine_limits
from transfer.jobs.machine_limits import Override, Overrides
from transfer.jobs.state import StateDirectory

MIB = 2**20
AT_ONCE = 0.1  # seconds in which a change shows on the wire
ALWAYS = '[[rule]]\nname = "always"\nup = "{0}"\ndown = "{0}"\n'


class World:
    """A machine whose calls go through a counting relay to the vault's server."""

    def __init__(self, top, relay):
        self.shell, self.relay = Shell(top, far=True), relay
        self.state = StateDirectory(top / "state")
        self.source = top / "image"
        self.source.write_bytes(os.urandom(24 * MIB))

    def set(self, **how):
        """The machine's limits, in force when it returns; the moment before."""
        began = time.monotonic()
        machine_limits.change(self.state, lambda _: Overrides(**how))
        assert not any("error" in each for each in control.tell(self.state, "reload").values())
        return began

    def start(self, direction, *words):
        """A backup, or a restore of what was backed up before."""
        if direction == "up":
            return self.shell.start("backup", "item", self.source, *words)
        self.shell("backup", "item", self.source)
        return self.shell.start("restore", "item", "--to", self.shell.top / "back", *words)

    def until_it_moves(self, direction, process):
        while process.poll() is None:
            shown = control.tell(self.state, "show").values()
            if any(each.get(direction, {}).get("granted", 0) > MIB // 2 for each in shown):
                return
            time.sleep(0.02)
        raise AssertionError("it ended too soon")


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setenv("TRANSFER_CONFIG", str(tmp_path / "config"))
    (tmp_path / "config").mkdir()
    server = Server(tmp_path / "vault").start()
    with Relay(server.port) as relay:
        made = World(tmp_path, relay)
        server.register(made.shell, "--url", f"https://127.0.0.1:{relay.port}")
        yield made


@contextmanager
def going(world, direction, *words):
    """A run in that direction while the block lasts; it is killed at the end."""
    process = world.start(direction, *words)
    world.until_it_moves(direction, process)
    yield process
    kill(process.pid)
    world.shell.finish(process, None)
    world.relay.stop()


def rate(world, direction, began, seconds, wait=AT_ONCE):
    """Bytes a second on the wire, from *wait* after *began* on."""
    bins = getattr(world.relay.counted, direction)
    first = int((began + wait) / BIN)
    return sum(bins[first + n] for n in range(int(seconds / BIN))) / seconds


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_change_a_pause_and_its_end_show_on_the_wire_within_100_ms(world, direction):
    world.set(**{direction: Override(4 * MIB)})
    with going(world, direction):
        time.sleep(0.5)
        slower = world.set(**{direction: Override(MIB)})
        time.sleep(0.7)
        paused = world.set(**{direction: Override(MIB)}, pause=Override(0))
        time.sleep(0.7)
        on = world.set(**{direction: Override(MIB)})
        time.sleep(0.7)
        faster = world.set(**{direction: Override(4 * MIB)})
        time.sleep(0.7)
    assert rate(world, direction, slower - 0.6, 0.5) > 3 * MIB
    assert 0.85 * MIB < rate(world, direction, slower, 0.5) < 1.1 * MIB
    assert rate(world, direction, paused, 0.5) < 0.01 * MIB
    assert 0.85 * MIB < rate(world, direction, on, 0.5) < 1.1 * MIB
    assert 3.4 * MIB < rate(world, direction, faster, 0.5) < 4.4 * MIB


def granted(world, seconds):
    """What each run was granted in so many seconds, by its process."""
    before = control.tell(world.state, "show")
    time.sleep(seconds)
    after = control.tell(world.state, "show")
    return {
        int(name.partition("-")[0]): each["up"]["granted"] - before[name]["up"]["granted"]
        for name, each in after.items()
    }


def test_two_backups_share_by_weight_and_one_that_is_killed_leaves_all_of_it(world, tmp_path):
    limit = 4 * MIB
    world.set(up=Override(limit))
    (tmp_path / "other").write_bytes(os.urandom(24 * MIB))
    other = world.shell.start("backup", "other", tmp_path / "other", "--weight", "3")
    with going(world, "up") as process:
        world.until_it_moves("up", other)
        time.sleep(1)
        began = time.monotonic()
        shared = granted(world, 2)
        kill(other.pid)
        killed = time.monotonic()
        alone = granted(world, 1)
    world.shell.finish(other, None)
    assert 2 < shared[other.pid] / shared[process.pid] < 4.5
    assert 0.9 * 2 * limit < sum(shared.values()) < 1.05 * 2 * limit
    assert 0.9 * limit < rate(world, "up", began, 1.8) < 1.03 * limit
    assert 0.85 * limit < alone[process.pid] < 1.1 * limit
    assert 0.85 * limit < rate(world, "up", killed, 0.8) < 1.05 * limit


def test_sighup_reads_the_timetable_again_and_a_wrong_one_changes_nothing(world, tmp_path):
    table = tmp_path / "config" / "timetable.toml"
    table.write_text(ALWAYS.format("1M"))
    with going(world, "up") as process:
        table.write_text(ALWAYS.format("4M"))
        began = time.monotonic()
        process.send_signal(signal.SIGHUP)
        time.sleep(0.8)
        table.write_text(ALWAYS.format("4M") + "speed = 1\n")
        process.send_signal(signal.SIGHUP)
        wrong = time.monotonic()
        time.sleep(0.8)
        kill(process.pid)
        _, said = process.communicate()
    assert rate(world, "up", began - 0.3, 0.25, 0) < 1.1 * MIB
    for when in (began, wrong):
        assert 3.4 * MIB < rate(world, "up", when, 0.5, 0.2) < 4.4 * MIB
    assert said.startswith("warning: the limits stay as they are: ")
    assert f"{table}:5" in said


@pytest.mark.slow
def test_a_window_begins_on_the_wire_within_100_ms(world, tmp_path):
    """Its times have minutes: this waits for the next."""
    begins = (int(time.time()) // 60 + 1) * 60
    if begins - time.time() < 5:
        begins += 60
    start, end = (time.strftime("%H:%M", time.gmtime(begins + more)) for more in (0, 120))
    (tmp_path / "config" / "timetable.toml").write_text(
        '[default]\nup = "100K"\n'
        f'[[rule]]\nname = "window"\nstart = "{start}"\nend = "{end}"\nup = "2M"\nzone = "UTC"\n'
    )
    with going(world, "up"):
        time.sleep(max(0, begins - time.time()) + 1)
    instant = time.monotonic() - (time.time() - begins)
    assert 0.08 * MIB < rate(world, "up", instant - 1, 0.9, 0) < 0.12 * MIB
    assert 1.7 * MIB < rate(world, "up", instant, 0.7) < 2.2 * MIB


def test_a_dead_run_is_no_failure_of_the_command(world):
    with going(world, "up", "--up", "2M") as process:
        kill(process.pid)
        process.wait()
        for words in (("show",), ("pause",), ("resume",)):
            answer = world.shell("throttle", *words, "--state", world.state.path, plain=True)
            assert str(process.pid) not in json.dumps(answer)
