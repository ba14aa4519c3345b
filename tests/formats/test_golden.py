"""Bytes that version 1 wrote stay readable for ever, and what is wrong with them stays wrong.

The files in tests/golden belong together: the keyring opens with its passphrase, its keys open the
frames, which stand in the packs; the point's root is the index among them. Nothing writes these
files: a test that fails here has found a change of a frozen format.
"""

import tomllib
from pathlib import Path

import pytest
from blake3 import blake3

from tests.formats.strategies import DATA, INDEX, LEAF, PAGE, POINT, flip
from transfer.crypto import certificates, keys, signing
from transfer.errors import CredentialRefused, FormatError, NewerFormat, WrongPassphrase
from transfer.formats import (
    credential,
    directory,
    frame,
    journal,
    keyring,
    pack,
    point,
    record,
    stream,
)
from transfer.formats.credential import Credential, CredentialKind
from transfer.formats.entry import (
    Entry,
    FileType,
    Inline,
    Root,
    Slice,
    decode_xattrs,
    encode_xattrs,
)
from transfer.formats.features import FeatureBits
from transfer.formats.journal import Begin, End, PointPosted, Read, Stored
from transfer.formats.point import Consistency, Counts, Mark, PointDetails
from transfer.formats.record import (
    BadCopy,
    CertificateState,
    CopyState,
    CredentialRecord,
    IssuedCertificate,
    MachineRecord,
    RecordKind,
)
from transfer.formats.reference import Reference
from transfer.formats.stream import FIXED, Descriptor
from transfer.jobs.keyring import Secret, open_keyring
from transfer.pipeline.sealing import Opener

ERRORS = {
    "CredentialRefused": CredentialRefused,
    "FormatError": FormatError,
    "NewerFormat": NewerFormat,
}
BYTES = {"raw", "plain", "children", "root"}
WHY = {"what", "error", "message", "records", "good_length"}
TIME = 1_700_000_000 * 10**9
MACHINE, TEXT, TAIL = b"machine ID of 16", b"a golden block of text\n", b"tail\n"
LENGTH = 3 * 65536 + len(TAIL)


def read(name):
    path = Path(__file__).parents[1] / "golden" / f"{name}-1.toml"
    return tomllib.loads(path.read_text())


def unhexed(table):
    return {name: bytes.fromhex(v) if name in BYTES else v for name, v in table.items()}


def golden(name):
    """What is good in the file; every value of hexadecimal digits is bytes."""
    found = read(name)["good"]
    if any(isinstance(value, dict) for value in found.values()):
        return {key: unhexed(value) for key, value in found.items()}
    return {key: bytes.fromhex(value) for key, value in found.items()}


def bad_ones(name):
    return [pytest.param(unhexed(one), id=f"{name}: {one['what']}") for one in read(name)["bad"]]


def decode_node(level, slots, plain, children):
    return stream.decode_node(level, plain, children, slots)


def decode_directory(plain, children, level=0):
    if level:
        return directory.decode_index(level, plain, children)
    return directory.decode_page(plain, children)


def decode_record(kind, raw):
    decode = {
        RecordKind.TOMBSTONE: record.decode_tombstone,
        RecordKind.DAMAGE: record.decode_damage,
        RecordKind.MACHINE: record.decode_machine,
        RecordKind.CREDENTIAL: record.decode_credential,
    }
    return decode[kind](raw) if kind in decode else record.decode(raw, RecordKind(kind))


def decode_pack(raw):
    return pack.decode_header(raw), pack.decode_trailer(raw)


DECODERS = {
    "frame": lambda raw: frame.decode(raw),
    "stream": decode_node,
    "directory": decode_directory,
    "point": lambda raw: point.decode(raw),
    "keyring": lambda raw: keyring.decode(raw),
    "record": decode_record,
    "journal": lambda raw: journal.decode_all(raw),
    "pack": decode_pack,
    "credential": lambda raw: credential.decode(raw),
}


