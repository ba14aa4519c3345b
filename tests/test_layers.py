"""The architecture, as a test: imports point down, and the core does no I/O."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "transfer"
# From the bottom up; packages side by side do not know each other.
LAYERS = [
    "errors waiting",
    "formats crypto",
    "policy",
    "files",
    "throttle",
    "sources targets vault",
    "pipeline net",
    "jobs",
    "cli library",
]
RANK = {name: rank for rank, line in enumerate(LAYERS) for name in line.split()}
SANS_IO = {"formats", "crypto", "policy"}
# os is there for urandom alone, and the core does not use even that.
IO = {"asyncio", "os", "pathlib", "random", "socket", "ssl", "threading", "time"}
LAYERED = [*sorted(PACKAGE.glob("*/**/*.py")), PACKAGE / "library.py"]
LINUX_ONLY = {"fcntl", "pwd", "grp", "resource"}


def imports(module: Path):
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: write imports in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("module", LAYERED, ids=str)
def test_imports_point_down(module):
    here = module.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for name in imports(module):
        top, _, rest = name.partition(".")
        there = rest.partition(".")[0]
        if top == "transfer" and there not in (here, "__version__"):
            assert RANK[there] < RANK[here], f"{here} must not import {there}"
        assert not (here in SANS_IO and top in IO | LINUX_ONLY), f"{here} does no I/O, so not {top}"


@pytest.mark.parametrize("module", sorted(PACKAGE.glob("**/*.py")), ids=str)
def test_modules_stay_small(module):
    assert len(module.read_text().splitlines()) <= 400


def test_a_client_of_a_far_vault_loads_no_database():
    """SQLAlchemy is for vaults; the memory of an agent has better uses."""
    client = (
        "transfer.jobs.opening, transfer.jobs.limits, transfer.jobs.backup, transfer.jobs.restore"
    )
    program = f"import {client}, sys; sys.exit('sqlalchemy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
