"""What the documents say is what the code says."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Other programs' words for what the glossary has one word for.
FOREIGN = {
    "archive": "point", "backup set": "point", "restore point": "point", "manifest": "node",
    "repository": "vault", "chunk": "block", "segment": "pack", "bundle": "frames of one call",
    "checkpoint": "mark", "volume": "item or stream", "tenant": "domain", "blob": "frame",
}  # fmt: skip
# "log segment" is a kind of point that the format reserves.
ALLOWED = {("formats/point.py", "segment")}


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


def test_the_readme_names_no_command_that_is_not_there():
    from transfer.cli.main import COMMANDS

    text = (ROOT / "README.md").read_text()
    named = set(re.findall(r"\btransfer ([a-z]+)", text))
    assert named
    assert named <= set(COMMANDS) | {"engine"}
