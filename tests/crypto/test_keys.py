"""Derived keys and IDs: each use has its own, and nothing can pass from one use to another."""

from hypothesis import given
from hypothesis import strategies as st

from transfer.crypto import keys
from transfer.formats import frame
from transfer.formats.reference import MAX_LEVEL, Kind, tag_of

MASTER = bytes(range(32))
TAGS = [tag_of(kind) for kind in (Kind.DATA, Kind.PAGE, Kind.POINT)] + [
    tag_of(kind, level) for kind in (Kind.STREAM, Kind.INDEX) for level in range(1, MAX_LEVEL + 1)
]
HEADER = frame.Header(1, 0, 1, 2, 3, 40, b"epoch-01", 5, b"c" * 16, 6, b"i" * 32)


def test_golden_ids():
    """Frames that are stored keep their IDs; never update these values."""
    key = keys.id_key(MASTER, tag_of(Kind.DATA))
    assert key.hex() == "15e197a2ba427d37825979e9af1507651a5fa650d9ebe11d321eaf7d6e74b941"
    assert (
        keys.frame_id(key, b"", b"plain").hex()
        == "2154c5941a65ef9dce004a9dbf2c5bed140757f06e535bbc4d8302f5f9341766"
    )
    assert (
        keys.frame_id(key, b"", b"").hex()
        == "d308c6b019e8dbeca6d92cd9558447a692efc766c66323913a6d8ed6c23eefd1"
    )
    assert (
        keys.frame_id(key, b"c" * 33, b"plain").hex()
        == "920734c8e83208df583aa6f1cc51ded5c69859324b51be4753d94734384d01cb"
    )


def test_golden_derivations():
    """What was derived once is in vaults; never update these values."""
    assert keys.name_hash(MASTER, b"name") == 0x7466F50FE7F3B3CB
    assert keys.item_id(MASTER, b"m" * 16, "item").hex() == "494a0dd4706dc6d46820018b270f3e9e"
    assert (
        keys.link_group(MASTER, b"filesys.", b"handle").hex() == "484f7855b24d49549e6a91e7757b3c36"
    )
    assert (
        keys.frame_key(MASTER, frame.unchecked_header(HEADER)).hex()
        == "b31fcc998ced61ed637ba6deff74528f1b3b38e8579517f09e3013f8a623d124"
    )


def test_each_kind_and_level_has_an_id_key_of_its_own():
    """Hazard: a file whose content is a node's child list must not get the node's ID."""
    derived = {keys.id_key(MASTER, tag) for tag in TAGS}
    assert len(derived) == len(TAGS) == 23
    assert len({keys.frame_id(key, b"", b"the same") for key in derived}) == len(TAGS)


def test_each_generation_has_ids_of_its_own():
    assert keys.id_key(MASTER, 16) != keys.id_key(bytes(32), 16)
    assert keys.item_id(MASTER, b"m" * 16, "item") != keys.item_id(bytes(32), b"m" * 16, "item")


@given(st.binary(max_size=200), st.integers(0, 4), st.integers(0, 4))
def test_no_byte_passes_between_child_list_and_plaintext(content, one, other):
    """Also not when one of the two frames has no children at all."""
    lists = [content[: 33 * count] for count in (one, other)]
    plains = [content[len(each) :] for each in lists]
    if lists[0] == lists[1]:
        return
    ids = {keys.frame_id(MASTER, *pair) for pair in zip(lists, plains, strict=True)}
    assert len(ids) == 2


@given(st.binary(max_size=100), st.integers(1, 3))
def test_a_childless_frame_cannot_spell_one_with_children(plain, count):
    children = b"\x10" * 33 * count
    spelled = children + plain + len(children).to_bytes(4, "little")
    assert keys.frame_id(MASTER, b"", spelled) != keys.frame_id(MASTER, children, plain)
    assert keys.frame_id(MASTER, b"", spelled[:-4]) != keys.frame_id(MASTER, children, plain)


def test_ids_are_the_same_for_every_kind_of_buffer():
    plain = bytes(range(256)) * 40
    ids = {keys.frame_id(MASTER, b"", kind(plain)) for kind in (bytes, bytearray, memoryview)}
    assert len(ids) == 1


def test_every_field_of_a_header_changes_the_frame_key_except_its_checks():
    changed = [
        HEADER._replace(**{name: value + 1 if isinstance(value, int) else b"x" * len(value)})
        for name, value in HEADER._asdict().items()
        if name != "checksum"
    ]
    derived = {keys.frame_key(MASTER, frame.unchecked_header(each)) for each in [HEADER, *changed]}
    assert len(derived) == 1 + len(changed) == 12
    checked = HEADER._replace(checksum=b"x" * 16)
    assert frame.unchecked_header(checked) == frame.unchecked_header(HEADER)


def test_a_link_group_cannot_shift_between_file_system_and_handle():
    assert keys.link_group(MASTER, b"ab", b"c") != keys.link_group(MASTER, b"a", b"bc")


def test_no_two_derivations_share_a_result():
    """All of a domain's derived values come from labels of which none begins another."""
    text = b"m" * 16
    derived = [
        keys.id_key(MASTER, 16)[:8],
        keys.name_hash(MASTER, text).to_bytes(8, "little"),
        keys.item_id(MASTER, text, "")[:8],
        keys.link_group(MASTER, b"", text)[:8],
        keys.frame_key(MASTER, text)[:8],
    ]
    assert len(set(derived)) == len(derived)
