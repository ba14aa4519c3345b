"""Real NBD servers, each started by the test that needs it, and certificates for them."""

import datetime
import ipaddress
import os
import socket
import subprocess
import time
from contextlib import contextmanager

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.acceptance.needs import tool
from transfer.sources.nbd_address import NbdAddress

PATIENCE = 20.0  # seconds until a server has to be there
IMAGE_TOOLS = "qemu-utils"


def command(name, *words, package=IMAGE_TOOLS):
    """Run one to its end; what it prints."""
    done = subprocess.run(
        [tool(name, package), *map(str, words)], check=True, capture_output=True, text=True
    )
    return done.stdout


def qemu_io(image, *commands, format="qcow2"):
    """Write to an image that nobody serves."""
    command("qemu-io", "-f", format, "-d", "unmap", *(f"-c{each}" for each in commands), image)


@contextmanager
def served(words, address):
    """A server that is there, at *address*, when the block begins, and gone when it has ended."""
    with subprocess.Popen(list(map(str, words)), stderr=subprocess.PIPE) as process:
        try:
            _wait(process, address)
            yield process
        finally:
            process.kill()
            process.stderr.read()


def _wait(process, address):
    deadline = time.monotonic() + PATIENCE
    while True:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "it did not come up"
        try:
            _knock(address)
            return
        except OSError:
            time.sleep(0.005)


def _knock(address):
    if address.host:
        socket.create_connection((address.host, address.port), 1).close()
        return
    with socket.socket(socket.AF_UNIX) as knocking:
        knocking.connect(address.socket)


@contextmanager
def qemu_nbd(image, place, *options, format="raw", export="disk"):
    """*image* on a socket in *place*; the address."""
    path = place / "qemu-nbd.sock"
    address = NbdAddress(export.encode(), bytes(path))
    words = ["-r", "-f", format, "-x", export, "-k", path, "-e", 8, "-t", *options, image]
    with served([tool("qemu-nbd", IMAGE_TOOLS), *words], address):
        yield address


@contextmanager
def storage_daemon(image, place, bitmaps=(), name="disk"):
    """A live qcow2 with its *bitmaps*, which are in use and of no use afterwards; the address."""
    path = place / "daemon.sock"
    export = ["type=nbd,id=e,node-name=d,writable=on", f"name={name}"]
    export += [f"bitmaps.{n}={bitmap}" for n, bitmap in enumerate(bitmaps)]
    words = [
        tool("qemu-storage-daemon", "qemu-system-common"),
        "--blockdev", f"driver=qcow2,node-name=d,file.driver=file,file.filename={image}",
        "--nbd-server", f"addr.type=unix,addr.path={path}",
        "--export", ",".join(export),
    ]  # fmt: skip
    address = NbdAddress(name.encode(), bytes(path))
    with served(words, address):
        yield address


@contextmanager
def nbdkit(place, *words, options=(), tcp=False, **address):
    """Plugin, filters and settings as *words*; *options* are nbdkit's own. (address, process)"""
    path = place / "nbdkit.sock"
    if tcp:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        where = ["-i", "127.0.0.1", "-p", port]
        at = NbdAddress(b"", host="127.0.0.1", port=port, **address)
    else:
        where, at = ["-U", path], NbdAddress(b"", bytes(path), **address)
    with served([tool("nbdkit", "nbdkit"), "-f", *where, *options, *words], at) as process:
        yield at, process


# Certificates, under the names that libnbd and nbdkit look for.


def certificates(place, name="localhost"):
    """A directory with an authority, a server of *name* and 127.0.0.1, and a client."""
    place.mkdir()
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = _certificate("authority", authority_key, None, authority_key)
    _write(place, "ca", authority, None)
    hosts = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    for whose, names in (("server", hosts), ("client", [])):
        key = ec.generate_private_key(ec.SECP256R1())
        _write(place, whose, _certificate(whose, key, authority, authority_key, names), key)
    return place


def _certificate(whose, key, issuer, issuer_key, names=()):
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, whose)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.subject if issuer else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(issuer is None, None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _write(place, whose, certificate, key):
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    (place / f"{whose}-cert.pem").write_bytes(pem)
    if key is not None:
        raw = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        (place / f"{whose}-key.pem").write_bytes(raw)


def open_sockets():
    """How many this process has."""
    links = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            pass  # that of the listing itself
    return sum(link.startswith("socket:") for link in links)
