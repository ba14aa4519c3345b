"""Frame: one sealed block, the same on the wire and in a pack.

    offset  size  field
         0     4  magic           b"TFRM"
         4     1  version         1
         5     1  scheme          1 = AES-256-GCM, key from the epoch's seal key and this header
         6     1  kind            see reference.py
         7     1  level           0, or the height of a stream node or directory index
         8     2  flags           see below
        10     2  child count     references between header and payload
        12     4  plain length    of the payload once opened and decompressed: data at most 4 MiB,
                                  page and index 256 KiB, point 60 KiB, stream node 290
        16     4  payload length  at most plain length + 1 KiB, tag included
        20     1  dictionary      0 = none
        21     3  reserved        zero
        24     8  epoch           name of the seal key
        32     4  generation      of the domain's ID key
        36    16  seal context    random, drawn by each sealer at its start
        52     8  counter         of the seal context; also the nonce
        60    32  ID              of (child list + plaintext), see reference.py
        92    16  checksum        xxh3-128 of child list + payload
       108     4  header check    CRC-32 of bytes 0 to 107
       112  33 n  child list      references, the only copy: the sealed part names children by place
              m   payload         raw or one zstd frame, then AES-256-GCM with its tag

    flags  bits      meaning of an unknown one
           0 to 7    needed to read: the frame is refused
           8 to 11   needed to write: the frame is read, and not stored, copied or repacked
          12 to 15   may be ignored

Known are bit 0: the payload is compressed; reserved is bit 1: the payload is padded, its true
length stands under the seal. Reserved is also scheme 2: the key is in a record named by the seal
context.

Integers are little-endian. The header has a check of its own because the lengths are used before
the payload can be verified. The checksum is against accidents and needs no key; the seal's tag is
against forgers. The seal's key is keyed BLAKE3 of "transfer frame key 1" and the header with both
checks zeroed, its nonce the counter (12 bytes, big-endian), its associated data LABEL, the domain
ID, the header with both checks zeroed, and the child list.

Children: stream nodes have 1 to 256 and indexes 1 to 512, all one level lower (data, page below
level 1); pages have up to 512 of any kind but point; data and points have none.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import xxhash

from transfer.errors import FormatError, NewerFormat
from transfer.formats.reference import (
    MAX_LEVEL,
    NULL_ID,
    REFERENCE_SIZE,
    Buffer,
    Kind,
    Reference,
    check_tag,
    decode_references,
    tag_of,
)

MAGIC = b"TFRM"
LABEL = b"transfer frame 1"
MAX_PLAIN = 4 * 2**20
MAX_PLAIN_OF = {
    Kind.DATA: MAX_PLAIN,
    Kind.STREAM: 2 + 32 + 256,  # see stream.py
    Kind.PAGE: 256 * 1024,
    Kind.INDEX: 256 * 1024,
    Kind.POINT: 60 * 1024,  # with all around it, less than a point's 64 KiB
}
MAX_EXPANSION = 1024
MAX_FRAME = 112 + 512 * REFERENCE_SIZE + MAX_PLAIN + MAX_EXPANSION
# A node without children is null, and never stored; a page may hold empty files only.
MIN_CHILDREN = {Kind.DATA: 0, Kind.STREAM: 1, Kind.PAGE: 0, Kind.INDEX: 1, Kind.POINT: 0}
MAX_CHILDREN = {Kind.DATA: 0, Kind.STREAM: 256, Kind.PAGE: 512, Kind.INDEX: 512, Kind.POINT: 0}
ZSTD = 1  # flag: the payload is compressed
READ_FLAGS, WRITE_FLAGS = 0x00FF, 0x0F00
_KNOWN_FLAGS = ZSTD
_KINDS = frozenset(Kind)
_MAX_KIND = 15  # a reference has four bits for it
_TAG_SIZE = 16
_HEADER = struct.Struct("<4sBBBBHHIIB3s8sI16sQ32s16sI")
_CHECKS_AT = 92
HEADER_SIZE = _HEADER.size


class Header(NamedTuple):
    kind: int
    level: int
    flags: int
    child_count: int
    plain_length: int
    payload_length: int
    epoch: bytes
    generation: int
    context: bytes
    counter: int
    id: bytes
    checksum: bytes = bytes(16)

    @property
    def tag(self) -> int:
        return self.kind << 4 | self.level

    @property
    def reference(self) -> Reference:
        return Reference(self.tag, self.id)

    @property
    def may_be_copied(self) -> bool:
        """Whether this version may store, copy or repack the frame; any may be read."""
        return not self.flags & WRITE_FLAGS & ~_KNOWN_FLAGS

    @property
    def children_size(self) -> int:
        return self.child_count * REFERENCE_SIZE

    @property
    def frame_length(self) -> int:
        return HEADER_SIZE + self.children_size + self.payload_length


class Frame(NamedTuple):
    header: Header
    children: bytes
    payload: memoryview

    @property
    def references(self) -> tuple[Reference, ...]:
        """The child list, checked: see `decode_children`."""
        return decode_children(self.header.tag, self.children)


def unchecked_header(header: Header) -> bytes:
    """The header's bytes with both checks zeroed: for key derivation and associated data."""
    # struct would silently pad or cut bytes of another length.
    if (len(header.epoch), len(header.context), len(header.id)) != (8, 16, 32):
        raise ValueError("a frame needs an epoch of 8 bytes, a context of 16 and an ID of 32")
    packed = _HEADER.pack(
        MAGIC, 1, 1, header.kind, header.level, header.flags, header.child_count,
        header.plain_length, header.payload_length, 0, bytes(3), header.epoch,
        header.generation, header.context, header.counter, header.id, bytes(16), 0,
    )  # fmt: skip
    return packed


