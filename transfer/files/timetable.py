"""The machine's time zones, and its timetable's file."""

import os
from datetime import UTC, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

from transfer.errors import UsageError
from transfer.policy.timetable import Timetable
from transfer.policy.timetable_toml import MAX_BYTES, parse

_LOCALTIME = Path("/etc/localtime")


def read_timetable(path: Path) -> Timetable:
    """Raises UsageError for a file that cannot be read, or that is wrong: it names the line."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    return parse(content, str(path), find_zone)


def find_zone(name: str) -> tzinfo:
    """The zone of an IANA name, or the machine's own for "local". Raises UsageError."""
    if name == "local":
        return local_zone()
    try:
        # The zones in right/ count leap seconds, which neither time() nor Python does.
        if not name.startswith("right/"):
            return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        pass  # the last is what a directory of pip's tzdata raises: "Europe"
    if name != "UTC" and not _has_zones():
        raise UsageError(
            "this machine has no time zone database",
            "install tzdata: the system's package, or pip's",
        )
    raise UsageError(f"unknown zone {name!r}", 'write a name like "Europe/Berlin", or "local"')


def local_zone() -> tzinfo:
    """What TZ names, or /etc/localtime holds, or UTC, as in the C library. Raises UsageError."""
    name = os.environ.get("TZ")
    if name is None:
        return _from_file(_LOCALTIME) if _LOCALTIME.exists() else UTC
    name = name.removeprefix(":")
    if name.startswith("/"):
        return _from_file(Path(name))
    try:
        return find_zone(name) if name not in ("", "local") else UTC
    except UsageError as error:
        raise UsageError(f"TZ={name}: {error.message}", error.hint) from error


def _from_file(path: Path) -> tzinfo:
    try:
        with path.open("rb") as file:
            return ZoneInfo.from_file(file, key="local")
    except (ValueError, OSError) as error:
        raise UsageError(
            f"{path} is no time zone: {error}", "name the zone in each rule"
        ) from error


def _has_zones() -> bool:
    try:
        return ZoneInfo("Etc/UTC") is not None
    except (KeyError, ValueError, OSError):
        return False
