"""Addresses of NBD exports: the NBD URI specification, as far as it makes sense for a source.

    nbd://HOST[:PORT]/EXPORT                    TCP; the port is 10809 unless it is given
    nbds://HOST[:PORT]/EXPORT                   TCP, and TLS or nothing
    nbd+unix:///EXPORT?socket=PATH              a Unix socket; %00 in front: an abstract one
    nbds+unix:///EXPORT?socket=PATH             a Unix socket, and TLS or nothing

The export is all that follows the first `/`, another `/` included; it may be empty. It, and values
after the `?`, may be percent-encoded; `+` is a plus. With TLS there may be

    tls-certificates=DIR   as libnbd has it: ca-cert.pem in it says whom to trust, else the system
                           does; client-cert.pem and client-key.pem are shown to a server that asks
    tls-hostname=NAME      whom the certificate must name, else the host; of Unix sockets localhost
    tls-type=x509          the only type there is; also tls-verify-peer=1, which is always so

Anything else is refused, for what is not understood may have been meant to protect.
"""

import ipaddress
import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

from transfer.errors import UsageError

DEFAULT_PORT = 10809
MAX_NAME = 4096  # bytes of an export's name
_MAX_PATH = 107  # bytes of a Unix socket's path: sun_path, less the NUL at its end
_URI = re.compile(r"(nbds?(?:\+unix)?)://([^/?#]*)(?:/([^?#]*))?(?:\?([^#]*))?", re.I)
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,252})")
_PLACE = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::([0-9]{1,5}))?")
_HINT = (
    "nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH; with TLS nbds:// or nbds+unix://"
)
_TLS = {"tls-certificates", "tls-hostname", "tls-type", "tls-verify-peer"}


class NbdAddress(NamedTuple):
    """Where an export is: on *host* and *port*, or for an empty host behind the Unix *socket*.

    *name* is what the server's certificate must be for; both it and *certificates*, a directory,
    are empty where nothing was said. `str` gives the URI.
    """

    export: bytes
    socket: bytes = b""
    host: str = ""
    port: int = DEFAULT_PORT
    tls: bool = False
    name: str = ""
    certificates: str = ""

    @property
    def server_name(self) -> str:
        return self.name or self.host or "localhost"

    def __str__(self) -> str:
        scheme = ("nbds" if self.tls else "nbd") + ("" if self.host else "+unix")
        place = f"[{self.host}]" if ":" in self.host else self.host
        if self.host and self.port != DEFAULT_PORT:
            place += f":{self.port}"
        said = {
            "socket": self.socket,
            "tls-hostname": self.name.encode(),
            "tls-certificates": self.certificates.encode(errors="surrogateescape"),
        }
        query = "&".join(f"{key}={quote_from_bytes(value)}" for key, value in said.items() if value)
        return f"{scheme}://{place}/{quote_from_bytes(self.export)}" + (query and f"?{query}")


def is_nbd(text: str) -> bool:
    """Whether *text* looks like an address of this kind, well-formed or not."""
    return re.match(r"nbds?(\+unix)?:", text, re.I) is not None


def parse(text: str) -> NbdAddress:
    """Raises UsageError, which says what is wrong with *text*."""
    found = _URI.fullmatch(text)
    if found is None:
        raise UsageError(f"{text} is no address of an NBD export", _HINT)
    scheme, place, export, query = found[1].lower(), found[2], found[3] or "", found[4] or ""
    said = _query(text, query)
    tls, unix = scheme.startswith("nbds"), scheme.endswith("+unix")
    _check_known(text, said, ({"socket"} if unix else set()) | (_TLS if tls else set()))
    host, port = ("", DEFAULT_PORT) if unix else _place(text, place)
    if unix and place:
        raise UsageError(f"{text}: a Unix socket has no host", f"write {scheme}:///EXPORT?socket=")
    return NbdAddress(
        _export(text, export), _socket(text, said) if unix else b"", host, port, tls,
        _host(text, _text(said, "tls-hostname")) if "tls-hostname" in said else "",
        _text(said, "tls-certificates"),
    )  # fmt: skip


def _query(text: str, query: str) -> Mapping[str, bytes]:
    said: dict[str, bytes] = {}
    for pair in query.split("&") if query else ():
        key, equals, value = pair.partition("=")
        if not equals or key in said:
            raise UsageError(f"{text}: {pair or '&'} is not understood, or stands there twice")
        said[key] = _decoded(text, value)
        if not said[key]:
            raise UsageError(f"{text}: {key} is empty")
    return said


def _check_known(text: str, said: Mapping[str, bytes], known: set[str]) -> None:
    takes = f"after the ? there may be {', '.join(sorted(known)) or 'nothing'}"
    for key in said:
        if key not in known:
            raise UsageError(f"{text}: {key} is not understood here", takes)
    if said.get("tls-type", b"x509") != b"x509":
        raise UsageError(f"{text}: TLS is with certificates only", "leave out tls-type")
    if said.get("tls-verify-peer", b"1") != b"1":
        raise UsageError(f"{text}: a server's certificate is always checked")


def _decoded(text: str, value: str) -> bytes:
    if re.search(r"%(?![0-9A-Fa-f]{2})", value):
        raise UsageError(f"{text}: a % is followed by two hexadecimal digits", "% itself is %25")
    # What a command line could not decode comes as surrogates, and goes as the bytes it was.
    return unquote_to_bytes(value.encode(errors="surrogateescape"))


def _text(said: Mapping[str, bytes], key: str) -> str:
    return said.get(key, b"").decode(errors="surrogateescape")


def _export(text: str, value: str) -> bytes:
    export = _decoded(text, value)
    if len(export) > MAX_NAME or b"\0" in export:
        raise UsageError(f"{text}: an export's name has at most {MAX_NAME} bytes, and no NUL")
    return export


def _socket(text: str, said: Mapping[str, bytes]) -> bytes:
    path = said.get("socket", b"")
    if not path:
        raise UsageError(f"{text}: where is the socket?", "write ?socket=PATH behind the export")
    if len(path) > _MAX_PATH or b"\0" in path[1:] or path == b"\0":
        raise UsageError(f"{text}: a socket's path has 1 to {_MAX_PATH} bytes, and no NUL")
    return path


def _place(text: str, place: str) -> tuple[str, int]:
    found = _PLACE.fullmatch(place)
    if found is None or not 0 < int(found[2] or DEFAULT_PORT) < 2**16:
        raise UsageError(f"{text}: {place or 'nothing'} is no HOST[:PORT]", _HINT)
    return _host(text, found[1]), int(found[2] or DEFAULT_PORT)


def _host(text: str, host: str) -> str:
    if host.startswith("["):
        try:
            return str(ipaddress.IPv6Address(host[1:-1].replace("%25", "%", 1)))
        except ValueError as error:
            raise UsageError(f"{text}: {host} is no IPv6 address") from error
    if not _HOST.fullmatch(host):
        raise UsageError(
            f"{text}: {host or 'nothing'} is no host",
            "a name (in its xn-- form), an IPv4 address, or an IPv6 address in brackets",
        )
    return host
