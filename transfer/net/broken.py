"""What a call that the network or TLS broke means for the caller."""

import ssl

import aiohttp

from transfer.errors import NotAuthorised, TransferError, Untrusted, VaultUnavailable


def translated(error: Exception, url: str) -> TransferError:
    """What a failure of the network or of TLS means for the caller."""
    cause = _tls_error(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return Untrusted(
            f"{url} does not show the vault's certificate: {_why(cause)}",
            "is this the vault's address? After a change of its authority register again",
        )
    reason = (cause.reason or str(cause)).lower() if cause is not None else ""
    if "alert" in reason and ("certificate" in reason or "unknown_ca" in reason):
        return NotAuthorised(
            f"{url} does not take this machine's certificate", "is it registered with this vault?"
        )
    if "protocol_version" in reason or "unsupported_protocol" in reason:
        return Untrusted(f"{url} does not speak TLS 1.3", "is this a vault's address?")
    if "wrong_version" in reason or "record_layer" in reason or "packet_length" in reason:
        return Untrusted(f"{url} does not speak TLS", "is this a vault's address?")
    return VaultUnavailable(f"{url}: {_words(error)}", "is the vault running, and to be reached?")


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """aiohttp wraps what TLS said, at more than one depth."""
    for _ in range(8):
        # aiohttp's own are SSLErrors as well, and say nothing of what happened.
        mute = isinstance(error, aiohttp.ClientError)
        if error is None or (isinstance(error, ssl.SSLError) and not mute):
            return error
        inner = getattr(error, "os_error", None) or getattr(error, "certificate_error", None)
        error = inner or error.__cause__ or error.__context__
    return None


def _why(error: ssl.SSLCertVerificationError) -> str:
    """OpenSSL's reason, or ours of `tls`, without the frame that aiohttp and ssl put around it."""
    text = getattr(error, "verify_message", "") or str(error.args[-1] if error.args else error)
    return text.partition(" (_ssl.c")[0]


def _words(error: Exception) -> str:
    inner = getattr(error, "os_error", None) or error
    return getattr(inner, "strerror", None) or str(inner) or type(error).__name__
