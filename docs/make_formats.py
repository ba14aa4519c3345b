"""Write docs/formats.md from the docstrings above the codecs: one source for each layout."""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODULES = (
    "documents", "features", "reference", "frame", "pack", "stream", "directory", "entry_codec",
    "point", "keyring", "record", "journal", "credential",
)  # fmt: skip


def page() -> str:
    parts = ["# Formats\n\nMade by `docs/make_formats.py` from the codecs; do not edit.\n"]
    for name in MODULES:
        path = ROOT / "transfer" / "formats" / f"{name}.py"
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        parts.append(f"\n## {name}\n\n```text\n{text}\n```\n")
    return "".join(parts)


if __name__ == "__main__":
    target = ROOT / "docs" / "formats.md"
    if "--check" in sys.argv:
        sys.exit(target.read_text() != page())
    target.write_text(page())
