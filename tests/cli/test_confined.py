"""In a container that gives little: a read-only root, no HOME, 64 MiB of /dev/shm."""

import os
import shlex
import subprocess

import pytest

from tests.cli.conftest import Shell, contents, make_tree
from tests.cli.machine import lacking

# In mounts of its own: only $WORK can be written, and nothing else.
PREPARE = """
set -e
mount --make-rprivate /
mount -t tmpfs -o size=200m tmpfs "$WORK"
mount -t tmpfs -o size=64m tmpfs /dev/shm
mount -o remount,ro,bind /
if touch "$SOURCE/x" 2> /dev/null; then echo "the root can be written" >&2; exit 99; fi
mkdir "$TMPDIR"
printf 'correct horse battery staple' > "$WORK/passphrase"
"""


@pytest.fixture
def confined(tmp_path):
    """Run commands one after the other; what they print."""

    def run(*commands, **environment):
        work = tmp_path / "work"
        work.mkdir()
        script = PREPARE + "\n".join(map(shlex.join, commands))
        kept = {name: value for name, value in os.environ.items() if name != "HOME"}
        places = {"WORK": str(work), "TMPDIR": str(work / "tmp"), "SOURCE": str(tmp_path)}
        return subprocess.run(
            [*alone, "sh", "-c", script], capture_output=True, text=True, timeout=100,
            env=kept | places | environment,
        )  # fmt: skip

    alone = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else [])]
    if subprocess.run([*alone, "true"], capture_output=True).returncode:
        lacking("there are no mount namespaces here")
    return run


def test_backup_restore_and_verify(confined, tmp_path):
    tree = make_tree(tmp_path / "tree")
    work = tmp_path / "work"
    shell = Shell(tmp_path)
    shell.top = work
    out = work / "out"
    done = confined(
        shell.command("backup", "home", tree),
        shell.command("backup", "home", tree, "--workers", 0),
        shell.command("restore", "home", "--to", out),
        shell.command("verify", "home", "--workers", 0),
        shell.command("points"),
        ["diff", "-r", "--no-dereference", str(tree), str(out / "tree")],
        ["find", str(work / "tmp"), "/dev/shm", "-mindepth", "1"],
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("point ") == 4
    assert done.stdout.strip().endswith("/home")  # and nothing is left in TMPDIR or /dev/shm
    assert len(contents(tree)) == 10


def test_without_a_place_for_the_state(confined, tmp_path):
    """No --state: what is the default cannot be written, and that is said."""
    work = tmp_path / "work"
    words = ["points", "--vault", str(work / "vault")]
    command = Shell(tmp_path).command(
        *words, "--passphrase-file", work / "passphrase", "--json", plain=True
    )
    done = confined(command, XDG_STATE_HOME="/var/lib")
    assert "Traceback" not in done.stderr
    assert done.returncode == 64
    assert "Read-only" in done.stdout or "not a vault" in done.stdout