def checksum_of(children_and_payload: Buffer) -> bytes:
    return xxhash.xxh3_128_digest(children_and_payload)


def encode_header(header: Header) -> bytes:
    """The header's bytes, checks included; *header.checksum* is taken as it is."""
    head = unchecked_header(header)[:_CHECKS_AT] + header.checksum
    return head + zlib.crc32(head).to_bytes(4, "little")


def encode(header: Header, children: bytes, payload: Buffer) -> bytes:
    body = children + bytes(payload)
    return encode_header(header._replace(checksum=checksum_of(body))) + body


def walk(buffer: Buffer) -> Iterator[tuple[Header, memoryview]]:
    """Whole frames, back to back, each with its header; their checksums are not looked at.

    Raises FormatError for a bad header and for a frame cut short, NewerFormat.
    """
    view, offset = memoryview(buffer), 0
    while offset < len(view):
        header = decode_header(view, offset)
        if header is None or offset + header.frame_length > len(view):
            raise FormatError(f"offset {offset}: the last frame is cut short")
        yield header, view[offset : offset + header.frame_length]
        offset += header.frame_length


def decode_header(buffer: Buffer, offset: int = 0) -> Header | None:
    """The header at *offset*, its lengths within the limits; None means more bytes are needed.

    Raises FormatError for damage, NewerFormat for an intact header of a later version.
    """
    view = memoryview(buffer)
    if len(view) - offset < HEADER_SIZE:
        return None
    (magic, version, scheme, kind, level, flags, child_count, plain_length, payload_length,
     dictionary, reserved, epoch, generation, context, counter, id, checksum, check,
     ) = _HEADER.unpack_from(view, offset)  # fmt: skip
    if magic != MAGIC or check != zlib.crc32(view[offset : offset + HEADER_SIZE - 4]):
        raise FormatError(f"offset {offset}: no intact frame header")
    unknown = flags & READ_FLAGS & ~_KNOWN_FLAGS
    later_kind = kind not in _KINDS and 0 < kind <= _MAX_KIND
    if version != 1 or scheme != 1 or unknown or dictionary or later_kind:
        raise NewerFormat(
            f"offset {offset}: a frame of version {version}, scheme {scheme}, kind {kind}, "
            f"flags {flags:#06x}, dictionary {dictionary}",
            "use a newer version of transfer",
        )
    header = Header(
        kind, level, flags, child_count, plain_length, payload_length, epoch, generation,
        context, counter, id, checksum,
    )  # fmt: skip
    _check_limits(header, reserved, offset)
    return header


def _check_limits(header: Header, reserved: bytes, offset: int) -> None:
    if header.level > MAX_LEVEL:
        raise FormatError(f"offset {offset}: a frame of level {header.level}")
    check_tag(header.tag)
    kind = Kind(header.kind)
    if (
        reserved != bytes(3)
        or header.plain_length > MAX_PLAIN_OF[kind]
        or not _TAG_SIZE <= header.payload_length <= header.plain_length + MAX_EXPANSION
        or not MIN_CHILDREN[kind] <= header.child_count <= MAX_CHILDREN[kind]
        or header.id == NULL_ID
    ):
        raise FormatError(f"offset {offset}: a frame header beyond the limits")


def decode_children(tag: int, children: Buffer) -> tuple[Reference, ...]:
    """The child list of a frame of this *tag*.

    Raises FormatError for a list that is damaged, or that such a frame cannot have: children of
    stream nodes and indexes are one level lower, and nothing names a point.
    """
    references, kind = decode_references(children), Kind(tag >> 4)
    if not MIN_CHILDREN[kind] <= len(references) <= MAX_CHILDREN[kind]:
        raise FormatError(f"a frame of tag {tag:#04x} has {len(references)} children")
    for child in {reference.tag for reference in references}:
        if not may_name(tag, child):
            raise FormatError(f"a frame of tag {tag:#04x} names one of tag {child:#04x}")
    return references


def may_name(tag: int, child: int) -> bool:
    """Whether a frame of *tag* can have a child of tag *child*."""
    match tag >> 4, tag & 15:
        case ((Kind.STREAM | Kind.INDEX), level) if level > 1:
            return child == tag - 1
        case Kind.STREAM, _:
            return child == tag_of(Kind.DATA)
        case Kind.INDEX, _:
            return child == tag_of(Kind.PAGE)
        case Kind.PAGE, _:
            return child != tag_of(Kind.POINT)
    return False


def decode(buffer: Buffer, offset: int = 0) -> tuple[Frame, int] | None:
    """The frame at *offset*, its checksum verified, and the offset after it; None: more bytes.

    The child list is checked when it is asked for.
    """
    view = memoryview(buffer)
    header = decode_header(view, offset)
    if header is None:
        return None
    body = offset + HEADER_SIZE
    end = offset + header.frame_length
    if len(view) < end:
        return None
    if checksum_of(view[body:end]) != header.checksum:
        raise FormatError(f"offset {offset}: checksum of {header.reference} failed")
    payload_at = body + header.children_size
    return Frame(header, bytes(view[body:payload_at]), view[payload_at:end]), end
