"""Addresses of live machines, as PATHs have them.

    qmp:SOCKET[?disks=A,B&agent=SOCKET&nbd=SOCKET&fleece=DIR&fleece-size=SIZE&freeze=SECONDS]

    disks         by node or device; else all that do not come and go
    agent         the guest agent's socket: the guest's file systems are frozen for the moment
    freeze        for how long at most; 5 seconds unless it is said
    nbd           the Unix socket of the machine's NBD server, where one is running already
    fleece        where the old content of blocks that are overwritten meanwhile is kept
    fleece-size   how much of it a disk may have

Values may be percent-encoded.
"""

import os
import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from transfer.errors import UsageError
from transfer.policy.rates import parse_size

SCHEME = "qmp:"
MIN_FLEECE = 16 << 20
_KNOWN = ["disks", "agent", "freeze", "nbd", "fleece", "fleece-size"]
_FORM = "qmp:SOCKET?" + "&".join(f"{key}=..." for key in _KNOWN)


@dataclass(frozen=True)
class QmpAddress:
    """*fleece_size* 0: as much as seems right. *freeze* in seconds."""

    socket: str
    disks: tuple[str, ...] = ()
    agent: str = ""
    freeze: float = 5.0
    nbd: str = ""
    fleece: str = "/var/tmp"
    fleece_size: int = 0


def parse(text: str) -> QmpAddress:
    """Raises UsageError, which says what is wrong with *text*."""
    socket, _, query = text.removeprefix(SCHEME).partition("?")
    if not socket:
        raise UsageError(f"{text}: where is the socket?", _FORM)
    said: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        key, equals, value = pair.partition("=")
        if key not in _KNOWN or not equals or not value or key in said:
            raise UsageError(
                f"{text}: {pair or '&'} is not understood, or stands there twice", _FORM
            )
        said[key] = value
    disks = (
        tuple(_decoded(text, each) for each in said["disks"].split(",")) if "disks" in said else ()
    )
    if not all(disks):
        raise UsageError(f"{text}: an empty name of a disk")
    paths = {
        key: os.path.abspath(_decoded(text, said[key]))
        for key in ("agent", "nbd", "fleece") if key in said
    }  # fmt: skip
    return QmpAddress(
        os.path.abspath(_decoded(text, socket)), disks, freeze=_seconds(text, said),
        fleece_size=_size(text, said), **paths,
    )  # fmt: skip


def _size(text: str, said: dict[str, str]) -> int:
    if "fleece-size" not in said:
        return 0
    size = parse_size(said["fleece-size"])
    if size < MIN_FLEECE:
        raise UsageError(f"{text}: a fleece has at least {MIN_FLEECE >> 20}M")
    return size


def _seconds(text: str, said: dict[str, str]) -> float:
    given = said.get("freeze", "5")
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3})?", given) or not 0 < float(given) <= 60:
        raise UsageError(f"{text}: freeze takes seconds, more than 0 and at most 60")
    return float(given)


def _decoded(text: str, value: str) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})", value):
        raise UsageError(f"{text}: a % is followed by two hexadecimal digits", "% itself is %25")
    found = os.fsdecode(unquote_to_bytes(os.fsencode(value)))
    if "\0" in found:
        raise UsageError(f"{text}: a path has no NUL")
    return found
