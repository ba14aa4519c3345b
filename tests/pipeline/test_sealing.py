"""Sealing: what was sealed comes back, and nothing else ever opens."""

import copy
import os
import tracemalloc
import zlib

import pytest
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from transfer.crypto import keys
from transfer.errors import FormatError, IdMismatch, IntegrityError, NewerFormat, SealBroken
from transfer.formats import frame
from transfer.formats.reference import (
    MAX_LEVEL,
    NULL_ID,
    Kind,
    Reference,
    encode_references,
    tag_of,
)
from transfer.pipeline.sealing import LEVELS, Opener, Sealer, SealKeys, frame_room

DOMAIN, EPOCH, OLD_EPOCH = b"d" * 16, b"epoch-02", b"epoch-01"
KEYS = SealKeys(
    DOMAIN, 2, EPOCH, {1: b"1" * 32, 2: b"2" * 32}, {OLD_EPOCH: b"o" * 32, EPOCH: b"e" * 32}
)
DATA, PAGE, LEAF = tag_of(Kind.DATA), tag_of(Kind.PAGE), tag_of(Kind.STREAM, 1)
TAGS = [DATA, PAGE, tag_of(Kind.POINT)] + [
    tag_of(kind, level) for kind in (Kind.STREAM, Kind.INDEX) for level in range(1, MAX_LEVEL + 1)
]
HEAD = frame.HEADER_SIZE
SEALER, OPENER = Sealer(KEYS), Opener(KEYS)


def children_of(count):
    return encode_references(
        Reference(DATA, number.to_bytes(32, "big")) for number in range(1, count + 1)
    )


def with_checks(raw):
    """*raw* with both checksums made anew, as a forger would: only the seal can notice."""
    body = frame.checksum_of(raw[HEAD:])
    head = raw[: HEAD - 20] + body
    return bytes(head + zlib.crc32(head).to_bytes(4, "little") + raw[HEAD:])


def forged(packed, plain_length, flags=frame.ZSTD, children=b"", tag=DATA, id=b"i" * 32, **other):
    """A frame under a good seal, made by somebody who has the keys and no scruples."""
    header = frame.Header(
        tag >> 4, tag & 15, flags, len(children) // 33, plain_length, len(packed) + 16,
        EPOCH, 2, b"c" * 16, 7, id,
    )._replace(**other)  # fmt: skip
    unchecked = frame.unchecked_header(header)
    cipher = AESGCM(keys.frame_key(KEYS.seal_keys[EPOCH], unchecked))
    bound = frame.LABEL + DOMAIN + unchecked + children
    return frame.encode(header, children, cipher.encrypt(bytes(11) + b"\x07", packed, bound))


def id_of(plain, tag=DATA, children=b""):
    return SEALER.id_of(tag, children, plain)


# What was sealed comes back.


@given(st.data())
def test_every_kind_comes_back_with_and_without_children(data):
    tag = data.draw(st.sampled_from(TAGS))
    kind = Kind(tag >> 4)
    count = st.integers(frame.MIN_CHILDREN[kind], frame.MAX_CHILDREN[kind])
    children = children_of(data.draw(count))
    plain = data.draw(st.binary(max_size=300)) * data.draw(st.sampled_from([0, 1, 1000]))
    plain = plain[: frame.MAX_PLAIN_OF[kind]]
    sealer = Sealer(KEYS, data.draw(st.sampled_from(sorted(LEVELS))))
    id, raw = sealer.seal(tag, plain, children)
    header, found, opened = OPENER.open(raw, (tag, id))
    assert (found, opened) == (children, plain)
    assert (header.tag, header.id, header.epoch, header.generation) == (tag, id, EPOCH, 2)
    assert len(raw) <= frame_room(len(plain), len(children))
    assert OPENER.open(raw) == (header, children, plain)