@pytest.mark.parametrize(
    ("name", "bad"),
    [pytest.param(name, *one.values, id=one.id) for name in DECODERS for one in bad_ones(name)],
)
def test_what_is_damaged_is_refused_for_the_same_reason_for_ever(name, bad):
    given = {key: value for key, value in bad.items() if key not in WHY}
    if "good_length" in bad:  # a torn journal is no error
        found = journal.decode_all(**given)
        assert (len(found.records), found.good_length) == (bad["records"], bad["good_length"])
    else:
        with pytest.raises(ERRORS[bad["error"]], match=bad["message"]):
            DECODERS[name](**given)


# Keyring and frames.


@pytest.fixture(scope="module")
def opened():
    """The third keyring, opened with the passphrase."""
    found = read("keyring")["good"]
    return open_keyring(bytes.fromhex(found["third"]), Secret(lambda _: found["passphrase"]))


@pytest.fixture(scope="module")
def opener(opened):
    return Opener(opened.seal_keys())


def test_the_first_keyring_opens_with_its_passphrase(opened):
    found = read("keyring")["good"]
    first = open_keyring(bytes.fromhex(found["first"]), Secret(lambda _: found["passphrase"]))
    assert (first.keyring.version, len(first.keyring.epochs)) == (1, 1)
    assert (first.domain, first.key) == (opened.domain, opened.key)
    assert first.secrets.id_keys == opened.secrets.id_keys
    assert first.secrets.seal_keys.items() < opened.secrets.seal_keys.items()


def test_the_third_keyring_opens_with_its_recovery_key_too(opened):
    found = read("keyring")["good"]
    raw = bytes.fromhex(found["third"])
    again = open_keyring(raw, Secret(lambda _: "", found["recovery_key"]))
    assert (again.keyring, again.secrets) == (opened.keyring, opened.secrets)
    assert opened.secrets.signing_key.hex() == found["signing_key"]
    assert opened.secrets.current_epoch.hex() == found["current_epoch"]
    assert opened.domain == signing.domain_id(opened.keyring.public_key)
    body = opened.keyring.body
    assert [wrap.kind for wrap in body.wraps] == ["passphrase", "recovery"]
    assert [wrap.made_in for wrap in body.wraps] == [1, 2]
    assert {(wrap.memory, wrap.passes, wrap.lanes) for wrap in body.wraps} == {(65536, 3, 1)}
    assert [name.generation for name in body.epochs] == [1, 1]
    assert (body.version, body.features) == (3, keyring.Features())
    assert keyring.signed_part(body) + opened.keyring.signature == raw


def test_another_passphrase_opens_no_golden_keyring():
    with pytest.raises(WrongPassphrase):
        open_keyring(
            bytes.fromhex(read("keyring")["good"]["first"]),
            Secret(lambda _: "another golden passphrase"),
        )


FRAMES = golden("frame")
XATTRS = ((b"user.long", b"v" * 5000),)
OPENED = {
    "data_zstd": (DATA, (TEXT * 2850)[:65536], frame.ZSTD),
    "data_raw": (DATA, TAIL, 0),
    "xattrs": (DATA, encode_xattrs(XATTRS), frame.ZSTD),
    "node": (LEAF, golden("stream")["node"]["plain"], 0),
    "page_without_children": (PAGE, golden("directory")["inner_page"]["plain"], 0),
    "page": (PAGE, golden("directory")["first_page"]["plain"], 0),
    "page_zstd": (PAGE, golden("directory")["second_page"]["plain"], frame.ZSTD),
    "index": (INDEX, golden("directory")["index"]["plain"], 0),
}
CHILDREN = {
    "node": golden("stream")["node"]["children"],
    "page": golden("directory")["first_page"]["children"],
    "page_zstd": golden("directory")["second_page"]["children"],
    "index": golden("directory")["index"]["children"],
}


def reference_of(name):
    return frame.decode_header(FRAMES[name]).reference


