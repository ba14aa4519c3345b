"""Freeze a guest's file systems, and thaw them whatever happens: a program of its own.

    freeze_watch.py SOCKET SECONDS

    stdin     "freeze\\n", and its end, which thaws
    stdout    "ready"; then "frozen COUNT", or "refused WHY", which is the end; then "thawed COUNT",
              or "late COUNT". "failed WHY" may come at any time; the guest may be frozen then.

It alone holds the guest agent's socket. Whoever started it may die or hang: the end of stdin, or
that of SECONDS since it began to freeze, thaws. It imports nothing of ours and needs no site, so
that it starts at once and depends on nothing that might break.
"""

import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any, cast

ANSWER = 10.0  # seconds for an answer of the agent where nothing is frozen
THAW_FOR = 60.0  # seconds for which it is tried: a guest must not stay frozen
_MOST = 1 << 20
_LONGEST = 900  # characters of a reason: the guest may have written it, and a line here is short


class AgentError(Exception):
    """What the agent answered, or that it did not: one line of at most 900 characters."""

    def __init__(self, why: str) -> None:
        super().__init__(" ".join(why.split())[:_LONGEST])


class Agent:
    """The guest agent behind the socket at *path*: one command after the other."""

    def __init__(self, path: str) -> None:
        self._socket, self._rest = socket.socket(socket.AF_UNIX), b""
        try:
            self._socket.settimeout(ANSWER)
            self._socket.connect(path)
            self._synchronise()
        except OSError as error:
            self._socket.close()
            raise AgentError(f"{path}: {error.strerror or error}") from error
        except AgentError:
            self._socket.close()
            raise

    def ask(self, name: str, seconds: float, **arguments: object) -> Any:
        """What it returns, whatever that is: guests are not trusted. Raises AgentError."""
        said = {"execute": name, "arguments": arguments} if arguments else {"execute": name}
        self._send(json.dumps(said).encode() + b"\n")
        found = self._answer(time.monotonic() + seconds)
        if "error" in found:
            why = found["error"].get("desc")
            raise Refusal(why if isinstance(why, str) and why.strip() else name)
        return found["return"]

    def close(self) -> None:
        self._socket.close()

    def _synchronise(self) -> None:
        """What was left by somebody before us, in both directions, is thrown away."""
        number, until = int.from_bytes(os.urandom(4), "big") >> 1, time.monotonic() + ANSWER
        said = {"execute": "guest-sync-delimited", "arguments": {"id": number}}
        self._send(b"\xff" + json.dumps(said).encode() + b"\n")
        while True:
            while b"\xff" not in self._rest:
                self._receive(until)
            self._rest = self._rest.partition(b"\xff")[2]
            if self._answer(until).get("return") == number:
                return

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise AgentError(f"the guest agent hung up: {error.strerror or error}") from error

    def _answer(self, until: float) -> dict[str, Any]:
        while b"\n" not in self._rest:
            self._receive(until)
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            found = json.loads(line.strip(b"\xff"))
        except (ValueError, RecursionError) as error:
            raise AgentError(f"the guest agent says {line[:80]!r}") from error
        if not _is_answer(found):
            raise AgentError(f"the guest agent says {line[:80]!r}")
        return cast(dict[str, Any], found)

    def _receive(self, until: float) -> None:
        left = until - time.monotonic()
        if left <= 0:  # also for one that never stops talking
            raise AgentError("the guest agent does not answer")
        self._socket.settimeout(left)
        try:
            data = self._socket.recv(65536)
        except OSError as error:
            raise AgentError("the guest agent does not answer") from error
        if not data or len(self._rest) > _MOST:
            raise AgentError("the guest agent hung up")
        self._rest += data


class Refusal(AgentError):
    """The agent answered that it will not: nothing is frozen."""


def _is_answer(found: object) -> bool:
    if not isinstance(found, dict) or not found.keys() & {"return", "error"}:
        return False
    return isinstance(found.get("error", {}), dict)


def _count(found: object) -> int:
    return found if type(found) is int else 0  # True is no number here


def thaw(path: str, agent: Agent | None = None) -> int:
    """How many file systems that thawed; it is tried again and again. Raises AgentError."""
    until = time.monotonic() + THAW_FOR
    while True:
        try:
            agent = agent or Agent(path)
            count = _count(agent.ask("guest-fsfreeze-thaw", ANSWER))
            agent.close()
            return count
        except AgentError:
            if time.monotonic() > until:
                raise
            if agent is not None:
                agent.close()
            agent = None
            time.sleep(0.5)


def watch(path: str, seconds: float) -> None:
    agent = Agent(path)
    _say("ready")
    if sys.stdin.readline() != "freeze\n":
        return
    until = time.monotonic() + seconds
    try:
        count = _count(agent.ask("guest-fsfreeze-freeze", seconds))
    except Refusal as error:
        _say(f"refused {error}")
        return
    except AgentError as error:
        _say(f"failed {error}")
        agent.close()  # its answer may still come, and would be taken for that to the thaw
        _say(f"late {thaw(path)}")
        return
    _say(f"frozen {count}")
    in_time, _, _ = select.select([0], [], [], max(until - time.monotonic(), 0))
    count = thaw(path, agent)
    _say(f"{'thawed' if in_time else 'late'} {count}")


def _say(line: str) -> None:
    try:
        os.write(1, line.encode(errors="backslashreplace") + b"\n")
    except OSError:
        pass  # nobody is there to hear it


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    try:
        watch(sys.argv[1], float(sys.argv[2]))
    except AgentError as error:
        _say(f"failed {error}")


if __name__ == "__main__":
    main()
