"""The nodes of a stream: those that the parent point has, and those that are made above new blocks.

Both hold one node per level.
"""

from collections.abc import Sequence

from transfer.errors import FormatError, FrameMissing
from transfer.formats.journal import Ids
from transfer.formats.reference import Kind, Reference, tag_of
from transfer.formats.stream import (
    FANOUT,
    Descriptor,
    block_count,
    decode_node,
    depth,
    encode_node,
    root_tag,
    slot_count,
)
from transfer.pipeline.fetch import NodeReader
from transfer.pipeline.send import Sender

Slots = Ids


class ParentStream:
    """What the parent point has of a stream; one node per level is remembered."""

    def __init__(self, nodes: NodeReader | None, stream: Descriptor | None) -> None:
        self._nodes, self._stream = nodes, stream
        self._levels = depth(stream.length, stream.block_size) if stream else 0
        self._last: dict[int, tuple[int, Slots]] = {}

    async def slots(self, level: int, index: int) -> Slots:
        """The IDs in the node at this place; empty where there is none.

        A stream of one block has a leaf with that. Raises FrameMissing or FormatError where it
        cannot be read.
        """
        if level == 1 and self._levels == 0 and self._stream and self._stream.root:
            return (self._stream.root.id,) if index == 0 else ()
        stream, id = self._stream, await self.id(level, index)
        if id is None or stream is None or level == 0 or self._nodes is None:
            return ()
        last = self._last.get(level)
        if last is not None and last[0] == index:
            return last[1]
        plain, children = await self._nodes.load(Reference(tag_of(Kind.STREAM, level), id))
        expected = slot_count(stream.length, stream.block_size, level, index)
        slots = decode_node(level, plain, children, expected)
        self._last[level] = (index, slots)
        return slots

    async def id(self, level: int, index: int) -> bytes | None:
        """Of the node at this place, or of the block at level 0; None for zeros.

        Raises FrameMissing or FormatError where a node above it cannot be read.
        """
        if self._stream is None or self._stream.root is None or level > self._levels:
            return None
        if level == self._levels:
            return self._stream.root.id if index == 0 else None
        above = await self.slots(level + 1, index // FANOUT)
        return above[index % FANOUT] if index % FANOUT < len(above) else None

    async def around(self, level: int, index: int) -> frozenset[bytes]:
        """IDs at *level* in the node above this place: the parent has all of these."""
        if self._stream is None or self._stream.root is None or level > self._levels:
            return frozenset()
        if level == self._levels:
            return frozenset((self._stream.root.id,))
        try:
            above = await self.slots(level + 1, index // FANOUT)
        except (FrameMissing, FormatError):
            return frozenset()  # a damaged parent costs comparing, never a wrong point
        return frozenset(id for id in above if id is not None)


class StreamBuilder:
    """The nodes above a stream's blocks; each is stored once all that is below it is in place.

    Leaves may be stored in any order, but nodes are placed from left to right.
    """

    def __init__(self, sender: Sender, length: int, block_size: int, before: ParentStream) -> None:
        self._sender, self._length, self._block_size = sender, length, block_size
        self._before, self._depth = before, depth(length, block_size)
        self._open: dict[int, list[bytes | None]] = {}
        self._root: bytes | None = None

    async def leaf(self, index: int, slots: Slots) -> bytes | None:
        """Store a leaf whose blocks are stored; its ID, or that of the only block."""
        if self._depth == 0:
            return slots[0] if slots else None
        return await self._stored(1, index, slots)

    async def place_leaf(self, index: int, id: bytes | None) -> None:
        await self.place(min(1, self._depth), index, id)

    async def place(self, level: int, index: int, id: bytes | None) -> None:
        """Put a stored node in its place, with all that is below it; None is zeros."""
        if level == self._depth:
            self._root = id
            return
        above = self._open.setdefault(level + 1, [])
        above.append(id)
        if len(above) == FANOUT:
            del self._open[level + 1]
            await self._push(level + 1, index // FANOUT, above)

    async def _push(self, level: int, index: int, slots: Sequence[bytes | None]) -> None:
        await self.place(level, index, await self._stored(level, index, slots))

    async def _stored(self, level: int, index: int, slots: Sequence[bytes | None]) -> bytes | None:
        if not any(slots):
            return None
        plain, children = encode_node(level, slots)
        known = await self._before.around(level, index)
        node = await self._sender.node(tag_of(Kind.STREAM, level), plain, children, known)
        return node.id

    async def finish(self) -> Reference | None:
        """The stream's root, None for zeros."""
        for level in range(2, self._depth + 1):
            if level in self._open:
                span = FANOUT**level
                last = (block_count(self._length, self._block_size) - 1) // span
                await self._push(level, last, self._open.pop(level))
        if self._root is None:
            return None
        return Reference(root_tag(self._length, self._block_size), self._root)
