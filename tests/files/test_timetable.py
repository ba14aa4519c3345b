"""Where a timetable's zones and its file come from."""

import os
import subprocess
import sys
from datetime import UTC
from zoneinfo import ZoneInfo

import pytest

from transfer.errors import UsageError
from transfer.files import timetable as files
from transfer.policy.timetable_toml import MAX_BYTES


def test_a_zone_is_found_by_its_name():
    assert files.find_zone("Europe/Berlin") is ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    "name", ["", "Europe", "Europe/Berln", "../zone", "/etc/localtime", "a\0b", "\udc80",
             "right/UTC", "x" * 5000, "CET-1CEST"],
)  # fmt: skip
def test_what_is_no_zone_is_refused(name):
    with pytest.raises(UsageError, match="unknown zone"):
        files.find_zone(name)


@pytest.mark.parametrize(
    ("value", "zone"),
    [
        ("Europe/Berlin", "Europe/Berlin"),
        (":Asia/Tehran", "Asia/Tehran"),
        ("", "UTC"),
        (":", "UTC"),
    ],
)
def test_the_local_zone_is_the_one_in_the_environment(monkeypatch, value, zone):
    monkeypatch.setenv("TZ", value)
    assert str(files.find_zone("local")) == zone


def test_a_local_zone_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    with pytest.raises(UsageError, match="TZ=CET-1CEST"):
        files.local_zone()
    monkeypatch.setenv("TZ", "/dev/null")
    with pytest.raises(UsageError, match="/dev/null is no time zone"):
        files.local_zone()


def test_without_an_environment_the_local_zone_is_the_systems(monkeypatch, tmp_path):
    monkeypatch.delenv("TZ", raising=False)
    monkeypatch.setattr(files, "_LOCALTIME", tmp_path / "localtime")
    assert files.local_zone() is UTC
    written = _version_1_zone()
    (tmp_path / "localtime").write_bytes(written)
    assert str(files.local_zone()) == "local"
    (tmp_path / "localtime").write_bytes(b"TZif")
    with pytest.raises(UsageError, match="no time zone"):
        files.local_zone()


def _version_1_zone():
    """A TZif file (RFC 9636) of one type: an hour ahead of UTC."""
    counts = (0, 0, 0, 0, 1, 4)
    header = b"TZif" + bytes(16) + b"".join(n.to_bytes(4, "big") for n in counts)
    return header + (3600).to_bytes(4, "big") + bytes(2) + b"ONE\0"


def test_a_machine_without_zones_is_told_what_to_install():
    program = (
        "import sys; sys.modules['tzdata'] = None\n"
        "from transfer.errors import UsageError; from transfer.files.timetable import find_zone\n"
        "try: find_zone('Europe/Berlin')\n"
        "except UsageError as error: print(error.message, error.hint)"
    )
    environment = {**os.environ, "PYTHONTZPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert "no time zone database" in done.stdout
    assert "install tzdata" in done.stdout


def test_a_file_is_read_and_errors_name_it(tmp_path):
    path = tmp_path / "timetable.toml"
    path.write_text('[default]\nup = "1M"\n')
    assert files.read_timetable(path).default == {"up": 2**20}
    path.write_text('[default]\nup = "1X"\n')
    with pytest.raises(UsageError, match=f"{path}:2: "):
        files.read_timetable(path)
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(UsageError, match="too long for a timetable"):
        files.read_timetable(path)
    with pytest.raises(UsageError, match="Is a directory"):
        files.read_timetable(tmp_path)
