"""The command line as scripts use it: real processes, exit codes and JSON."""

import json
import os
import shutil
import subprocess
import sys

import pytest

PASSPHRASE = "correct horse battery staple"


class Shell:
    """Run `transfer` in a process of its own; a vault, a state and a passphrase stand in *top*."""

    def __init__(self, top):
        self.top = top
        (top / "passphrase").write_text(PASSPHRASE + "\n")

    def __call__(self, *words, plain=False, before=None, **options):
        """(exit code, the JSON object, or stderr where there is none); *plain*: *words* alone."""
        command = self.command(*words, "--json", plain=plain, **options)
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=100, preexec_fn=before
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr

    def command(self, *words, passphrase="passphrase", vault="vault", state="state", plain=False):
        agent = [] if plain else [
            "--vault", self.top / vault, "--state", self.top / state,
            "--passphrase-file", self.top / passphrase,
        ]  # fmt: skip
        return [sys.executable, "-m", "transfer", *map(str, [*words, *agent])]

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
    shell = Shell(tmp_path)
    shell.point = point
    return shell