@pytest.mark.parametrize("size", [0, 1, 2, 63, 64, 65535, 65536, 2**20, 2**22 - 1, frame.MAX_PLAIN])
@pytest.mark.parametrize("compression", ["auto", "off"])
def test_every_size_comes_back_from_one_used_buffer(size, compression):
    sealer, opener = Sealer(KEYS, compression), Opener(KEYS)
    out = memoryview(bytearray(b"\xaa" * (frame_room(frame.MAX_PLAIN) + 9)))
    for plain in (os.urandom(size), bytes(size), b"text " * (size // 5)):
        sealed = sealer.seal_into(out, DATA, id_of(plain), plain)
        assert opener.open(out[:sealed])[2] == plain
        assert sealed <= frame_room(len(plain))
        assert out[-9:] == b"\xaa" * 9


def test_nothing_is_sealed_beyond_the_limits():
    for plain, children in ((bytes(frame.MAX_PLAIN + 1), b""), (b"x", children_of(1))):
        with pytest.raises(FormatError):
            SEALER.seal(DATA, plain, children)
    with pytest.raises(FormatError):
        SEALER.seal(LEAF, b"x", children_of(257))
    with pytest.raises(FormatError):
        SEALER.seal(tag_of(Kind.STREAM), b"a stream node of level 0")


def test_what_does_not_compress_is_stored_as_it_is():
    for size in (10, 5000, 100_000):
        _, raw = SEALER.seal(DATA, os.urandom(size))
        assert len(raw) == HEAD + size + 16
        assert OPENER.open(raw)[0].flags == 0
    assert len(SEALER.seal(DATA, bytes(100_000))[1]) < 200
    assert len(Sealer(KEYS, "off").seal(DATA, bytes(100_000))[1]) == HEAD + 100_000 + 16


def test_large_blocks_that_do_not_compress_cost_three_samples_only():
    sealer = Sealer(KEYS)
    sealer._compress = None  # nobody asks it
    assert OPENER.open(sealer.seal(DATA, os.urandom(100_000))[1])[0].flags == 0


def test_a_half_that_compresses_is_found_by_the_samples():
    plain = os.urandom(50_000) + bytes(50_000)
    assert len(SEALER.seal(DATA, plain)[1]) < 51_000


def test_plaintexts_do_not_share_memory_with_what_is_opened_next():
    opener = Opener(KEYS)
    opened = [opener.open(SEALER.seal(DATA, bytes([n]) * 5000)[1])[2] for n in (1, 2, 3)]
    assert opened == [bytes([n]) * 5000 for n in (1, 2, 3)]


GOLDEN = {
    "raw": (
        "5446524d010102010000010006000000160000000000000065706f63682d30320200000063636363"
        "6363636363636363636363630100000000000000bffba334b590293852eb1aef60e0aa32a644cef8"
        "6e6c9f85101227b3ca35ee0fc53e123a79b4516c81eead626f0848107f9d5cac1000000000000000"
        "00000000000000000000000000000000000000000000000001545411902d8cb7cbf595d37135472a"
        "a2802fe1124a30"
    ),
    "zstd": (
        "5446524d01010100010000008c000000270000000000000065706f63682d30320200000063636363"
        "636363636363636363636363020000000000000013317c07f5fc6d458913e214238404c0ed5760ab"
        "cfd3947a41d343025af82126514085f6ff3a97b1840610c2a62cff5a40b5c9b70b239bfd39028551"
        "c9169569aedd5cb3d054eaf75e67dd20a157afc9c8d8277126a3435d3491b2"
    ),
}


def test_golden_frames_open():
    """Frames of version 1 open for ever; never update these values."""
    header, children, plain = OPENER.open(bytes.fromhex(GOLDEN["raw"]))
    assert (header.tag, header.counter, header.flags) == (LEAF, 1, 0)
    assert (children, plain) == (children_of(1), b"golden")
    header, children, plain = OPENER.open(bytes.fromhex(GOLDEN["zstd"]))
    assert (header.tag, header.counter, header.flags) == (DATA, 2, frame.ZSTD)
    assert (children, plain) == (b"", b"golden " * 20)


def test_a_sealer_makes_the_golden_frame():
    sealer = Sealer(KEYS, "off")
    sealer._context = b"c" * 16
    assert sealer.seal(LEAF, b"golden", children_of(1))[1].hex() == GOLDEN["raw"]


# Nothing else opens.


@pytest.mark.parametrize(("tag", "children"), [(DATA, b""), (LEAF, children_of(2))])
@pytest.mark.parametrize("plain", [b"", b"incompressible", b"text " * 40])
def test_every_flipped_bit_is_refused(tag, children, plain):
    id, raw = SEALER.seal(tag, plain, children)
    for bit in range(8 * len(raw)):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises((FormatError, SealBroken, IdMismatch)):
            OPENER.open(flipped, (tag, id))


def test_every_flipped_bit_is_refused_when_the_checksums_fit_it():
    _, raw = SEALER.seal(PAGE, b"text " * 40, children_of(2))
    checks = range(HEAD - 20, HEAD)
    for bit in range(8 * len(raw)):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        if bit // 8 not in checks:
            with pytest.raises((IntegrityError, NewerFormat)):
                OPENER.open(with_checks(flipped))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", Kind.INDEX),
        ("level", 2),
        ("flags", frame.ZSTD),
        ("flags", 0x100),  # what a reader may ignore is sealed all the same
        ("plain_length", 99),
        ("epoch", OLD_EPOCH),
        ("generation", 1),
        ("context", b"x" * 16),
        ("counter", 2**63),
        ("id", b"x" * 32),
    ],
)
def test_every_field_of_the_header_is_under_the_seal(field, value):
    _, raw = SEALER.seal(LEAF, b"plain", children_of(2))
    (header, children, payload), _ = frame.decode(raw)
    with pytest.raises(SealBroken):
        OPENER.open(frame.encode(header._replace(**{field: value}), children, payload))


