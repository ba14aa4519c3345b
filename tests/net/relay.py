"""A TCP relay between machines and their vault: it can cut, lose answers, and count."""

import asyncio
import contextlib


class Relay:
    def __init__(self, port):
        self._to, self._server = port, None
        self._writers = set()
        self._losing = False
        self.port = 0
        self.upwards = 0
        self.cut_after = None
        """Bytes to the vault after which all connections are cut, once."""
        self.cut_answer_after = None
        """The same for bytes from the vault."""
        self.rate = None
        """Bytes a second of the line, in each direction of each connection."""
        self.reading = asyncio.Event()
        """While it is not set, nothing that machines send is taken from them."""
        self.reading.set()

    async def start(self):
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self):
        self._server.close()
        self.cut()
        await asyncio.sleep(0)

    def lead_to(self, port):
        self._to = port

    def cut(self):
        for writer in list(self._writers):
            writer.transport.abort()

    def lose_next_answer(self):
        """What the vault says next on a connection that is there is not passed on."""
        self._losing = True

    async def _accept(self, reader, writer):
        try:
            out_reader, out_writer = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, out_writer}
        self._writers |= pair
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, out_writer, self._going_up))
                group.create_task(self._pump(out_reader, writer, self._coming_down))
        except* OSError:
            pass
        finally:
            for each in pair:
                each.transport.abort()
            self._writers -= pair

    async def _pump(self, reader, writer, seen):
        while data := await reader.read(16 * 1024):
            if not seen(len(data)):
                self.cut()
                return
            writer.write(data)
            await writer.drain()
            if self.rate is not None:
                await asyncio.sleep(len(data) / self.rate)
            await self._taken(seen)
        with contextlib.suppress(OSError, RuntimeError):
            writer.write_eof()

    async def _taken(self, seen):
        if seen == self._going_up:
            await self.reading.wait()

    def _going_up(self, size):
        self.upwards += size
        return not self._used_up("cut_after", size)

    def _coming_down(self, size):
        if self._losing:
            self._losing = False
            return False
        return not self._used_up("cut_answer_after", size)

    def _used_up(self, name, size):
        left = getattr(self, name)
        if left is None:
            return False
        setattr(self, name, left - size if left > size else None)
        return left <= size