@pytest.mark.parametrize("name", OPENED)
def test_a_frame_opens(name, opener, opened):
    tag, plain, flags = OPENED[name]
    header, children, found = opener.open(FRAMES[name])
    assert (header.tag, header.flags, header.generation) == (tag, flags, 1)
    assert header.epoch == opened.secrets.current_epoch
    assert (found, children) == (plain, CHILDREN.get(name, b""))
    assert header.frame_length == len(FRAMES[name])


@pytest.mark.parametrize("name", OPENED)
def test_every_cut_of_a_frame_asks_for_more_and_every_flipped_bit_is_noticed(name):
    raw = FRAMES[name]
    assert all(frame.decode(raw[:end]) is None for end in range(len(raw)))
    for bit in range(8 * len(raw)):
        with pytest.raises(FormatError):
            frame.decode(flip(raw, bit))


def test_a_frame_is_encoded_as_it_was():
    for raw in FRAMES.values():
        (header, children, payload), _ = frame.decode(raw)
        assert frame.encode(header, children, payload) == raw


# What they hold.

NODE = Descriptor(LENGTH, 65536, FIXED, reference_of("node"))


def entry(name, type, mode, content=None, uid=0, gid=0, mtime=TIME, ctime=TIME, **fields):
    return Entry(name, type, mode, uid, gid, mtime, ctime, content, **fields)


