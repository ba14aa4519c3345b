"""What the documents say is what the code says."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_formats_page_is_made_of_the_codecs_docstrings():
    script = ROOT / "docs" / "make_formats.py"
    assert subprocess.run([sys.executable, script, "--check"], check=False).returncode == 0
