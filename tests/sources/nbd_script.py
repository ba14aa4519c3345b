"""A server of NBD, written down: the bytes that it says, and a client's core to say them to."""

import struct

from transfer.sources.nbd_protocol import Connection, Terms

GREETING = b"NBDMAGICIHAVEOPT\0\3"
STARTTLS, GO, STRUCTURED, LIST, SET = 5, 7, 8, 9, 10
ACK, INFO, CONTEXT, ERROR = 1, 3, 4, 1 << 31
NONE, DATA, HOLE, STATUS, FAILED, FAILED_AT = 0, 1, 2, 5, 0x8001, 0x8002
DONE = 1
SIZE = 10 * 2**20
A, B = "base:allocation", "qemu:dirty-bitmap:x"
AT = 4096  # where most reads begin


def reply(option, kind, data=b""):
    return struct.pack(">QIII", 0x3E889045565A9, option, kind, len(data)) + data


def described(size=SIZE, flags=5):
    return reply(GO, INFO, struct.pack(">HQH", 0, size, flags))


def sizes(least=1, preferred=4096, most=2**25):
    return reply(GO, INFO, struct.pack(">HIII", 3, least, preferred, most))


def context(option, id, name):
    return reply(option, CONTEXT, struct.pack(">I", id) + name.encode())


def greeting(*infos, contexts=()):
    """All that a server says until requests may be made, to a client that asks for *contexts*."""
    said = GREETING + reply(STRUCTURED, ACK)
    if contexts:
        said += b"".join(context(SET, id, name) for id, name in contexts) + reply(SET, ACK)
    return said + b"".join(infos or [described()]) + reply(GO, ACK)


def chunk(cookie, kind, payload=b"", flags=0):
    return struct.pack(">IHHQI", 0x668E33EF, flags, kind, cookie, len(payload)) + payload


def data(cookie, offset, content, flags=0):
    return chunk(cookie, DATA, struct.pack(">Q", offset) + content, flags)


def hole(cookie, offset, length, flags=0):
    return chunk(cookie, HOLE, struct.pack(">QI", offset, length), flags)


def status(cookie, id, *extents, flags=0):
    payload = b"".join(struct.pack(">II", *extent) for extent in extents)
    return chunk(cookie, STATUS, struct.pack(">I", id) + payload, flags)


def failed(cookie, number, words=b"", flags=DONE):
    return chunk(cookie, FAILED, struct.pack(">IH", number, len(words)) + words, flags)


def failed_at(cookie, number, offset, flags=DONE):
    return chunk(cookie, FAILED_AT, struct.pack(">IHQ", number, 0, offset), flags)


def simple(cookie, content=b"", number=0):
    return struct.pack(">IIQ", 0x67446698, number, cookie) + content


def hear(core, raw, most=2**30):
    """The events of *raw*, which arrives in portions of at most *most* bytes."""
    events, raw = [], memoryview(raw)
    while raw:
        room = core.buffer()
        count = min(len(room), len(raw), most)
        room[:count] = raw[:count]
        events += core.received(count)
        raw = raw[count:]
    return events


def opened(*infos, contexts=(), structured=True):
    """A core after its handshake, what it said of that forgotten."""
    core = Connection(Terms(b"disk", [name for _, name in contexts]))
    if structured:
        hear(core, greeting(*infos, contexts=contexts))
    else:
        unknown = reply(STRUCTURED, ERROR | 1)
        hear(core, GREETING + unknown + b"".join(infos or [described()]) + reply(GO, ACK))
    core.output()
    return core


def room(length):
    return memoryview(bytearray(b"?" * length))


def reading(length=2048, **options):
    """A core that was asked for *length* bytes at AT, and the buffer for them."""
    core, view = opened(**options), room(length)
    assert core.read(AT, view) == 1
    return core, view


def asking(length=2**20, offset=AT, one=False):
    """A core that was asked for the status of all contexts there."""
    core = opened(contexts=[(7, A), (9, B)])
    assert core.block_status(offset, length, one) == 1
    return core
