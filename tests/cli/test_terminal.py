"""At a terminal: bars with phases, a prompt for the passphrase, and all of it sane after Ctrl-C."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time

import pytest

from transfer.cli.passphrase import prompt
from transfer.cli.progress import numbers
from transfer.jobs.progress import Progress

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


class Terminal:
    """A program that has a terminal of its own."""

    def __init__(self, command, stdout=None):
        self.seen = ""
        self.child, self.master = pty.fork()
        if self.child == 0:
            if stdout is not None:
                os.dup2(os.open(stdout, os.O_WRONLY | os.O_CREAT), 1)
            os.environ["TERM"] = "xterm"
            os.environ["COLUMNS"] = "120"
            os.execv(command[0], command)

    def read(self, until, seconds=60):
        """Read up to *until*, or all; what came."""
        end = time.monotonic() + seconds
        while until not in self.seen:
            assert time.monotonic() < end, self.seen
            if select.select([self.master], [], [], 1)[0]:
                try:
                    more = os.read(self.master, 65536)
                except OSError:  # the other end is closed
                    more = b""
                if not more:
                    break
                self.seen += more.decode()
        return self.seen

    def type(self, text):
        os.write(self.master, text.encode())

    def echoes(self):
        return bool(termios.tcgetattr(self.master)[3] & termios.ECHO)

    def end(self):
        """(exit code, all that it printed)."""
        seen = self.read("\0")  # which never comes
        code = os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1])
        os.close(self.master)
        assert "Traceback" not in seen, seen
        return code, seen


@pytest.fixture
def large(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(os.urandom(96 * 2**20))
    return path


def test_a_backup_shows_its_phases_and_numbers(stocked, tmp_path, large):
    terminal = Terminal(stocked.command("backup", "large", large), stdout=tmp_path / "out")
    code, seen = terminal.end()
    assert code == 0, seen
    assert "committing" in seen
    assert re.search(r"(finding changes|transferring|opening the view)", seen)
    assert re.search(r"\d+\.\d MiB", seen)
    assert "1 files" in seen
    assert seen.count(HIDE) == seen.count(SHOW) == 1
    assert seen.rindex(SHOW) > seen.rindex("files")
    # Results are for others to read: without a colour or a bar.
    assert "\x1b" not in (tmp_path / "out").read_text()
    assert "point" in (tmp_path / "out").read_text()


def test_others_that_move_data_do_so_too(stocked, tmp_path):
    for words in (("restore", "home", "--to", tmp_path / "out"), ("verify", "home")):
        code, seen = Terminal(stocked.command(*words)).end()
        assert code == 0, seen
        assert seen.rindex(SHOW) > seen.rindex(HIDE)


def test_quiet_is_quiet(stocked, tmp_path):
    code, seen = Terminal(stocked.command("verify", "home", "--quiet")).end()
    assert (code, seen) == (0, "")


def test_nothing_is_drawn_where_nobody_looks(stocked, tmp_path):
    done = subprocess.run(stocked.command("verify", "home"), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout


def test_verbose_names_the_phases_also_where_nobody_looks(stocked, tmp_path):
    command = stocked.command("backup", "home", tmp_path / "tree", "--verbose")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert lines[0] == "transfer: opening the view"
    assert "transfer: committing" in lines
    assert re.fullmatch(r"transfer: done: .*\d files", lines[-1])
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM"])
def test_it_can_be_stopped_and_leaves_a_sane_terminal(stocked, large, how):
    terminal = Terminal(stocked.command("backup", "large", large, "--compression", "better"))
    terminal.read(HIDE)
    terminal.type("\x03") if how == "Ctrl-C" else os.kill(terminal.child, signal.SIGTERM)
    code, seen = terminal.end()
    assert code == 130, seen
    assert seen.rindex(SHOW) > seen.rindex(HIDE)
    assert "interrupted" in seen
    assert [each["item"] for each in stocked("points")[1]["points"]] == ["home"]


def ask(shell, *words):
    command = shell.command(*words)
    at = command.index("--passphrase-file")
    return Terminal([*command[:at], *command[at + 2 :]])


def test_the_passphrase_is_asked_for_and_not_shown(quick, tmp_path):
    terminal = ask(quick, "backup", "small", tmp_path / "passphrase", "--quiet")
    terminal.read("new passphrase: ")
    terminal.type("correct horse battery staple\n")
    terminal.read("once more: ")
    assert not terminal.echoes()
    terminal.type("correct horse battery staple\n")
    code, seen = terminal.end()
    assert (code, "horse" in seen) == (0, False)
    terminal = ask(quick, "points")
    terminal.read("passphrase: ")
    terminal.type("correct horse battery staple\n")
    code, seen = terminal.end()
    assert (code, "small" in seen) == (0, True)


def test_two_passphrases_that_differ_make_nothing(quick, tmp_path):
    terminal = ask(quick, "backup", "small", tmp_path / "passphrase")
    terminal.read("new passphrase: ")
    terminal.type("correct horse battery staple\n")
    terminal.read("once more: ")
    terminal.type("correct horse battery stable\n")
    code, seen = terminal.end()
    assert (code, "differ" in seen) == (64, True)
    assert not (tmp_path / "vault" / "records").exists()


def test_signals_mean_after_a_prompt_what_they_meant_before(monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    during = []

    def getpass(text):
        during.append(signal.getsignal(signal.SIGTERM))
        return "x"

    monkeypatch.setattr("getpass.getpass", getpass)
    assert prompt(new=True) == "x"
    assert during == [signal.default_int_handler] * 2
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM"])
def test_a_prompt_can_be_left(stocked, tmp_path, how):
    terminal = ask(stocked, "points")
    terminal.read("passphrase: ")
    terminal.type("half of it")
    assert not terminal.echoes()
    terminal.type("\x03") if how == "Ctrl-C" else os.kill(terminal.child, signal.SIGTERM)
    terminal.read("interrupted")
    assert terminal.echoes()
    code, seen = terminal.end()
    assert code == 130, seen
    assert stocked("points")[0] == 0


def test_numbers_say_what_is_known():
    progress = Progress()
    assert numbers(progress, None, None) == "0 B, 0 files"
    progress.bytes_done, progress.files_done, progress.bytes_sent = 3 * 2**20, 12, 2**20
    assert numbers(progress, 2**20, None) == "3.0 MiB, 1.0 MiB sent, 1.0 MiB/s, 12 files"
    progress.bytes_total = 4 * 2**20
    assert numbers(progress, 2**20, 75.2) == (
        "3.0 MiB of 4.0 MiB, 1.0 MiB sent, 1.0 MiB/s, 1:15 left, 12 files"
    )
    assert "2:00:05 left" in numbers(progress, 1, 7205)
    progress.bytes_total = progress.bytes_done  # it grew: nobody knows any more
    assert "left" not in numbers(progress, 1, 5)


def test_phases_follow_each_other():
    progress = Progress()
    assert progress.phase == ""
    for name in ("finding changes", "finding changes", "committing"):
        progress.phase_is(name)
    progress.sending(5)
    progress.sending(6)
    assert progress.phases == ["finding changes", "committing", "transferring"]
    assert (progress.phase, progress.bytes_sent) == ("transferring", 11)