PAGES = {
    "inner_page": [entry(b"inside", FileType.FILE, 0o600, Inline(b"no children here"))],
    "first_page": [
        entry(b"block", FileType.BLOCK, 0o660, gid=6, mtime=TIME + 1, ctime=TIME + 2,
              device=(8, 1), user=b"root", group=b"disk"),
        entry(b"character", FileType.CHARACTER, 0o666),
        entry(b"directory", FileType.DIRECTORY, 0o755, Root(reference_of("page_without_children")),
              1000, 1000, mtime=-1),
        entry(b"disk", FileType.DISK, 0o600, NODE, sparse=True),
        entry(b"empty", FileType.DIRECTORY, 0o1777, Root(None)),
    ],
    "second_page": [
        entry(b"fifo", FileType.FIFO, 0o600, None, 1, 2),
        entry(b"inline", FileType.FILE, 0o4755, Inline(b"small"), 1000, 100,
              mtime=TIME + 999_999_999, xattrs=((b"security.x", b"\0\1"), (b"user.a", b"")),
              user=b"user", group=b"users", handle=b"handle"),
        entry(b"slice", FileType.FILE, 0o644, Slice(reference_of("data_zstd"), 2, 6), 1000, 100,
              link_group=b"g" * 16),
        entry(b"stream", FileType.FILE, 0o644, NODE, 2**32 - 2, sparse=True,
              xattr_stream=Descriptor(len(encode_xattrs(XATTRS)), 65536, FIXED,
                                      reference_of("xattrs"))),
        entry(b"symlink \xff", FileType.SYMLINK, 0o777, target=b"../else\xffwhere"),
        entry(b"zeros", FileType.FILE, 0o644, Descriptor(2**40, 2**20, FIXED, None)),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_what_it_said(name):
    found = golden("directory")[name]
    assert directory.decode_page(**found) == PAGES[name]
    assert directory.encode_page(PAGES[name]) == (found["plain"], found["children"])


def test_a_page_says_what_the_content_of_its_slices_was():
    block, found = reference_of("data_zstd"), golden("directory_content_id")["page"]
    page = [
        entry(b"with", FileType.FILE, 0o644, Slice(block, 2, 6, b"content ID of 16"), 1000, 100,
              user=b"user", handle=b"handle"),
        entry(b"without", FileType.FILE, 0o644, Slice(block, 0, 2)),
    ]  # fmt: skip
    assert directory.decode_page(**found) == page
    assert directory.encode_page(page) == (found["plain"], found["children"])


def test_the_pages_hold_an_entry_of_each_type_and_content():
    everything = [each for page in PAGES.values() for each in page]
    assert {each.type for each in everything} == set(FileType)
    assert {type(each.content) for each in everything} == {
        Inline, Descriptor, Slice, Root, type(None)
    }  # fmt: skip
    assert decode_xattrs(OPENED["xattrs"][1]) == XATTRS


def test_the_index_says_what_it_said():
    found = golden("directory")["index"]
    index = [
        directory.IndexEntry(b"block", reference_of("page")),
        directory.IndexEntry(b"fifo", reference_of("page_zstd")),
    ]
    assert directory.decode_index(**found) == index
    assert directory.encode_index(1, index) == (found["plain"], found["children"])


def test_the_node_and_the_descriptor_say_what_they_said():
    node, raw = golden("stream")["node"], golden("stream")["descriptor"]["raw"]
    text, tail = reference_of("data_zstd").id, reference_of("data_raw").id
    slots = (text, None, text, tail)
    assert stream.decode_node(1, node["plain"], node["children"], 4) == slots
    assert stream.encode_node(1, slots) == (node["plain"], node["children"])
    assert stream.decode_descriptor(raw, [NODE.root]) == NODE
    assert stream.encode_descriptor(NODE, 1) == raw
    assert stream.slot_count(LENGTH, 65536, 1, 0) == 4


# The point and the records around it.


def test_the_point_opens_and_stands_on_the_index(opened, opener):
    raw, public_key = golden("point")["raw"], golden("point")["public_key"]
    found = point.decode(raw)
    assert (public_key, found.domain) == (opened.keyring.public_key, opened.domain)
    assert signing.verify(public_key, found.signature, found.signed_part)
    assert found.root == reference_of("index")
    assert found.item == keys.item_id(opened.first_key, MACHINE, "golden")
    assert (found.number, found.parent, found.generation) == (2, b"parent " + bytes(25), 1)
    assert (found.view_time, found.consistency) == (TIME, Consistency.CRASH)
    assert found.features == FeatureBits(1 << 63, 1)
    assert point.encode(found) == raw
    id_key = keys.id_key(opened.secrets.id_keys[1], POINT)
    body = point.encode_body(found) + found.sealed
    assert found.point_id == keys.frame_id(id_key, b"", body)
    assert point.decode_details(opener.open(found.sealed)[2]) == PointDetails(
        "golden", "machine", MACHINE, [b"/golden/\xff"], "transfer 1",
        Counts(4 * LENGTH, 4, 11, 0, 1), [Mark("tree", "00ff", b'{"moment":1}', 7)],
    )  # fmt: skip


def test_every_flipped_bit_of_the_point_is_noticed():
    raw, public_key = golden("point")["raw"], golden("point")["public_key"]
    for bit in range(8 * len(raw)):
        try:
            found = point.decode(flip(raw, bit))
        except (FormatError, NewerFormat):
            continue
        assert not signing.verify(public_key, found.signature, found.signed_part)


def test_every_flipped_bit_of_a_keyring_is_noticed():
    raw = bytes.fromhex(read("keyring")["good"]["first"])
    for bit in range(8 * len(raw)):
        try:
            found = keyring.decode(flip(raw, bit))
        except (FormatError, NewerFormat):
            continue
        assert not signing.verify(found.public_key, found.signature, found.signed_part)


BAD_COPIES = (
    BadCopy(DATA, reference_of("data_raw").id, b"golden data pack", 44, CopyState.SUSPECT),
    BadCopy(LEAF, reference_of("node").id, b"golden meta pack", 44, CopyState.DAMAGED),
)


VAULT, CREDENTIAL, TWO_DAYS = b"vault ID of 16 b", b"credential of 16", 2 * 86400 * 10**9


def golden_certificates():
    machine = record.decode_machine(golden("record")["machine"])
    return [certificates.read(one.der) for one in machine.certificates]


def golden_machine(domain):
    old, new = golden_certificates()
    issued = (
        IssuedCertificate(old.der, old.key, 3, CertificateState.REVOKED),
        IssuedCertificate(new.der, new.key, 7, CertificateState.USED),
    )
    return MachineRecord(
        MACHINE, "golden machine é", domain, "machine", TIME + 1, TIME + 2, "192.0.2.7", CREDENTIAL,
        issued, None,
    )  # fmt: skip


def golden_credential():
    return CredentialRecord(
        CREDENTIAL, bytes(range(32)), CredentialKind.FOR, MACHINE, 7, TIME, TIME + TWO_DAYS,
        golden_certificates()[1].key, MACHINE,
    )  # fmt: skip


def test_a_credential_says_what_it_said():
    raw = golden("credential")["raw"]
    found = credential.decode(raw, TIME + TWO_DAYS)
    assert found == Credential(
        VAULT, "https://vault.example:8443", found.cas, CREDENTIAL, bytes(range(32)),
        CredentialKind.FOR, "golden machine é", TIME + TWO_DAYS,
    )  # fmt: skip
    assert b'"expires_text": "2023-11-16T22:13:20Z"' in raw
    assert credential.encode(found) == raw
    new, old = map(certificates.read, found.cas)
    assert (new.ends, old.ends) == (TIME + 30 * certificates.YEAR,) * 2


def test_every_flipped_bit_of_a_credential_is_noticed():
    raw = golden("credential")["raw"]
    whole = credential.decode(raw)
    for bit in range(8 * len(raw)):
        try:
            found = credential.decode(flip(raw, bit))
        except (CredentialRefused, NewerFormat):
            continue
        assert found == whole  # a blank that is another blank


def test_the_golden_certificates_are_the_machines(opened):
    for one in golden_certificates():
        assert certificates.identity_of(one) == (MACHINE, opened.domain, "machine")


def test_the_records_say_what_they_said(opened):
    found, made = golden("record"), golden("point")["raw"]
    stored = record.PointRecord(made, 7, TIME + 5, 9)
    tombstone = record.Tombstone(opened.domain, point.decode(made).point_id, TIME)
    damage = record.Damage(opened.domain, BAD_COPIES)
    assert record.decode_point(found["point"]) == stored
    assert record.decode_tombstone(found["tombstone"]) == tombstone
    assert record.decode_damage(found["damage"]) == damage
    assert record.decode_machine(found["machine"]) == golden_machine(opened.domain)
    assert record.decode_credential(found["credential"]) == golden_credential()
    first = bytes.fromhex(read("keyring")["good"]["first"])
    assert record.decode(found["keyring"], RecordKind.KEYRING) == first
    assert found == {
        "point": record.encode_point(stored),
        "tombstone": record.encode_tombstone(tombstone),
        "damage": record.encode_damage(damage),
        "machine": record.encode_machine(golden_machine(opened.domain)),
        "credential": record.encode_credential(golden_credential()),
        "keyring": record.encode(RecordKind.KEYRING, first),
    }


@pytest.mark.parametrize("name", ["tombstone", "damage", "credential"])
def test_every_flipped_bit_and_every_cut_of_a_record_is_noticed(name):
    raw, kind = golden("record")[name], RecordKind[name.upper()]
    wrong = [flip(raw, bit) for bit in range(8 * len(raw))] + [raw[:end] for end in range(len(raw))]
    for each in wrong:
        with pytest.raises(FormatError):
            record.decode(each, kind)


def test_the_journal_says_what_it_said():
    made = point.decode(golden("point")["raw"])
    begin = Begin(b"vault ID of 16 b", 3, 9, made.item, made.parent, 1, 65536, b"view")
    stored = sorted(reference_of(name) for name in ("data_zstd", "data_raw", "node"))
    records = [
        begin, Stored(tuple(stored)), PointPosted(made.point_id), End(True),
        Begin(b"vault ID of 16 b", 3, 10, made.item, made.point_id, 1, 2**20),
    ]  # fmt: skip
    raw, in_doubt = golden("journal")["raw"], golden("journal")["in_doubt"]
    assert journal.decode_all(raw) == (records, len(raw))
    assert b"".join(map(journal.encode, records)) == raw
    assert journal.decode_all(in_doubt) == (records[:3], len(in_doubt))


def test_the_journal_says_what_was_read():
    blocks = [reference_of(name).id for name in ("data_zstd", "data_raw")]
    read = Read(
        ((b"key of 16 bytes.", (blocks[0], None, blocks[1])), (b"another of 16 b.", (None,)))
    )
    records = [Begin(b"vault ID of 16 b", 3, 9, b"item ID of 16 by", bytes(32), 1, 65536), read]
    raw = golden("journal_read")["raw"]
    assert journal.decode_all(raw) == (records, len(raw))
    assert b"".join(map(journal.encode, records)) == raw


def test_every_flipped_bit_of_the_journal_ends_the_reading():
    raw = golden("journal")["raw"]
    for bit in range(8 * len(raw)):
        assert journal.decode_all(flip(raw, bit)).good_length <= bit // 8


# Packs.

HELD = {
    "data": ["data_raw", "data_zstd", "xattrs"],
    "metadata": ["node", "page_without_children", "page", "page_zstd", "index"],
}
PACK_IDS = {"data": b"golden data pack", "metadata": b"golden meta pack"}


@pytest.mark.parametrize("name", HELD)
def test_a_closed_pack_holds_its_frames(name, opened):
    raw = golden("pack")[name]
    header = pack.PackHeader(opened.domain, pack.PackClass[name.upper()], PACK_IDS[name])
    assert pack.decode_header(raw) == header
    trailer = pack.decode_trailer(raw)
    assert pack.digest_holds(raw, trailer)
    held = {entry.reference: raw[entry.offset :][: entry.frame_length] for entry in trailer.entries}
    assert held == {reference_of(each): FRAMES[each] for each in HELD[name]}
    frames = b"".join(FRAMES[each] for each in HELD[name])
    before = pack.encode_header(header) + frames
    entries = [pack.entry_of(one.frame.header, one.offset) for one in pack.walk(before)]
    assert raw == before + pack.encode_trailer(entries, len(before), blake3(before))


def test_an_open_pack_is_the_closed_one_without_its_trailer():
    raw, closed = golden("pack")["open_data"], golden("pack")["data"]
    assert closed.startswith(raw)
    assert pack.decode_trailer(raw) is None
    found = list(pack.walk(raw))
    assert [one.frame.header.reference for one in found] == list(map(reference_of, HELD["data"]))
    assert found[-1].end == len(raw) == pack.decode_trailer(closed).index_at


def test_every_flipped_bit_of_a_closed_pack_is_noticed():
    raw = golden("pack")["data"]
    for bit in range(8 * len(raw)):
        damaged = flip(raw, bit)
        try:
            trailer = pack.decode_trailer(damaged)
        except FormatError:
            continue
        assert trailer is None or not pack.digest_holds(damaged, trailer)


def test_the_golden_point_comes_back_through_all_formats(opener):
    """As a restore finds it: point, index, pages, entries, stream, node, blocks."""
    copies = {}
    for raw in (golden("pack")["data"], golden("pack")["metadata"]):
        for found in pack.walk(raw):
            header = found.frame.header
            copies[header.reference] = raw[found.offset : found.end]

    def loaded(reference):
        return opener.open(copies[reference], tuple(reference))[:0:-1]

    root = point.decode(golden("point")["raw"]).root
    names = {}
    for _, page in directory.decode_index(root.level, *loaded(root)):
        names |= {each.name: each for each in directory.decode_page(*loaded(page))}
    assert list(names) == sorted(names) and len(names) == 11
    content = names[b"stream"].content
    slots = stream.decode_node(1, *loaded(content.root), 4)
    blocks = [bytes(65536) if id is None else loaded(Reference(DATA, id))[0] for id in slots]
    text = (TEXT * 2850)[:65536]
    assert b"".join(blocks) == text + bytes(65536) + text + TAIL
    (inside,) = directory.decode_page(*loaded(names[b"directory"].content.reference))
    assert inside.content == Inline(b"no children here")
