"""The uniqueness scan: a real vault has no key and nonce twice, and the scan would see them."""

import contextlib
import io
import os

import pytest

from transfer.cli.main import main
from transfer.crypto import keys
from transfer.formats import frame, record
from transfer.formats.reference import Kind, tag_of
from transfer.jobs import keyring as keyrings
from transfer.pipeline.seal_scan import clashes, in_pack, in_point, place_of, sealing_of
from transfer.pipeline.sealing import Sealer, SealKeys

PASSPHRASE = "correct horse battery staple"
DATA = tag_of(Kind.DATA)
FILES, DISK = 400, 24 * 2**20
KEYS = SealKeys(b"d" * 16, 1, b"epoch-01", {1: b"i" * 32}, {b"epoch-01": b"s" * 32})


def run(top, *words):
    common = "--vault", top / "vault", "--state", top / "state", "--passphrase-file", top / "secret"
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main([*map(str, (*words, *common)), "--json"]) == 0, said.getvalue()


@pytest.fixture(scope="module")
def vault(tmp_path_factory):
    """Four runs, with processes and with threads, in two epochs and two generations."""
    top = tmp_path_factory.mktemp("scan")
    (top / "secret").write_text(PASSPHRASE)
    tree = top / "tree"
    for number in range(FILES):
        # In one directory they would share blocks.
        (tree / f"directory {number}").mkdir(parents=True)
        name = f"directory {number}/file {number}"
        (tree / name).write_bytes(os.urandom(20_000 + number))
    (top / "disk").write_bytes(os.urandom(DISK))
    run(top, "backup", "home", tree, "--workers", 3)
    for path in sorted(tree.rglob("file *"))[::2]:
        path.write_bytes(path.name.encode() * 9000)
    run(top, "backup", "home", tree, "--workers", 0)
    run(top, "key", "rotate")
    run(top, "backup", "vm", top / "disk", "--workers", 2, "--block-size", "64K")
    (top / "newer").write_text("a completely different sentence")
    run(top, "key", "rotate", "--hard", "--new-passphrase-file", top / "newer")
    (top / "newer").rename(top / "secret")
    run(top, "backup", "home", tree, "--workers", 2)
    return top / "vault"


def headers_of(vault):
    for path in sorted((vault / "packs").rglob("*")):
        if path.is_file():
            yield from in_pack(path.read_bytes())
    for path in sorted((vault / "records" / "points").rglob("*")):
        if path.is_file():
            yield from in_point(record.decode_point(path.read_bytes()).point)


def test_a_vault_of_many_sealers_has_no_key_and_nonce_twice(vault):
    headers = list(headers_of(vault))
    epochs = {header.epoch for header in headers}
    assert len(epochs) == 3
    assert not list(clashes(headers))
    assert not list(clashes(headers, place_of))
    # Each frame was sealed once, so there are no copies to be overlooked either.
    assert len(set(map(sealing_of, headers))) == len(set(map(place_of, headers))) == len(headers)
    assert len(headers) > 2.5 * FILES + DISK // 2**16
    for epoch in epochs:
        assert len({header.context for header in headers if header.epoch == epoch}) > 1
    assert {header.generation for header in headers} == {1, 2}
    assert {header.kind for header in headers} >= {Kind.DATA, Kind.PAGE, Kind.STREAM, Kind.POINT}


def test_no_derived_key_meets_a_nonce_twice(vault):
    """What the scan concludes from headers, computed with the keys themselves."""
    path = max((vault / "records" / "keyrings").rglob("0*"))
    raw = record.decode(path.read_bytes(), record.RecordKind.KEYRING)
    secret = keyrings.Secret(lambda new: "a completely different sentence")
    seal_keys = keyrings.open_keyring(raw, secret).seal_keys().seal_keys
    derived = [
        (keys.frame_key(seal_keys[header.epoch], frame.unchecked_header(header)), header.counter)
        for header in headers_of(vault)
    ]
    assert len(set(derived)) == len(derived) > 300


def sealed(*plains, context=None):
    """A frame of each, by one sealer each; with *context* they are all at the same place."""
    for plain in plains:
        sealer = Sealer(KEYS)
        if context is not None:
            sealer._context = context
        yield sealer.seal(DATA, plain)[1]


def scanned(*frames):
    return [header for raw in frames for header in in_pack(bytes(44) + raw)]


def test_a_context_that_is_not_random_is_caught():
    headers = scanned(*sealed(b"one", b"two", b"three"))
    assert not list(clashes(headers, place_of))
    headers = scanned(*sealed(b"one", b"two", b"three", context=b"c" * 16))
    assert len(list(clashes(headers, place_of))) == 2
    assert not list(clashes(headers))  # and yet no key was used twice: the content is in it


def test_other_content_under_one_key_and_nonce_is_caught():
    (raw,) = sealed(b"the content")
    (header, children, payload), _ = frame.decode(raw)
    other = frame.encode(header, children, bytes(len(payload)))
    (pair,) = clashes(scanned(raw, other))
    assert pair[0].checksum != pair[1].checksum


@pytest.mark.parametrize("field", sorted(set(frame.Header._fields) - {"checksum"}))
def test_what_differs_in_any_field_is_no_clash(field):
    (raw,) = sealed(b"the content")
    header = frame.decode_header(raw)
    value = getattr(header, field)
    changed = header._replace(**{field: value + 1 if isinstance(value, int) else bytes(len(value))})
    assert not list(clashes([header, changed]))


def test_a_copy_is_no_clash():
    raws = list(sealed(b"one", b"two"))
    assert not list(clashes(scanned(*raws, *raws)))
    assert not list(clashes(scanned(*raws, *raws), place_of))
