"""Who is not our vault gets no byte of a request, and who is not our machine gets no answer."""

import asyncio
import contextlib
import re
import socket
import ssl
import threading
import time

import pytest
import uvloop

from tests.net.raw import ask
from transfer.crypto import certificates, issuing
from transfer.crypto.certificates import DAY, YEAR, Identity, Role
from transfer.errors import NotAuthorised, TransferError, Untrusted
from transfer.net import tls
from transfer.net.client import RemoteVault
from transfer.net.transport import Transport

VAULT, OTHER = b"v" * 16, b"w" * 16
NOW = 1_700_000_000 * 10**9
CA, FOREIGN, OTHERS = (
    issuing.new_ca(VAULT, NOW), issuing.new_ca(VAULT, NOW), issuing.new_ca(OTHER, NOW),
)  # fmt: skip
KEY = certificates.new_key()
MACHINE = issuing.issue_machine(
    CA, certificates.request(KEY), Identity(b"m" * 16, b"d" * 16, Role.MACHINE), NOW
)


def server(ca=CA, vault=VAULT, now=NOW):
    return issuing.issue_server(ca, KEY, vault, (), now)


def shows(*chain, key=KEY, highest=ssl.TLSVersion.TLSv1_3):
    """A TLS server with this certificate, which looks at nobody's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = highest
    tls.load_identity(context, chain, key)
    return context


# Who answers, and what our client says of it.
IMPOSTORS = {
    "another CA of the same vault": (shows(server(FOREIGN)), "self-signed|unable to get"),
    "another vault's CA": (shows(server(OTHERS, OTHER)), "unable to get"),
    "another vault of the same CA": (shows(server(CA, OTHER)), "[Hh]ostname mismatch"),
    "another CA sent along": (shows(server(FOREIGN), FOREIGN.certificate), "self-signed"),
    "signed by itself": (shows(FOREIGN.certificate, key=FOREIGN.key), "self-signed"),
    "a machine": (shows(MACHINE), "unsuitable certificate purpose|[Hh]ostname"),
    "an ended one": (shows(server(now=NOW - 2 * YEAR)), "ended on 2022.*clock says 2023-11-14"),
    "one of tomorrow":
        (shows(server(now=NOW + 3 * DAY)), "not valid before.*clock says 2023-11-14"),
    "TLS 1.2": (shows(server(), highest=ssl.TLSVersion.TLSv1_2), "does not speak TLS 1.3"),
    "plain HTTP": (None, "does not speak TLS"),
}  # fmt: skip


class Impostor:
    """Keeps what it was sent after the handshake, and says hello as plain HTTP servers do not."""

    def __init__(self):
        self.heard, self.connections = b"", 0

    async def talk(self, reader, writer):
        self.connections += 1
        with contextlib.suppress(OSError):
            while piece := await reader.read(4096):
                self.heard += piece
                writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        writer.close()


class OldServer:
    """TLS 1.2 as other programs speak it: with a last word, which an event loop would drop."""

    def __init__(self, context):
        self._context, self.heard = context, b""
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._talk, daemon=True).start()

    def _talk(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                with client, contextlib.suppress(ssl.SSLError):
                    self.heard += self._context.wrap_socket(client, server_side=True).recv(4096)

    def close(self):
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


@contextlib.asynccontextmanager
async def listening(context):
    """(port, who is there)."""
    if context is not None and context.maximum_version == ssl.TLSVersion.TLSv1_2:
        old = OldServer(context)
        yield old.port, old
        old.close()
        return
    impostor = Impostor()
    server = await asyncio.start_server(impostor.talk, "127.0.0.1", 0, ssl=context)
    yield server.sockets[0].getsockname()[1], impostor
    server.close()


async def told_by(context):
    """What a client of ours with all its patience raises, when *context* answers."""
    mine = tls.client_context([CA.certificate], MACHINE, KEY, lambda: NOW)
    async with listening(context) as (port, impostor):
        url = f"https://127.0.0.1:{port}"
        remote = RemoteVault(Transport(url, certificates.server_name(VAULT), mine))
        began = time.monotonic()
        with pytest.raises(TransferError) as caught:
            await remote.add_keyring(b"d" * 16, 1, b"what nobody else shall see")
        seconds = time.monotonic() - began
        await remote.close()
    return caught.value, impostor, seconds


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("who", IMPOSTORS)
def test_an_impostor_is_refused_at_once_and_hears_nothing(who, loop):
    context, says = IMPOSTORS[who]
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.get_loop().set_exception_handler(lambda loop, what: None)  # failed handshakes
        error, impostor, seconds = runner.run(told_by(context))
    assert isinstance(error, Untrusted | NotAuthorised)
    assert error.exit_code == 77
    assert error.message.startswith("https://127.0.0.1:")
    assert error.hint
    assert re.search(says, error.message), error.message
    assert seconds < 1
    if context is None:
        assert b"keyring" not in impostor.heard  # only the start of a handshake
    else:
        assert impostor.heard == b""


async def test_a_client_that_trusts_nobody_trusts_nobody(far):
    context = tls.client_context([], None, None, lambda: NOW)
    name = certificates.server_name(far.vault_id)
    remote = RemoteVault(Transport(far.url, name, context))
    with pytest.raises(Untrusted):
        await remote.view()
    await remote.close()


# The other way round: who calls.


async def refusals(far, identity, times=1):
    remote = far.client(identity, patience=10)
    errors = []
    for _ in range(times):
        began = time.monotonic()
        with pytest.raises(TransferError) as caught:
            await remote.view()
        assert time.monotonic() - began < 1
        errors.append(caught.value)
    return errors


def machine_of(ca, now=NOW, domain=b"d" * 16):
    identity = Identity(b"m" * 16, domain, Role.MACHINE)
    return issuing.issue_machine(ca, certificates.request(KEY), identity, now), KEY


async def test_a_machine_of_another_ca_is_refused_whatever_order_the_network_has(far):
    for error in await refusals(far, machine_of(FOREIGN), times=20):
        assert type(error) is NotAuthorised
        assert "does not take this machine's certificate" in error.message


async def test_a_certificate_that_no_record_knows_is_refused(far):
    (error,) = await refusals(far, machine_of(far.authority.issuer(), far.clock()))
    assert (type(error), error.message) == (
        NotAuthorised,
        "the vault does not know this certificate",
    )


async def test_a_certificate_that_ended_is_refused_and_both_clocks_are_named(far, clock):
    identity = far.registered("own")
    clock.days(366)
    await far.server.refresh()
    answer = await ask(far, identity, "GET", "/v1/vault")
    assert answer.said == (403, "not-authorised")
    assert b"certificate ended on 2024-11-13" in answer.body
    assert b"clock says 2024-11-14" in answer.body


async def test_a_certificate_is_refused_before_its_time(far, clock):
    clock.days(3)
    identity = far.registered("own")
    clock.days(-3)
    answer = await ask(far, identity, "GET", "/v1/vault")
    assert answer.said == (403, "not-authorised")
    assert b"not valid before" in answer.body


async def test_the_vaults_own_certificate_is_no_machines(far):
    own = far.authority.server(far.authority.hosts())
    (error,) = await refusals(far, (own.chain[0], own.key))
    assert type(error) is NotAuthorised


async def test_an_old_tls_or_none_is_no_call(far):
    for context in (None, old_tls()):
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await spoken(far, context)
    assert far.requests == []


def old_tls():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def spoken(far, context):
    reader, writer = await asyncio.open_connection("127.0.0.1", far.port, ssl=context)
    try:
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: v\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b"200 OK"), 5)
    finally:
        writer.transport.abort()