def test_bytes_cannot_move_between_child_list_and_payload():
    _, raw = SEALER.seal(LEAF, bytes(range(100)), children_of(2))
    (header, _, _), _ = frame.decode(raw)
    moved = header._replace(child_count=1, payload_length=header.payload_length + 33)
    with pytest.raises(SealBroken):
        OPENER.open(with_checks(frame.encode_header(moved) + raw[HEAD:]))


def test_another_child_list_breaks_the_seal():
    """Hazard: a lost or swapped child is noticed before anybody follows the list."""
    _, raw = SEALER.seal(LEAF, b"plain", children_of(2))
    (header, children, payload), _ = frame.decode(raw)
    one, two = children[:33], children[33:]
    for other in (two + one, one + one, one + children_of(3)[66:]):
        with pytest.raises(SealBroken):
            OPENER.open(frame.encode(header, other, payload))
    with pytest.raises(SealBroken):
        OPENER.open(frame.encode(header._replace(child_count=1), one, payload))


def test_the_id_covers_the_child_list_too():
    """A member of the domain can seal anything, but not under an ID of something else."""
    id = id_of(b"plain", LEAF, children_of(2))
    raw = forged(b"plain", 5, 0, children_of(1), LEAF, id)
    with pytest.raises(IdMismatch, match="other content"):
        OPENER.open(raw)
    raw = forged(b"other", 5, 0, children_of(2), LEAF, id)
    with pytest.raises(IdMismatch, match="other content"):
        OPENER.open(raw)
    assert OPENER.open(forged(b"plain", 5, 0, children_of(2), LEAF, id))[2] == b"plain"


def test_another_domain_opens_nothing_even_with_the_same_keys():
    _, raw = SEALER.seal(DATA, b"plain")
    with pytest.raises(SealBroken):
        Opener(KEYS._replace(domain=b"D" * 16)).open(raw)


def test_epochs_and_generations_open_while_the_keyring_has_them():
    old = Sealer(KEYS._replace(epoch=OLD_EPOCH, generation=1))
    id, raw = old.seal(DATA, b"plain")
    assert OPENER.open(raw, (DATA, id))[2] == b"plain"
    assert id != id_of(b"plain")
    with pytest.raises(SealBroken, match=f"epoch {OLD_EPOCH.hex()} is not in the keyring"):
        Opener(KEYS._replace(seal_keys={EPOCH: KEYS.seal_keys[EPOCH]})).open(raw)
    with pytest.raises(SealBroken, match="generation 1 is not in the keyring"):
        Opener(KEYS._replace(id_keys={2: KEYS.id_keys[2]})).open(raw)
    with pytest.raises(SealBroken):
        Opener(KEYS._replace(seal_keys={OLD_EPOCH: b"x" * 32})).open(raw)


