"""Credential: the file that an administrator hands over, with which a machine registers.

A JSON document of at most 64 KiB, indented for people:

    field         what
    format        "transfer credential 1"
    vault         ID, 16 bytes
    url           https://HOST:PORT
    cas           certificates (DER) that the vault's server must be traced back to
    id, secret    16 and 32 bytes; the vault keeps the secret's SHA-256 alone
    kind          register: a new machine with a domain of its own
                  for: the machine named, which has lost its certificate; single use
                  read: a new machine that may read the machine named; single use
    machine       that machine's name, or null
    expires       ns since 1970
    expires_text  the same as RFC 3339, for people
    check         SHA-256 over all other fields, as compact JSON in order of their names

The newest credential of its scope (register; or one kind and one machine) is the only valid one.
It gives access to no data: that needs the passphrase besides.
"""

import hashlib
import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from transfer.errors import CredentialRefused, FormatError, UsageError
from transfer.formats import documents
from transfer.formats.documents import Bytes16, Bytes32, Label, Time
from transfer.formats.features import refuse

FORMAT = "transfer credential 1"
MAX_CREDENTIAL = 64 * 1024
MAX_CA, MAX_CAS, MAX_URL = 8192, 16, 1024
_URL = re.compile(r"https://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?/?")
_Der = Annotated[bytes, Meta(min_length=1, max_length=MAX_CA)]


class CredentialKind(StrEnum):
    REGISTER = "register"
    FOR = "for"
    READ = "read"


class Credential(msgspec.Struct, frozen=True):
    vault: Bytes16
    url: Annotated[str, Meta(min_length=1, max_length=MAX_URL)]
    cas: Annotated[tuple[_Der, ...], Meta(min_length=1, max_length=MAX_CAS)]
    id: Bytes16
    secret: Bytes32
    kind: CredentialKind
    machine: Label | None
    expires: Time

    def __repr__(self) -> str:
        return f"<Credential {self.id.hex()}, {self.kind}>"  # no secret in a log or a traceback


class _Needs(msgspec.Struct, frozen=True):
    """Read first: a later version's file need not look like ours."""

    format: str
    check: bytes = b""


def encode(credential: Credential) -> bytes:
    """Raises ValueError for a field that no reader would take."""
    fields = msgspec.json.decode(documents.encode(credential))
    whole = {"format": FORMAT, **fields, "expires_text": when(credential.expires)}
    whole["check"] = msgspec.to_builtins(_check(whole))
    raw = msgspec.json.format(msgspec.json.encode(whole)) + b"\n"
    if len(raw) > MAX_CREDENTIAL:
        raise ValueError(f"a credential of {len(raw)} bytes is beyond the limit")
    return raw


def decode(raw: bytes, now: int | None = None) -> Credential:
    """Raises CredentialRefused for one that is damaged, edited or has expired at *now* (ns).

    Without *now* no clock is asked. NewerFormat for a later version's.
    """
    try:
        found = _decode(raw)
    except FormatError as error:
        raise CredentialRefused(
            f"the vault credential was edited or damaged, or is none: {error}",
            "copy the file again, or ask the vault's administrator for a new one",
        ) from error
    if now is not None:
        check_time(found.expires, now)
    return found


def _decode(raw: bytes) -> Credential:
    what = "a vault credential"
    if len(raw) > MAX_CREDENTIAL:
        raise FormatError(f"a file of {len(raw)} bytes is beyond the limit")
    needs = documents.decode(raw, _Needs, what)
    if needs.format != FORMAT and needs.format.startswith("transfer credential "):
        refuse("the vault credential", [needs.format])
    if needs.format != FORMAT or needs.check != _check(_fields(raw)):
        raise FormatError("its check does not hold")
    found = documents.decode(raw, Credential, what)
    if not _is_url(found.url):
        raise FormatError("its address is none")
    if (found.machine is None) != (found.kind is CredentialKind.REGISTER):
        raise FormatError("its kind and its machine do not go together")
    return found


def check_time(expires: int, now: int) -> None:
    """Raise CredentialRefused if a credential has expired at *now* (ns)."""
    if now > expires:
        raise CredentialRefused(
            f"the vault credential expired at {when(expires)}; "
            f"this machine's clock says {when(now)}",
            "ask the vault's administrator for a new one",
        )


def _fields(raw: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(raw, type=dict[str, Any])
    except (ValueError, RecursionError) as error:  # also in a field that nobody knows
        raise FormatError(f"a vault credential does not parse: {error}") from error


def _check(fields: dict[str, Any]) -> bytes:
    rest = {name: value for name, value in fields.items() if name != "check"}
    return hashlib.sha256(msgspec.json.encode(rest, order="deterministic")).digest()


def when(nanoseconds: int) -> str:
    """RFC 3339, UTC, to the second; a number that is no date as it is."""
    try:
        moment = datetime.fromtimestamp(nanoseconds // 10**9, UTC)
    except (ValueError, OverflowError, OSError):
        return str(nanoseconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def checked_url(url: str) -> str:
    """Raises UsageError for anything but https://HOST or https://HOST:PORT."""
    if not _is_url(url):
        raise UsageError(f"{url!r} is no address of a vault", "write https://HOST:PORT")
    return url.rstrip("/")


def _is_url(url: str) -> bool:
    found = _URL.fullmatch(url)
    return len(url) <= MAX_URL and found is not None and 0 < int(found[2] or 443) < 65536


def proof_message(vault: bytes, credential: bytes, machine: bytes, csr: bytes) -> bytes:
    """What a new machine signs with its domain's key: this domain is its own."""
    return b"transfer registration" + vault + credential + machine + hashlib.sha256(csr).digest()
