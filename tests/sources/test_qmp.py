"""QMP: lines that come in pieces, and a server as a script behind a real socket."""

import asyncio
import json
import os
from contextlib import asynccontextmanager

import pytest

from transfer.errors import NotFound, ProtocolBroken, SourceFailed, SourceUnavailable, UsageError
from transfer.sources.qmp import Qmp
from transfer.sources.qmp_protocol import Answer, Event, Failure, Greeting, Lines, command

GREETING = b'{"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 22}}}}\r\n'
ANSWER = b'{"return": {"a": [1]}, "id": 5}\n'


def test_messages_come_in_pieces_of_any_size():
    refusal = b'{"error": {"class": "GenericError", "desc": "no"}, "id": 6}\n'
    event = b'{"event": "SHUTDOWN", "data": {"guest": true}, "timestamp": {}}\n'
    said = GREETING + ANSWER + refusal + event
    for size in (1, 7, len(said)):
        lines, messages = Lines(), []
        for at in range(0, len(said), size):
            messages += lines.received(said[at : at + size])
        assert messages == [
            Greeting((7, 2, 22)), Answer(5, {"a": [1]}), Failure(6, "GenericError", "no"),
            Event("SHUTDOWN", {"guest": True}),
        ]  # fmt: skip


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_without_bounds_is_refused(end):
    lines = Lines(most=100)
    assert lines.received(b"[" * 100) == []
    with pytest.raises(ProtocolBroken, match="more than 100 bytes"):
        lines.received(b"[" + end)


@pytest.mark.parametrize("line", [
    b"nonsense", b"[]", b"1", b'{"QMP": {}}', b'{"return": 1}', b'{"id": 1}', b"\xff",
    b'{"error": {}, "id": 1}', b'{"event": "A", "data": 1}', b'{"return": 1, "id": "x"}',
    b"[" * 100000,
])  # fmt: skip
def test_what_is_no_message_is_refused(line):
    with pytest.raises(ProtocolBroken, match="no message of QMP"):
        Lines().received(line + b"\n")


def test_a_command_is_one_line():
    said = command("a", {"text": "x\ny"}, 3)
    assert said.count(b"\n") == 1
    assert json.loads(said) == {"execute": "a", "arguments": {"text": "x\ny"}, "id": 3}


class Script:
    """Greets, and answers what *answers* has: bytes to send, a value to return, or None."""

    def __init__(self, path, greeting=GREETING, **answers):
        self.path, self.greeting = str(path), greeting
        self.answers = {"qmp_capabilities": {}} | answers
        self.asked = []

    async def __aenter__(self):
        self._server = await asyncio.start_unix_server(self._serve, self.path)
        return self

    async def __aexit__(self, *error):
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader, writer):
        writer.write(self.greeting)
        while line := await reader.readline():
            said = json.loads(line)
            self.asked.append((said["execute"], said.get("arguments", {})))
            answer = self.answers[said["execute"]]
            if answer is EOFError:
                break
            if isinstance(answer, bytes):
                writer.write(answer)
            elif answer is not None:
                writer.write(json.dumps({"return": answer, "id": said["id"]}).encode() + b"\n")
        writer.close()


@asynccontextmanager
async def connected(path, **options):
    async with await Qmp.connect(path, **options) as qmp:
        yield qmp


async def test_a_command_gets_its_own_answer(tmp_path):
    async with (
        Script(tmp_path / "s", slow=None, quick={"x": 1}) as script,
        connected(script.path) as qmp,
    ):
        assert qmp.version == (7, 2, 22)
        waiting = asyncio.create_task(qmp.ask("slow"))
        await asyncio.sleep(0)
        assert await qmp.ask("quick", node_name="d0") == {"x": 1}
        assert not waiting.done()
        waiting.cancel()
    assert script.asked[1:] == [("slow", {}), ("quick", {"node-name": "d0"})]


async def test_an_answer_that_nobody_waits_for_any_more_is_nobody_elses(tmp_path):
    async with (
        Script(tmp_path / "s", one=None, two=b'{"return": 1, "id": 2}\n') as script,
        connected(script.path, patience=0.2) as qmp,
    ):
        asked = asyncio.create_task(qmp.ask("one"))
        await asyncio.sleep(0.01)
        asked.cancel()
        with pytest.raises(SourceUnavailable, match="no answer to two"):
            await qmp.ask("two")


async def test_what_qemu_refuses_is_told_in_its_words(tmp_path):
    refusal = b'{"error": {"class": "GenericError", "desc": "no such node"}, "id": 2}\n'
    async with (
        Script(tmp_path / "s", some=refusal, other=1) as script,
        connected(script.path) as qmp,
    ):
        with pytest.raises(SourceFailed, match="some: no such node"):
            await qmp.ask("some")
        assert await qmp.ask("other") == 1


async def test_a_socket_that_another_client_has_is_told_so(tmp_path):
    async with Script(tmp_path / "s", greeting=b"") as script:
        with pytest.raises(SourceUnavailable) as found:
            await Qmp.connect(script.path, patience=0.1)
    assert "one client at a time" in found.value.hint


async def test_all_who_wait_hear_of_a_broken_protocol(tmp_path):
    async with Script(tmp_path / "s", slow=None) as script, connected(script.path) as qmp:
        asked = [asyncio.create_task(qmp.ask("slow")) for _ in range(2)]
        await asyncio.sleep(0.01)
        script.answers["end"] = b"nonsense\n"
        for each in (qmp.ask("end"), *asked, qmp.ask("slow")):
            with pytest.raises(ProtocolBroken, match="no message of QMP"):
                await each


async def test_a_machine_that_ends_is_away(tmp_path):
    async with (
        Script(tmp_path / "s", slow=None, end=EOFError) as script,
        connected(script.path) as qmp,
    ):
        asked = asyncio.create_task(qmp.ask("slow"))
        await asyncio.sleep(0)
        for each in (qmp.ask("end"), asked, qmp.ask("slow")):
            with pytest.raises(SourceUnavailable, match="the machine has ended"):
                await each


async def test_a_close_that_is_cancelled_closes_and_is_cancelled(tmp_path):
    async with Script(tmp_path / "s") as script:
        qmp = await Qmp.connect(script.path)
        closing = asyncio.create_task(qmp.close())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait({closing})
        assert closing.cancelled()
        with pytest.raises(SourceUnavailable, match="the connection was closed"):
            await qmp.ask("some")


async def test_what_is_no_socket_is_told_apart(tmp_path):
    with pytest.raises(NotFound):
        await Qmp.connect(str(tmp_path / "nothing"))
    (tmp_path / "file").touch()
    with pytest.raises(SourceUnavailable):
        await Qmp.connect(str(tmp_path / "file"))
    with pytest.raises(UsageError):
        await Qmp.connect(str(tmp_path / ("long" * 50)))


async def test_the_peer_is_who_made_the_socket(tmp_path):
    async with Script(tmp_path / "s") as script, await Qmp.connect(script.path) as qmp:
        assert qmp.peer == (os.getpid(), os.getuid(), os.getgid())