def test_what_was_not_asked_for_is_refused_however_sound_it_is():
    id, raw = SEALER.seal(DATA, b"plain")
    for asked in ((DATA, id_of(b"other")), (PAGE, id), (LEAF, id)):
        with pytest.raises(IdMismatch, match="asked for"):
            OPENER.open(raw, asked)


def test_a_frame_stands_alone():
    _, raw = SEALER.seal(DATA, b"plain")
    for other in (raw[:-1], raw + b"x", raw + raw, raw[1:], b"", raw[:HEAD]):
        with pytest.raises(FormatError):
            OPENER.open(other)


def test_the_null_id_is_never_sealed_and_never_opened():
    with pytest.raises(IdMismatch, match="null ID"):
        SEALER.seal_into(memoryview(bytearray(1000)), DATA, NULL_ID, b"plain")
    with pytest.raises(FormatError):
        OPENER.open(forged(b"plain", 5, 0, id=NULL_ID))


# Compressed data that would be too much, or more than one thing.

TEXT = b"text " * 1000
PACKED = zstandard.ZstdCompressor().compress(TEXT)


def hand_made(content_size, blocks, window_log=20, single=False, dictionary=False):
    """A zstd frame of (type, size, bytes) blocks: RFC 8878, 3.1.1."""
    descriptor = 2 << 6 | single << 5 | dictionary
    window = b"" if single else bytes([(window_log - 10) << 3])
    head = b"\x28\xb5\x2f\xfd" + bytes([descriptor]) + window + b"\x09" * dictionary
    raw = head + content_size.to_bytes(4, "little")
    for number, (kind, size, content) in enumerate(blocks, 1):
        raw += (size << 3 | kind << 1 | (number == len(blocks))).to_bytes(3, "little") + content
    return raw


