"""TLS 1.3 between machines and their vault, with certificates of the vault's own authority.

Who answers is checked by OpenSSL: a chain to an authority that is pinned, for server use, with the
name that only this vault's certificate has, whatever its address. Only times are checked here, for
two reasons: a machine whose certificate has ended may still renew it, and a wrong clock is told
from a wrong certificate.
"""

import os
import ssl
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from transfer.crypto import certificates
from transfer.errors import TransferError

# X509_V_FLAG_NO_CHECK_TIME of OpenSSL's x509_vfy.h; Python has no name for it.
_NO_CHECK_TIME = 0x200000
Clock = Callable[[], int]  # ns since 1970


def client_context(
    authorities: Sequence[bytes], certificate: bytes | None, key: bytes | None, clock: Clock
) -> ssl.SSLContext:
    """For calls to a vault of these *authorities*; without a certificate only to register."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _settle(context, authorities)
    context.sslobject_class = _checking_times(clock)
    if certificate is not None and key is not None:
        load_identity(context, [certificate], key)
    return context


def server_context(
    authorities: Sequence[bytes], chain: Sequence[bytes], key: bytes
) -> ssl.SSLContext:
    """A certificate is asked for, and most calls need one; its times are looked at by them."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _settle(context, authorities)
    context.verify_mode = ssl.CERT_OPTIONAL
    # Every connection proves its key anew: no ticket outlives a revocation.
    context.num_tickets = 0
    context.sslobject_class = _SayingWhy
    load_identity(context, chain, key)
    return context


def _settle(context: ssl.SSLContext, authorities: Sequence[bytes]) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    trust(context, authorities)


def trust(context: ssl.SSLContext, authorities: Sequence[bytes]) -> None:
    """Add to whom *context* trusts."""
    for authority in authorities:
        context.load_verify_locations(cadata=authority)


def load_identity(context: ssl.SSLContext, chain: Sequence[bytes], key: bytes) -> None:
    """New connections show this *chain* (DER, the own certificate first)."""
    pem = "".join(ssl.DER_cert_to_PEM_cert(each) for each in chain).encode()
    with _in_memory(pem + certificates.key_to_pem(key)) as path:
        context.load_cert_chain(path)


@contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """A path to *content*: the ssl module takes keys from files only, and no disk shall have it."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("transfer", os.MFD_CLOEXEC)
        path = f"/proc/self/fd/{descriptor}"
    else:
        descriptor, path = tempfile.mkstemp()
    try:
        os.write(descriptor, content)
        yield path
    finally:
        os.close(descriptor)
        if not path.startswith("/proc/"):
            os.unlink(path)


class _SayingWhy(ssl.SSLObject):
    """The client of a certificate that is refused is told so, and does not try again.

    The event loop sends what a handshake says only while it goes on, and drops the last word.
    """

    _refused: ssl.SSLError | None = None

    def do_handshake(self) -> None:
        if self._refused is not None:
            raise self._refused
        try:
            super().do_handshake()
        except ssl.SSLCertVerificationError as error:
            self._refused = error
            raise ssl.SSLWantReadError() from error


def _checking_times(clock: Clock) -> type[ssl.SSLObject]:
    """The end of a handshake is the one place where a certificate is known and nothing is sent."""

    class CheckingTimes(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            raw = self.getpeercert(binary_form=True)
            try:
                certificates.check_time(certificates.read(raw or b""), clock(), "the vault's")
            except TransferError as error:
                # The event loop expects errors of TLS here, and passes them on.
                raise ssl.SSLCertVerificationError(str(error)) from error

    return CheckingTimes
