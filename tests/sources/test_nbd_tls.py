"""TLS with NBD servers: with the certificate that was meant, or not at all."""

import asyncio
import random
import shutil
import socket
import ssl

import pytest
from cryptography.hazmat.primitives import serialization

from tests.loops import LOOPS
from tests.sources import nbd_script as script
from tests.sources.nbd_fake import FakeServer, faked
from tests.sources.nbd_servers import certificates, nbdkit, open_sockets
from transfer.errors import NotAuthorised, SourceUnavailable, Untrusted, UsageError
from transfer.sources.nbd import NbdClient
from transfer.sources.nbd_address import NbdAddress
from transfer.sources.nbd_edge import tls_context
from transfer.sources.nbd_reader import NbdReader

CONTENT = random.Random(7).randbytes(3 * 2**20)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return certificates(tmp_path_factory.mktemp("keys") / "own")


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "disk"
    path.write_bytes(CONTENT)
    return path


def read_by_client(loop):
    async def whole(address):
        async with await NbdClient.connect(address, contexts=["base:allocation"]) as client:
            view = memoryview(bytearray(client.size))
            await client.read_into(0, view)
            extents = [
                each async for each in client.block_status("base:allocation", 0, client.size)
            ]
            assert sum(each.length for each in extents) == client.size
            return bytes(view)

    def read(address):
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            return runner.run(asyncio.wait_for(whole(address), 20))

    return read


def read_by_reader(address):
    with NbdReader(address) as reader:
        view = memoryview(bytearray(reader.size))
        reader.read_into(0, view)
        return bytes(view)


@pytest.fixture(params=["reader", *LOOPS])
def read(request):
    """Whole exports, in each of three ways; no socket is left by any."""
    before = open_sockets()
    yield read_by_reader if request.param == "reader" else read_by_client(request.param)
    assert open_sockets() == before


@pytest.fixture
def serving(keys, image, tmp_path):
    """A server with TLS of some sort; its address, as one that trusts its authority."""

    def serving(*options, tls="require", tcp=False):
        options = [f"--tls={tls}", f"--tls-certificates={keys}", *options]
        address = {"tls": True, "certificates": str(keys)}
        return nbdkit(tmp_path, "file", image, options=options, tcp=tcp, **address)

    return serving


@pytest.mark.parametrize("tcp", [True, False], ids=["tcp", "unix"])
def test_what_is_read_over_tls_is_what_is_there(serving, read, tcp):
    with serving(tcp=tcp) as (address, _):
        assert read(address) == CONTENT
        assert read(address._replace(name="localhost")) == CONTENT


def test_a_client_shows_its_certificate(serving, read):
    with serving("--tls-verify-peer") as (address, _):
        assert read(address) == CONTENT


def test_a_client_without_a_certificate_is_turned_away(serving, read, keys, tmp_path):
    (tmp_path / "anonymous").mkdir()
    shutil.copy(keys / "ca-cert.pem", tmp_path / "anonymous")
    with serving("--tls-verify-peer") as (address, _):
        address = address._replace(certificates=str(tmp_path / "anonymous"))
        with pytest.raises(SourceUnavailable) as refused:
            read(address)
        assert "client's certificate" in refused.value.hint


class Strict(FakeServer):
    """Says by TLS why it turns a client away, which nbdkit does not."""

    def __init__(self, keys):
        super().__init__(CONTENT)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(keys / "server-cert.pem", keys / "server-key.pem")
        self.context.load_verify_locations(keys / "ca-cert.pem")
        self.context.verify_mode = ssl.CERT_REQUIRED

    def serve(self, client):
        client.sendall(script.GREETING)
        client.recv(20, socket.MSG_WAITALL)
        client.sendall(script.reply(script.STARTTLS, script.ACK))
        with client.dup() as held:
            try:
                self.context.wrap_socket(client, server_side=True)
            finally:
                while held.recv(1000):  # until the client hangs up; else it may not get to read why
                    pass


def test_a_client_that_is_told_why(read, keys, tmp_path):
    (tmp_path / "anonymous").mkdir()
    shutil.copy(keys / "ca-cert.pem", tmp_path / "anonymous")
    with faked(Strict(keys), tmp_path) as address:
        address = address._replace(tls=True, certificates=str(tmp_path / "anonymous"))
        with pytest.raises(NotAuthorised, match="does not take this client's certificate"):
            read(address)


def test_what_is_no_tls_after_all(read, keys, tmp_path):
    class Deceiving(FakeServer):
        def serve(self, client):
            client.sendall(script.GREETING)
            client.recv(20, socket.MSG_WAITALL)
            client.sendall(script.reply(script.STARTTLS, script.ACK))
            client.recv(1)
            client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            self.go_on.wait(20)

    with faked(Deceiving(), tmp_path) as address, pytest.raises(Untrusted, match="TLS fails"):
        read(address._replace(tls=True, certificates=str(keys)))


def test_a_certificate_of_another_authority(serving, read, tmp_path):
    other = str(certificates(tmp_path / "other"))
    with serving() as (address, _):
        for foreign in (other, ""):
            with pytest.raises(Untrusted, match="no certificate for localhost to be trusted"):
                read(address._replace(certificates=foreign))


def test_a_certificate_for_another_name(serving, read):
    with serving() as (address, _), pytest.raises(Untrusted, match=r"disk\.example"):
        read(address._replace(name="disk.example"))


def test_a_server_without_tls_is_told_nothing(serving, read):
    plain = serving(tls="off")
    with plain as (address, _), pytest.raises(Untrusted, match="does not speak TLS"):
        read(address)


def test_a_server_that_wants_tls_says_so(serving, read):
    with serving() as (address, _):
        with pytest.raises(UsageError, match="wants TLS") as refused:
            read(address._replace(tls=False))
        assert "nbds+unix://" in refused.value.hint


# Certificates that cannot be used


def address_of(place):
    return NbdAddress(b"", host="localhost", tls=True, certificates=str(place))


def test_tls_is_with_what_a_client_must_check(keys):
    context = tls_context(address_of(keys))
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert len(context.get_ca_certs()) == 1


def test_without_certificates_of_its_own_the_systems_authorities_are_trusted(keys, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(keys / "ca-cert.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(keys / "none"))
    (found,) = tls_context(address_of("")).get_ca_certs()
    assert found["subject"] == ((("commonName", "authority"),),)


@pytest.mark.parametrize("missing", ["ca-cert.pem", "client-cert.pem", "client-key.pem"])
def test_certificates_that_are_missing(keys, tmp_path, missing):
    shutil.copytree(keys, tmp_path / "keys")
    (tmp_path / "keys" / missing).unlink()
    with pytest.raises(UsageError, match="no certificates for TLS: No such file"):
        tls_context(address_of(tmp_path / "keys"))


@pytest.mark.parametrize("damaged", ["ca-cert.pem", "client-cert.pem", "client-key.pem"])
def test_certificates_that_are_none(keys, tmp_path, damaged):
    shutil.copytree(keys, tmp_path / "keys")
    (tmp_path / "keys" / damaged).write_text("no certificate")
    with pytest.raises(UsageError, match="no certificates for TLS"):
        tls_context(address_of(tmp_path / "keys"))


def test_nobody_is_asked_for_a_passphrase(keys, tmp_path):
    shutil.copytree(keys, tmp_path / "keys")
    path = tmp_path / "keys" / "client-key.pem"
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(UsageError, match="has a passphrase"):
        tls_context(address_of(tmp_path / "keys"))
