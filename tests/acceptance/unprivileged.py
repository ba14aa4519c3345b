"""Run `transfer` as a user without any right, also where only root may read its interpreter."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.acceptance.needs import lacking
from tests.acceptance.served import shell_at
from tests.acceptance.shell import ROOT, Shell

NOBODY = 65_534
NOT_NEEDED = ("test", "__pycache__", "site-packages", "config-*", "idlelib", "tkinter", "ensurepip")
NOT_NEEDED_HERE = (
    "__pycache__", "*mypyc*", "mypy*", "ruff*", "pip*", "setuptools*", "hypothesis*", "_pytest",
    "__editable__*",
)  # fmt: skip
COMPILED = (
    "transfer.cli.running, transfer.jobs.backup, transfer.jobs.register, transfer.jobs.restore"
)


def find_python(work: Path) -> tuple[str, Path]:
    """An interpreter that nobody may run, and where it finds the package."""
    if os.geteuid() != 0 or _runs(sys.executable, ROOT):
        return sys.executable, ROOT
    python, place = _copied(work)
    # Compiled once, by who may write there, and not in each of many processes.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    command = [python, "-c", f"import {COMPILED}"]
    subprocess.run(command, cwd=place, check=True, env=environment)
    if not _runs(python, place):
        lacking(f"user {NOBODY} cannot run {sys.executable}, nor a copy of it")
    return python, place


def shell_of_nobody(work: Path, python: tuple[str, Path], place: str = "near") -> Shell:
    """A shell with a home below *work*: of this user, or of nobody if this user is root."""
    home = work / "home"
    home.mkdir()
    if os.geteuid() != 0:
        return shell_at(home, place)
    os.chown(home, NOBODY, NOBODY)
    return shell_at(home, place, python=python[0], user=NOBODY, code=python[1])


def build_tree(shell: Shell, top: Path) -> None:
    """The tree of hard cases, made by the shell's user."""
    code = "import sys; from tests.acceptance import trees; from pathlib import Path; "
    code += "trees.tricky(Path(sys.argv[1]), as_root=False)"
    rights = {"user": shell.user, "group": shell.user, "extra_groups": []} if shell.user else {}
    command = [shell.python, "-c", code, str(top)]
    done = subprocess.run(
        command, cwd=shell.code, check=False, capture_output=True, text=True, **rights
    )
    if "OSError" in done.stderr:
        lacking(f"the file system of TMPDIR cannot hold the hard cases: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr


def _runs(python: str, place: Path) -> bool:
    try:
        done = subprocess.run(
            [python, "-c", "import transfer.jobs.backup"], cwd=place, check=False, timeout=60,
            capture_output=True, user=NOBODY, group=NOBODY, extra_groups=[],
        )  # fmt: skip
    except PermissionError:
        return False
    return done.returncode == 0


def _copied(work: Path) -> tuple[str, Path]:
    """A copy of the interpreter, and a directory with the package and what it needs."""
    home, version = work / "python", f"python{sysconfig.get_python_version()}"
    library = home / "lib" / version
    code = work / "code"
    shutil.copytree(
        sysconfig.get_path("stdlib"), library, ignore=shutil.ignore_patterns(*NOT_NEEDED)
    )
    for kind in dict.fromkeys(sysconfig.get_path(each) for each in ("purelib", "platlib")):
        ignore = shutil.ignore_patterns(*NOT_NEEDED_HERE)
        shutil.copytree(kind, code, dirs_exist_ok=True, ignore=ignore)
    (home / "bin").mkdir()
    shutil.copy(os.path.realpath(sys.executable), home / "bin" / version)
    for part in ("transfer", "perf", "tests/acceptance"):
        shutil.copytree(ROOT / part, code / part, dirs_exist_ok=True)
    return str(_with_its_library(home, home / "bin" / version)), code


def _with_its_library(home: Path, python: Path) -> Path:
    """Where the interpreter is mostly a shared library, the system's own must not stand in."""
    name = sysconfig.get_config_var("INSTSONAME")
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        return python
    shutil.copy(Path(sysconfig.get_config_var("LIBDIR"), name), home / "lib")
    script = python.with_name("python")
    script.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH={home / "lib"} exec {python} "$@"\n')
    script.chmod(0o755)
    return script
