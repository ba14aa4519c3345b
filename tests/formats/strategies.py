"""What the tests of the formats draw: damage, references, frames, entries, pages."""

from hypothesis import strategies as st

from transfer.formats import frame
from transfer.formats.entry import Entry, FileType, Inline, Root, Slice
from transfer.formats.reference import MAX_LEVEL, Kind, Reference, encode_references, tag_of
from transfer.formats.stream import FIXED, Descriptor, root_tag

DATA, PAGE, POINT = tag_of(Kind.DATA), tag_of(Kind.PAGE), tag_of(Kind.POINT)
LEAF, INDEX = tag_of(Kind.STREAM, 1), tag_of(Kind.INDEX, 1)
TAGS = [DATA, PAGE, POINT, *(tag_of(kind, level) for kind in (Kind.STREAM, Kind.INDEX)
                             for level in range(1, MAX_LEVEL + 1))]  # fmt: skip
tags = st.sampled_from(TAGS)
ids = st.integers(1, 2**256 - 1).map(lambda number: number.to_bytes(32, "big"))
references = st.builds(Reference, tags, ids)
names16 = st.binary(min_size=16, max_size=16)
epochs = st.binary(min_size=8, max_size=8)


def id_of(number):
    return number.to_bytes(32, "big")


# Damage.


def cuts(whole, start=0):
    """*whole*, ending too early."""
    return st.integers(start, len(whole) - 1).map(lambda end: whole[:end])


def flipped(whole, start=0, end=None):
    """*whole* with one other bit between *start* and *end*."""
    last = (len(whole) if end is None else end) * 8 - 1
    return st.integers(start * 8, last).map(lambda bit: flip(whole, bit))


def flip(whole, bit):
    damaged = bytearray(whole)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


@st.composite
def mangled(draw, whole):
    """*whole* with some bytes replaced, put in or left out, in up to three places."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(whole)))
        left_out = draw(st.integers(0, 4))
        whole = whole[:at] + draw(st.binary(max_size=4)) + whole[at + left_out :]
    return whole


# Frames.


def child_tags(tag):
    return [child for child in TAGS if frame.may_name(tag, child)]


@st.composite
def child_lists(draw, tag, most=3):
    kind = Kind(tag >> 4)
    if not frame.MAX_CHILDREN[kind]:
        return b""
    child = st.builds(Reference, st.sampled_from(child_tags(tag)), ids)
    drawn = draw(st.sets(child, min_size=frame.MIN_CHILDREN[kind], max_size=most))
    return encode_references(drawn)


@st.composite
def frames(draw, tag=tags):
    """(header, child list, payload); the header's checksum is right."""
    tag = draw(tag)
    children, payload = draw(child_lists(tag)), draw(st.binary(min_size=16, max_size=60))
    header = frame.Header(
        tag >> 4, tag & 15, draw(st.sampled_from([0, frame.ZSTD, 0x0800, 0xF001])),
        len(children) // 33, draw(st.integers(0, 290)), len(payload), draw(epochs),
        draw(st.integers(0, 2**32 - 1)), draw(names16), draw(st.integers(0, 2**64 - 1)), draw(ids),
        frame.checksum_of(children + payload),
    )  # fmt: skip
    return header, children, payload


# Streams and entries.

block_sizes = st.integers(16, 22).map(lambda exponent: 2**exponent)


@st.composite
def descriptors(draw):
    length, block_size = draw(st.integers(0, 2**63 - 1)), draw(block_sizes)
    root = Reference(root_tag(length, block_size), draw(ids)) if length else None
    return Descriptor(length, block_size, FIXED, draw(st.sampled_from([root, None])))


@st.composite
def slices(draw):
    offset = draw(st.integers(0, 2**22 - 1))
    length = draw(st.integers(1, 2**22 - offset))
    content_id = draw(st.sampled_from([b"", b"i" * 16]))
    return Slice(Reference(DATA, draw(ids)), offset, length, content_id)


roots = st.builds(
    Root,
    st.none() | references.filter(lambda reference: reference.kind in (Kind.PAGE, Kind.INDEX)),
)
inlines = st.builds(Inline, st.binary(max_size=40))
file_names = st.binary(min_size=1, max_size=20).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)
texts = st.binary(min_size=1, max_size=9).filter(lambda text: b"\0" not in text)
xattrs = st.dictionaries(texts, st.binary(max_size=9), max_size=3).map(
    lambda drawn: tuple(sorted(drawn.items()))
)
moments = st.integers(-(2**63) * 10**9, (2**63 - 1) * 10**9 + 10**9 - 1)
numbers32 = st.integers(0, 2**32 - 1)
link_groups = st.sampled_from([b"", b"g" * 16])
OF_TYPE = {
    FileType.FILE: {
        "content": inlines | descriptors() | slices(), "link_group": link_groups,
        "sparse": st.booleans(),
    },
    FileType.DIRECTORY: {"content": roots},
    FileType.SYMLINK: {"target": texts, "link_group": link_groups},
    FileType.FIFO: {"link_group": link_groups},
    FileType.CHARACTER: {"device": st.tuples(numbers32, numbers32), "link_group": link_groups},
    FileType.BLOCK: {"device": st.tuples(numbers32, numbers32), "link_group": link_groups},
    FileType.DISK: {"content": descriptors(), "sparse": st.booleans()},
}  # fmt: skip


@st.composite
def entries(draw, names=file_names):
    kind = draw(st.sampled_from(FileType))
    entry = Entry(
        draw(names), kind, draw(st.integers(0, 0o7777)), draw(numbers32), draw(numbers32),
        draw(moments), draw(moments), user=draw(texts | st.just(b"")),
        group=draw(texts | st.just(b"")), handle=draw(st.binary(max_size=9)),
        **{name: draw(strategy) for name, strategy in OF_TYPE[kind].items()},
    )  # fmt: skip
    if draw(st.booleans()):
        return entry._replace(xattrs=draw(xattrs))
    return entry._replace(xattr_stream=draw(st.none() | descriptors()))


pages = st.lists(entries(), min_size=1, max_size=4, unique_by=lambda entry: entry.name).map(
    lambda drawn: sorted(drawn, key=lambda entry: entry.name)
)
