"""The command line as scripts use it: real processes, exit codes and JSON."""

import json
import os
import shutil
import subprocess
import sys
from functools import partial

import pytest

from tests.acceptance.forked import forked

PASSPHRASE = "correct horse battery staple"


MOVING = ("backup", "restore", "verify")


class Shell:
    """Run `transfer` in a process of its own; a vault, a state and a passphrase stand in *top*.

    It is forked from this one, unless a function shall run *before* the program, or `started` is
    used. With *threads* no worker processes are started.
    """

    def __init__(self, top, threads=False):
        self.top, self.threads = top, threads
        (top / "passphrase").write_text(PASSPHRASE + "\n")

    def __call__(self, *words, before=None, **options):
        """(exit code, the JSON object, or stderr where there is none)."""
        threads = ()
        if self.threads and words and words[0] in MOVING and "--workers" not in words:
            threads = ("--workers", 0)
        command = self.words(*words, *threads, "--json", **options)
        run = forked if before is None else partial(executed, before=before)
        code, out, errors = run(command)
        assert "Traceback" not in errors, errors
        return code, json.loads(out) if out else errors

    def started(self, *words, **options):
        """The same, with an interpreter of its own, as users have it."""
        return self(*words, before=lambda: None, **options)

    def words(self, *words, passphrase="passphrase", vault="vault", state="state", plain=False):
        """*words* and the agent's options; *plain*: without."""
        agent = [] if plain else [
            "--vault", self.top / vault, "--state", self.top / state,
            "--passphrase-file", self.top / passphrase,
        ]  # fmt: skip
        return [str(word) for word in (*words, *agent)]

    def command(self, *words, **options):
        return [sys.executable, "-m", "transfer", *self.words(*words, **options)]

    def refused(self, exit_code, code, *words, says=(), **options):
        """The command ends with *exit_code* and *code*; its message names what *says* holds, and
        a hint says what to do.
        """
        found, answer = self(*words, **options)
        assert isinstance(answer, dict), answer
        error = answer.get("error", answer)
        assert (found, answer["exit"], error.get("code")) == (exit_code, exit_code, code), answer
        for word in says:
            assert str(word) in error["message"], error
        assert error["hint"], error
        return error


def executed(words, before):
    done = subprocess.run(
        [sys.executable, "-m", "transfer", *words], capture_output=True, text=True, check=False,
        timeout=100, preexec_fn=before,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def contents(top):
    """What stands below *top*: type, mode and content of each name."""
    found = {}
    for path in sorted(top.rglob("*")):
        stat = path.lstat()
        read = path.is_file() and not path.is_symlink()
        what = path.read_bytes() if read else os.readlink(path) if path.is_symlink() else None
        found[path.relative_to(top)] = (stat.st_mode, what)
    return found


@pytest.fixture
def shell(tmp_path):
    return Shell(tmp_path)


def make_tree(top):
    (top / "deep" / "deeper").mkdir(parents=True)
    (top / "empty").mkdir()
    (top / "small").write_text("hello")
    (top / "nothing").touch()
    (top / "deep" / "large").write_bytes(os.urandom(6 * 2**20))
    (top / "deep" / "deeper" / "medium").write_bytes(b"m" * 100_000)
    (top / "link").symlink_to("small")
    os.link(top / "small", top / "hard")
    (top / os.fsdecode(b"caf\xe9")).write_bytes(b"latin-1")
    return top


@pytest.fixture
def tree(tmp_path):
    return make_tree(tmp_path / "tree")


@pytest.fixture
def quick(tmp_path):
    return Shell(tmp_path, threads=True)


@pytest.fixture(scope="session")
def stock(tmp_path_factory):
    """A vault with a point of the item `home`, and what belongs to it."""
    top = tmp_path_factory.mktemp("stock")
    make_tree(top / "tree")
    code, answer = Shell(top)("backup", "home", top / "tree")
    assert code == 0, answer
    return top, answer["point"]


@pytest.fixture
def stocked(stock, tmp_path):
    """A shell with a copy of the stock's own; `point` is that of the item `home`."""
    top, point = stock
    for name in ("vault", "state", "tree"):
        shutil.copytree(top / name, tmp_path / name, symlinks=True)
    shell = Shell(tmp_path, threads=True)
    shell.point = point
    return shell
