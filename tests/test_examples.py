"""The examples do what they say, as programs of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
PASSPHRASE = "correct horse battery staple"


@pytest.fixture
def example(tmp_path):
    (tmp_path / "passphrase").write_text(PASSPHRASE)
    source = tmp_path / "source"
    source.mkdir()
    (source / "letter").write_text("first")
    (source / "large").write_bytes(os.urandom(3 * 2**20))

    def run(name, *words, expect=0):
        """What it printed on stdout, or on stderr if it shall fail."""
        agent = ["--vault", tmp_path / "vault", "--state", tmp_path / "state",
                 "--passphrase-file", tmp_path / "passphrase", "--workers", 0]  # fmt: skip
        command = [sys.executable, "-W", "error", EXAMPLES / f"{name}.py", *words, *agent]
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, check=False, timeout=60
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == expect, (done.returncode, done.stdout, done.stderr)
        return done.stderr if expect else done.stdout

    return run


def test_an_upload_shows_its_end_and_is_not_sent_twice(example, tmp_path):
    paths = ("scans", tmp_path / "source", "--create")
    assert f"{3 * 2**20 + 5} bytes are safe" in example("bulk_upload", *paths)
    again = example("bulk_upload", *paths)
    assert int(again.rpartition(" were sent")[0].rpartition(" ")[2]) < 2**20
    refused = example("bulk_upload", *paths, "--up", "1M", expect=64)
    assert "up is for a vault over the network" in refused


def test_an_agent_says_what_it_did_and_by_the_error_what_to_do(example, tmp_path):
    source = tmp_path / "source"
    told = example("embedded_agent", "home", source, expect=64)
    assert "see to the configuration" in told  # there is no vault yet, and none is made by mistake
    told = example("embedded_agent", "home", source, "--create")
    assert "committing: 2 files" in told and ": 2 files, " in told.splitlines()[-1]


def test_one_file_comes_back_from_the_newest_point_that_has_it(example, tmp_path):
    source, back = tmp_path / "source", tmp_path / "back"
    example("embedded_agent", "home", source, "--create")
    (source / "letter").write_text("second")
    example("embedded_agent", "home", source)
    (source / "letter").unlink()
    example("embedded_agent", "home", source)
    told = example("restore_one_file", "home", "source/letter", back)
    assert told.splitlines()[-1] == str(back / "source" / "letter")
    assert (back / "source" / "letter").read_text() == "second"
    assert [path.name for path in back.rglob("*")] == ["source", "letter"]
    assert "no point of home has" in example("restore_one_file", "home", "no/such", back, expect=64)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short_and_says_how_it_is_called(path):
    text = path.read_text()
    assert 40 <= len(text.splitlines()) <= 80
    assert f"python examples/{path.name} " in text.split('"""')[1]
