"""Keys and IDs derived from a domain's secrets, all by keyed BLAKE3.

    what        keyed with         over                                              bytes
    ID key      generation key     "transfer id 1", tag (1)                             32
    ID          ID key             child list, plaintext, child list's length (4)       32
    name hash   generation key     "transfer name cut 1", name                           8
    item ID     first generation's "transfer item 1", machine ID (16), item's name      16
    link group  generation key     "transfer link group 1", length (2) of the file      16
                                   system's ID, that ID, handle
    frame key   epoch's seal key   "transfer frame key 1", header with checks zeroed    32

Integers are little-endian. No label is the beginning of another.
"""

from blake3 import blake3


def id_key(generation_key: bytes, tag: int) -> bytes:
    """The key of IDs of one kind and level; each has its own, so kinds cannot be confused."""
    return blake3(b"transfer id 1" + bytes((tag,)), key=generation_key).digest()


def frame_id(key: bytes, children: bytes, plain: bytes | bytearray | memoryview) -> bytes:
    """ID of a frame: over its child list, its plaintext, and the length of the child list.

    The length stands last, of every frame, so that no byte can pass from one part to the other.
    """
    hasher = blake3(children, key=key)
    hasher.update(plain)
    hasher.update(len(children).to_bytes(4, "little"))
    return hasher.digest()


def name_hash(generation_key: bytes, name: bytes) -> int:
    """64 bits that decide where directory pages end."""
    keyed = blake3(b"transfer name cut 1" + name, key=generation_key)
    return int.from_bytes(keyed.digest(8), "little")


def item_id(generation_key: bytes, machine: bytes, name: str) -> bytes:
    """16 bytes; *generation_key* is the domain's first, so rotation renames nothing."""
    return blake3(b"transfer item 1" + machine + name.encode(), key=generation_key).digest(16)


def link_group(generation_key: bytes, filesystem: bytes, handle: bytes) -> bytes:
    """16 bytes that all names of one inode share, the same in every run."""
    text = b"transfer link group 1" + len(filesystem).to_bytes(2, "little") + filesystem + handle
    return blake3(text, key=generation_key).digest(16)


def frame_key(seal_key: bytes, header: bytes) -> bytes:
    """AES-256 key of one frame, from its whole header with both checks zeroed.

    A machine rewound to an old memory snapshot repeats context and counter; since ID, flags and
    lengths enter here, it repeats a key only for the same content in the same encoding.
    """
    return blake3(b"transfer frame key 1" + header, key=seal_key).digest()
