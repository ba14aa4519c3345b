"""The command line as scripts use it: real processes, exit codes and JSON."""

import json
import os
import subprocess
import sys

import pytest

PASSPHRASE = "correct horse battery staple"


class Shell:
    """Run `transfer` in a process of its own; a vault, a state and a passphrase stand in *top*."""

    def __init__(self, top):
        self.top = top
        (top / "passphrase").write_text(PASSPHRASE + "\n")

    def __call__(self, *words, plain=False, **options):
        """(exit code, the JSON object, or stderr where there is none); *plain*: *words* alone."""
        command = self.command(*words, "--json", plain=plain, **options)
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr

    def command(self, *words, passphrase="passphrase", vault="vault", state="state", plain=False):
        agent = [] if plain else [
            "--vault", self.top / vault, "--state", self.top / state,
            "--passphrase-file", self.top / passphrase,
        ]  # fmt: skip
        return [sys.executable, "-m", "transfer", *map(str, [*words, *agent])]


@pytest.fixture
def shell(tmp_path):
    return Shell(tmp_path)


@pytest.fixture
def tree(tmp_path):
    top = tmp_path / "tree"
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
