"""QMP without a socket: what the QEMU Machine Protocol says, as bytes and as messages.

    server: {"QMP": {...}}                                       the greeting, once
    client: {"execute": NAME, "arguments": {...}, "id": NUMBER}
    server: {"return": ANYTHING, "id": NUMBER}    or    {"error": {"class", "desc"}, "id": NUMBER}
    server: {"event": NAME, "data": {...}, ...}                  at any time

Each is a line of JSON. A server's line may be long, for it tells of all that a machine has.
"""

import json
from typing import Any, NamedTuple

from transfer.errors import ProtocolBroken

MAX_LINE = 16 << 20


class Greeting(NamedTuple):
    """*version*: (major, minor, micro) of the server."""

    version: tuple[int, int, int]


class Answer(NamedTuple):
    number: int
    value: Any


class Failure(NamedTuple):
    """*number* is None where the server could not make out what it was asked."""

    number: int | None
    kind: str
    said: str


class Event(NamedTuple):
    name: str
    data: dict[str, Any]


Message = Greeting | Answer | Failure | Event


def command(name: str, arguments: dict[str, Any], number: int) -> bytes:
    said: dict[str, Any] = {"execute": name, "id": number}
    if arguments:
        said["arguments"] = arguments
    return json.dumps(said, separators=(",", ":")).encode() + b"\n"


class Lines:
    """Puts together what comes in pieces. Memory: one line, *most* bytes at most."""

    def __init__(self, most: int = MAX_LINE) -> None:
        self._most, self._rest = most, bytearray()

    def received(self, data: bytes) -> list[Message]:
        """The messages that *data* completes. Raises ProtocolBroken for anything else."""
        start = len(self._rest)
        self._rest += data
        messages, begin = list[Message](), 0
        while (end := self._rest.find(b"\n", max(begin, start))) >= 0:
            self._check(end - begin)
            if line := bytes(self._rest[begin:end]).strip():
                messages.append(_message(line))
            begin = end + 1
        del self._rest[:begin]
        self._check(len(self._rest))
        return messages

    def _check(self, length: int) -> None:
        if length > self._most:
            raise ProtocolBroken(f"a line of more than {self._most} bytes")


def _message(line: bytes) -> Message:
    try:
        found = json.loads(line)
        if "QMP" in found:
            version = found["QMP"]["version"]["qemu"]
            return Greeting((version["major"], version["minor"], version["micro"]))
        if "event" in found:
            return Event(str(found["event"]), dict(found.get("data", {})))
        if "error" in found:
            error, number = found["error"], found.get("id")
            return Failure(number, str(error["class"]), str(error["desc"]))
        return Answer(int(found["id"]), found["return"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProtocolBroken(f"no message of QMP: {line[:80]!r}") from error
