"""What the documents say is what the code says."""

import argparse
import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.machine import lacking

ROOT = Path(__file__).parents[1]
# Other programs' words for what the glossary has one word for.
FOREIGN = {
    "archive": "point", "backup set": "point", "restore point": "point", "manifest": "node",
    "repository": "vault", "chunk": "block", "segment": "pack", "bundle": "frames of one call",
    "checkpoint": "mark", "volume": "item or stream", "tenant": "domain", "blob": "frame",
}  # fmt: skip
# "log segment" is a kind of point that the format reserves; replies have chunks in NBD's own words.
ALLOWED = {("formats/point.py", "segment"), ("sources/nbd_protocol.py", "chunk")}


def docstrings(module: Path):
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield (ast.get_docstring(node) or "").lower()


def test_formats_page_is_made_of_the_codecs_docstrings():
    script = ROOT / "docs" / "make_formats.py"
    assert subprocess.run([sys.executable, script, "--check"], check=False).returncode == 0


@pytest.mark.parametrize("module", sorted((ROOT / "transfer").rglob("*.py")), ids=str)
def test_docstrings_use_the_glossarys_words(module):
    text = "\n".join(docstrings(module))
    here = str(module.relative_to(ROOT / "transfer"))
    for word, ours in FOREIGN.items():
        if (here, word) not in ALLOWED:
            assert not re.search(rf"\b{word}s?\b", text), f"{word}: the glossary says {ours}"


PAGES = ["README.md", "docs/operations.md", "docs/failures.md", "docs/threat-model.md"]
UNITS = sorted((ROOT / "docs" / "systemd").iterdir())


def commands_in(text):
    """(words, options) of each `transfer COMMAND [ACTION] ... --option ...` that *text* shows."""
    text = text.replace("\\\n", " ")
    for found in re.finditer(r"(?:[\s`/>]|^)transfer ([a-z]+)(?: ([a-z]+)\b)?([^`#\n]*)", text):
        yield found[1], found[2], re.findall(r"--[a-z][a-z-]*", found[0])


@pytest.mark.parametrize("page", [*PAGES, *UNITS], ids=lambda page: Path(page).name)
def test_every_command_and_option_that_is_shown_exists(page):
    from transfer.cli.main import COMMANDS, make_parser

    commands = subparsers(make_parser())
    for name, action, options in commands_in((ROOT / page).read_text()):
        if name == "engine":
            continue
        assert name in COMMANDS, name
        parser = commands[name]
        if actions := subparsers(parser):
            assert action in actions, f"{name} {action}"
            parser = actions[action]
        unknown = set(options) - set(parser._option_string_actions)
        assert not unknown, f"{name} {action}: {unknown}"


def subparsers(parser):
    """By name; none for a command without actions."""
    groups = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    return dict(groups[0].choices) if groups else {}


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_understands_the_units(unit, tmp_path):
    if shutil.which("systemd-analyze") is None:
        lacking("systemd-analyze is missing (Debian: apt install systemd)")
    for each in UNITS:  # a timer is checked with its service
        text = each.read_text().replace("/opt/transfer/bin/transfer", "/bin/true")
        (tmp_path / each.name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / unit.name],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
