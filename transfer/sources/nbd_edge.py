"""Where NBD meets the system: TLS by an address, foreign errors as ours, what one request reads."""

import errno
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from transfer.errors import (
    NotAuthorised,
    NotFound,
    SourceFailed,
    SourceUnavailable,
    TransferError,
    TransientError,
    Untrusted,
    UsageError,
)
from transfer.sources.nbd_address import NbdAddress
from transfer.sources.nbd_protocol import Export, Failure

PATIENCE = 60.0
"""Seconds for which a server may say nothing while something is asked of it."""
MAX_PART = 2**20
SHUTTING_DOWN = 108  # what a server calls the end that it is about to come to
_NUMBERS = {
    1: "operation not permitted", 5: "input/output error", 12: "cannot allocate memory",
    22: "invalid argument", 28: "no space left on device", 75: "value too large",
    95: "operation not supported",
}  # fmt: skip


class Part(NamedTuple):
    """One request: *length* bytes at *offset*, of which *start* to *stop* are those of the caller.

    *at* is where in the caller's buffer they belong.
    """

    offset: int
    length: int
    start: int
    stop: int
    at: int

    def target(self, view: memoryview) -> memoryview:
        """Where to read to: into the caller's *view*, or where there is more, to another place."""
        count = self.stop - self.start
        if count < self.length:
            return memoryview(bytearray(self.length))
        return view[self.at : self.at + count]

    def settle(self, view: memoryview, target: memoryview) -> None:
        """What was read is in *target*, and now in *view*."""
        if self.stop - self.start < self.length:
            view[self.at : self.at + self.stop - self.start] = target[self.start : self.stop]


def parts(export: Export, offset: int, length: int) -> list[Part]:
    """The requests that read *length* bytes at *offset*, widened to the server's blocks.

    None goes across a multiple of MAX_PART of the export, wherever the read begins: QEMU before 8.2
    may answer wrongly what goes across clusters of a view (see `qemu_view`). An export that ends
    within a block can be asked for up to its end only. Raises ValueError for what is not in it.
    """
    end, block = offset + length, export.min_block if length else 1
    if not 0 <= offset <= end <= export.size:
        raise ValueError(f"{length} bytes at {offset} of {export.size}")
    most = min(MAX_PART, export.max_payload) // block * block
    found, start = [], offset // block * block
    while start < end:
        boundary = start // MAX_PART * MAX_PART + MAX_PART
        stop = min(start + most, boundary, -(-end // block) * block, export.size)
        first, last = max(start, offset), min(stop, end)
        found.append(Part(start, stop - start, first - start, last - start, first - offset))
        start = stop
    return found


# TLS


def tls_context(address: NbdAddress) -> ssl.SSLContext:
    """Raises UsageError for certificates that cannot be read."""

    def path(name: str) -> str:
        return os.path.join(address.certificates, name)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # which checks chain and name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not address.certificates:
        context.load_default_certs()
        return context
    try:
        context.load_verify_locations(path("ca-cert.pem"))
        own, key = path("client-cert.pem"), path("client-key.pem")
        if os.path.exists(own) or os.path.exists(key):
            context.load_cert_chain(own, key, _no_password)
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        why = getattr(error, "strerror", None) or error
        raise UsageError(
            f"{address.certificates}: no certificates for TLS: {why}",
            "it needs ca-cert.pem; client-cert.pem and client-key.pem are there both or neither",
        ) from error
    return context


def _no_password() -> str:
    raise ValueError("the key has a passphrase, for which nobody can be asked")


# Errors


@contextmanager
def translated(address: NbdAddress) -> Iterator[None]:
    """What the system or TLS raises within is an error of ours."""
    try:
        yield
    except (OSError, UnicodeError) as error:
        raise error_of(address, error) from error


def error_of(address: NbdAddress, error: BaseException) -> TransferError:
    """*error*, of the protocol, of TLS or of the system, as what it means for the caller."""
    match error:
        case TransferError():
            return type(error)(f"{address}: {error.message}", error.hint)
        case ssl.SSLCertVerificationError():
            return Untrusted(
                f"{address} has no certificate for {address.server_name} to be trusted: "
                f"{error.verify_message}",
                "tls-certificates=DIR names an authority, tls-hostname=NAME another name",
            )
        case ssl.SSLError():
            return _of_tls(address, error)
        case FileNotFoundError():
            return NotFound(f"{address}: no such socket", "is its server running?")
        case PermissionError():
            return UsageError(f"{address}: {error.strerror}", "run as a user who may")
        case TimeoutError():
            return SourceUnavailable(f"{address} says nothing", "is its server well?")
        case OSError() if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            return TransientError(f"{address}: {error.strerror}")
    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return _unavailable(address, why)


def _unavailable(address: NbdAddress, why: str) -> SourceUnavailable:
    # Many a server hangs up on a client without a certificate, and leaves it at that.
    hint = "is its server running, and to be reached?"
    hint += " Does it take this client's certificate?" if address.tls else ""
    return SourceUnavailable(f"{address}: {why}", hint)


def _of_tls(address: NbdAddress, error: ssl.SSLError) -> TransferError:
    reason = (getattr(error, "reason", None) or str(error)).lower()
    if "alert" in reason and ("certificate" in reason or "unknown_ca" in reason):
        return NotAuthorised(
            f"{address} does not take this client's certificate",
            "client-cert.pem and client-key.pem in tls-certificates=DIR are shown to it",
        )
    if "eof" in reason:
        return _unavailable(address, "the server hung up")
    return Untrusted(f"{address}: TLS fails: {reason}", "is this the right address?")


def failure_of(address: NbdAddress, what: str, failure: Failure) -> TransferError:
    """A request that the server failed; *what* it was."""
    words = failure.words or _NUMBERS.get(failure.number, f"error {failure.number}")
    if failure.number == SHUTTING_DOWN:
        return SourceUnavailable(f"{address} is about to end: {words}")
    error = SourceFailed(f"{address}: {what}: {words}", "its server's log may say why")
    error.number = failure.number
    return error