RAW, RLE = 0, 1
BOMBS = {
    "no content size": (
        zstandard.ZstdCompressor(write_content_size=False).compress(TEXT), len(TEXT)
    ),
    "more than the header says": (PACKED, len(TEXT) - 1),
    "less than the header says": (PACKED, len(TEXT) + 1),
    "nothing": (b"", 100),
    "no zstd": (b"no zstd at all", 100),
    "a trailing byte": (PACKED + b"x", len(TEXT)),
    "two frames": (PACKED + PACKED, len(TEXT)),
    "two frames, of twice the size": (PACKED + PACKED, 2 * len(TEXT)),
    "a skippable frame behind": (PACKED + b"\x50\x2a\x4d\x18" + bytes(4), len(TEXT)),
    "a skippable frame before": (b"\x50\x2a\x4d\x18" + bytes(4) + PACKED, len(TEXT)),
    "a skippable frame alone": (b"\x50\x2a\x4d\x18\x05\0\0\0abcde", 5),
    "an empty frame": (zstandard.ZstdCompressor().compress(b""), 0),
    "an empty frame and more": (zstandard.ZstdCompressor().compress(b"") + PACKED, 0),
    "an empty skippable frame and more": (b"\x50\x2a\x4d\x18" + bytes(4) + b"more", 0),
    "a window of 16 MiB": (hand_made(5, [(RAW, 5, b"plain")], 24), 5),
    "a window of 2 GiB": (hand_made(5, [(RAW, 5, b"plain")], 31), 5),
    "a dictionary": (hand_made(5, [(RAW, 5, b"plain")], dictionary=True), 5),
    "less content than it says": (hand_made(6, [(RAW, 5, b"plain")]), 6),
    "more content than it says": (hand_made(4, [(RAW, 5, b"plain")]), 4),
    "a reserved block": (hand_made(5, [(3, 5, b"plain")]), 5),
    "4 GiB": (hand_made(2**32 - 1, [(RLE, 2**17, b"x")] * 100, 23), frame.MAX_PLAIN),
    "4 GiB in one segment": (hand_made(2**32 - 1, [(RLE, 2**17, b"x")], single=True), 2**17),
    "12 MiB behind 4 MiB": (hand_made(2**22, [(RLE, 2**17, b"x")] * 100, 23), frame.MAX_PLAIN),
    "cut short": (PACKED[:-1], len(TEXT)),
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_compressed_data_beyond_the_limits_is_refused(bomb):
    packed, length = bomb
    raw = forged(packed, length)
    opener = Opener(KEYS)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            opener.open(raw)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < frame.MAX_PLAIN + 2**17


def test_the_hand_made_frames_are_sound_where_they_should_be():
    for packed in (hand_made(5, [(RAW, 5, b"plain")]), hand_made(5, [(RLE, 5, b"x")], 23)):
        plain = zstandard.ZstdDecompressor().decompress(packed)
        assert OPENER.open(forged(packed, 5, id=id_of(plain)))[2] == plain


def test_raw_payload_of_another_length_is_refused():
    for length in (0, 4, 6, 999):
        with pytest.raises(FormatError):
            OPENER.open(forged(b"plain", length, 0, id=id_of(b"plain")))


@given(st.binary(max_size=400))
@settings(max_examples=300)
def test_whatever_is_under_a_good_seal_raises_nothing_but_sorted_errors(packed):
    with pytest.raises((FormatError, IdMismatch)):
        OPENER.open(forged(packed, 300))


# The check after sealing reads the very buffer that is sent.


class BadMemory(Opener):
    """Flips one bit of the buffer after it was sealed and before it is opened again."""

    at = 0

    def open(self, raw, expected=None):
        raw[self.at] ^= 16
        return super().open(raw, expected)

    def compare(self, raw, expected, packed):
        raw[self.at] ^= 4
        super().compare(raw, expected, packed)


@pytest.mark.parametrize("check", ["all", "sampled"])
@pytest.mark.parametrize("compression", ["auto", "off"])
def test_a_bit_that_flips_in_the_buffer_is_noticed_wherever_it_is(compression, check):
    sealer = Sealer(KEYS, compression, check)
    tag, plain, children = (LEAF, b"text " * 20, children_of(1))
    if check == "sampled":
        tag, children = DATA, b""
    out = memoryview(bytearray(frame_room(len(plain), len(children))))
    id = sealer.id_of(tag, children, plain)
    length = sealer.seal_into(out, tag, id, plain, children)
    sealer._opener = memory = BadMemory(KEYS)
    for memory.at in range(length):
        with pytest.raises(IntegrityError, match="just sealed does not open") as caught:
            sealer.seal_into(out, tag, id, plain, children)
        assert "memory" in caught.value.hint
        with pytest.raises(IntegrityError):  # it was no copy that was opened
            OPENER.open(out[:length])


def test_content_that_changed_since_it_was_identified_is_noticed():
    plain = bytearray(os.urandom(5000))
    id = SEALER.id_of(DATA, b"", plain)
    plain[2500] ^= 1
    with pytest.raises(IdMismatch, match="just sealed"):
        SEALER.seal_into(memoryview(bytearray(6000)), DATA, id, plain)


class BadCompressor:
    def compress(self, plain):
        return zstandard.ZstdCompressor().compress(plain[:-1] + b"!")


def test_a_compressor_that_errs_is_noticed():
    sealer = Sealer(KEYS)
    sealer._compress = BadCompressor()
    with pytest.raises(IdMismatch, match="just sealed"):
        sealer.seal(DATA, TEXT)


# One key for one message.


def key_and_nonce(raw):
    header = frame.decode_header(raw)
    unchecked = frame.unchecked_header(header)
    return keys.frame_key(KEYS.seal_keys[header.epoch], unchecked), header.counter


def test_a_sealer_counts_and_never_repeats():
    raws = [Sealer(KEYS).seal(DATA, b"x")[1] for _ in range(50)]
    raws += [SEALER.seal(DATA, b"x")[1] for _ in range(50)]
    headers = [frame.decode_header(raw) for raw in raws]
    assert len({header.context for header in headers}) == 51
    counters = [header.counter for header in headers[50:]]
    assert counters == list(range(counters[0], counters[0] + 50))
    assert len(set(map(key_and_nonce, raws))) == 100


@given(st.lists(st.binary(min_size=1, max_size=50), min_size=2, max_size=4, unique=True))
def test_a_machine_rewound_to_a_snapshot_repeats_no_key_for_other_content(plains):
    """Hazard: context and counter are copied with the memory; the content is in the key."""
    sealer = Sealer(KEYS)
    snapshots = [copy.copy(sealer) for _ in plains]
    raws = [each.seal(DATA, plain)[1] for each, plain in zip(snapshots, plains, strict=True)]
    places = {frame.decode_header(raw)[8:10] for raw in raws}
    assert len(places) == 1  # the same context and counter
    assert len(set(map(key_and_nonce, raws))) == len(plains)


def test_a_rewound_machine_seals_the_same_content_to_the_same_bytes():
    sealer = Sealer(KEYS)
    again = copy.copy(sealer)
    assert sealer.seal(PAGE, TEXT, children_of(3)) == again.seal(PAGE, TEXT, children_of(3))


def test_a_rewound_machine_repeats_no_key_for_another_encoding_kind_or_list():
    sealer = Sealer(KEYS)
    snapshots = [copy.copy(sealer) for _ in range(4)]
    snapshots[1]._level = 0
    raws = [
        snapshots[0].seal(PAGE, TEXT)[1],
        snapshots[1].seal(PAGE, TEXT)[1],
        snapshots[2].seal(PAGE, TEXT, children_of(1))[1],
        snapshots[3].seal(tag_of(Kind.INDEX, 1), TEXT, children_of(2))[1],
    ]
    assert len(set(map(key_and_nonce, raws))) == 4


def test_keys_are_not_shown():
    shown = f"{KEYS} {KEYS!r} {[KEYS]}"
    assert DOMAIN.hex()[:8] in shown
    for key in [*KEYS.id_keys.values(), *KEYS.seal_keys.values()]:
        assert str(key)[2:-1] not in shown and key.hex() not in shown


def blocks_that_pass(sealer, count, tag=DATA):
    """The numbers of those that were sealed."""
    passed = []
    for number in range(count):
        plain = b"%d" % number * 1000
        try:
            sealer.seal(tag, plain)
        except IntegrityError:
            continue
        passed.append(number)
    return passed


@pytest.mark.parametrize(
    ("check", "tag", "passing"),
    [
        ("all", DATA, []),
        ("sampled", DATA, [n for n in range(40) if n % 16]),
        ("sampled", PAGE, []),  # a node stands for many blocks
    ],
)
def test_what_is_opened_in_full_is_found_to_be_something_else(check, tag, passing):
    sealer = Sealer(KEYS, check=check)
    sealer._compress = BadCompressor()
    assert blocks_that_pass(sealer, 40, tag) == passing


@given(st.lists(st.binary(min_size=1, max_size=9000), min_size=1, max_size=20))
@settings(max_examples=30)
def test_sampled_frames_open_as_all_others(blocks):
    sealer = Sealer(KEYS, check="sampled")
    for block in blocks:
        id, raw = sealer.seal(DATA, memoryview(block))
        assert OPENER.open(raw, (DATA, id))[2] == block


def test_what_decrypts_to_something_else_than_was_encrypted_is_refused():
    """Also to something that begins like it, or is longer."""
    plain = b"block" * 20
    id, raw = Sealer(KEYS, "off").seal(DATA, plain)
    opener = Opener(KEYS)
    opener.compare(raw, (DATA, id), plain)
    for other in (plain[:-1], plain + b"!", plain[:-1] + b"!"):
        with pytest.raises(SealBroken, match="something else"):
            opener.compare(raw, (DATA, id), other)


def test_a_level_holds_from_the_next_block_on():
    sealer, plain = Sealer(KEYS), b"".join(b"line %d\n" % (n * n) for n in range(20_000))
    lengths = []
    for level in (3, 12, 0, 3):
        sealer.set_level(level)
        id, raw = sealer.seal(DATA, plain)
        assert OPENER.open(raw, (DATA, id))[2] == plain
        lengths.append(len(raw))
    assert lengths[1] < lengths[0] == lengths[3] < len(plain) < lengths[2]
