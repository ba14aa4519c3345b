"""What a test needs of the machine. Without it the test is skipped, with the reason; where
TRANSFER_TESTS_ALL is set (CI, which installs everything) the lack is a failure.
"""

import os
import shutil
from typing import NoReturn

import pytest

PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may")


def lacking(reason: str) -> NoReturn:
    if os.environ.get("TRANSFER_TESTS_ALL"):
        pytest.fail(f"{reason}, and TRANSFER_TESTS_ALL is set")
    pytest.skip(reason)


def tool(name: str, package: str) -> str:
    """The path of a command that Debian's *package* has."""
    found = shutil.which(name, path=PATH)
    if found is None:
        lacking(f"{name} is missing (Debian: apt install {package})")
    return found


def space(path: object, size: int) -> None:
    """*size* bytes free where *path* is."""
    free = shutil.disk_usage(str(path)).free
    if free < size:
        lacking(f"{size >> 30} GiB of disk space are needed, {free >> 30} are free")
