"""Packs are read through a window, and give what a reading at once would give."""

import os
import random
import shutil
import tracemalloc
import zlib

import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.suites.vault import DOMAIN, begun, has, made_frame
from tests.vault.stored import opened, packs_of
from transfer.errors import NewerFormat
from transfer.formats import frame, pack
from transfer.formats.pack import PackClass, PackHeader
from transfer.vault import pack_file
from transfer.vault.base import fetched
from transfer.vault.open import open_vault
from transfer.vault.pack_file import PackFile, examine

HEADER = PackHeader(DOMAIN, PackClass.DATA, b"p" * 16)
HEAD = pack.encode_header(HEADER)
LONGEST = 400


@pytest.fixture
def small_window(monkeypatch):
    """No frame here has more than 400 bytes, so that a window need not."""
    monkeypatch.setattr(pack_file.frame, "MAX_FRAME", LONGEST)
    monkeypatch.setattr(pack_file, "_STEP", LONGEST)


def closed(frames):
    body = HEAD + frames
    entries = [pack.entry_of(one.frame.header, one.offset) for one in pack.walk(body)]
    return body + pack.encode_trailer(entries, len(body), blake3(body))


payloads = st.binary(min_size=16, max_size=LONGEST - frame.HEADER_SIZE)
noise = st.one_of(st.binary(max_size=900), st.just(frame.MAGIC), st.just(made_frame(1)[1][:150]))
parts = st.lists(st.tuples(payloads, noise, st.integers(0, 30)), max_size=12)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
@given(parts, st.booleans())
def test_a_window_finds_the_frames_that_the_whole_shows(tmp_path, small_window, parts, trailer):
    raw = HEAD
    for number, (payload, between, damage) in enumerate(parts, 1):
        one = bytearray(made_frame(number, payload=payload)[1])
        if damage < 10:
            one[damage * 13 % len(one)] ^= 1
        raw += bytes(one) + (between if damage < 20 else b"")
    raw = closed(raw[len(HEAD) :]) if trailer else raw
    file = tmp_path / "pack"
    file.write_bytes(raw)
    expected = list(pack.walk(raw))
    with PackFile(file) as opened_pack:
        found = list(opened_pack.frames())
        assert found == [pack.entry_of(one.frame.header, one.offset) for one in expected]
        assert opened_pack.cut == max([one.end for one in expected], default=len(HEAD))
        assert opened_pack.hash.digest() == blake3(raw[: opened_pack.cut]).digest()
        if trailer:
            assert opened_pack.digest() == opened_pack.trailer().digest
        else:
            assert opened_pack.trailer() is None


def test_reading_a_large_pack_stays_within_a_few_megabytes(tmp_path):
    frames = b"".join(made_frame(n, payload=bytes(2**20))[1] for n in range(1, 41))
    (tmp_path / "pack").write_bytes(closed(frames))
    del frames
    tracemalloc.start()
    contents = examine(tmp_path / "pack", HEADER)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(contents.entries), contents.faults) == (40, [])
    assert peak < 20 * 2**20


def footer_of(version, index_at, digest, count=0):
    """The check is right: only the digest tells whether it is a trailer's."""
    footer = pack.encode_footer(index_at, count, digest)
    footer = footer[:4] + bytes((version,)) + footer[5:-4]
    return footer + zlib.crc32(footer).to_bytes(4, "little")


@pytest.mark.parametrize("version", [1, 2])
async def test_an_open_pack_that_ends_like_a_closed_one_is_closed(tmp_path, version):
    """A client chooses what its payloads end with."""
    first = made_frame(1)
    index_at = pack.HEADER_SIZE + len(first[1]) + frame.HEADER_SIZE + 500
    header = frame.decode_header(made_frame(99)[1])
    index = pack.encode_index([pack.entry_of(header, pack.HEADER_SIZE)])
    imitated = index + footer_of(version, index_at, bytes(32), 1)
    async with opened(tmp_path / "vault", create=True) as vault:
        session = await begun(vault)
        made = first, made_frame(2, payload=bytes(500) + imitated)
        await vault.store(session, b"".join(raw for _, raw in made))
        crashed = shutil.copytree(tmp_path / "vault", tmp_path / "crashed")
    async with opened(crashed) as vault:
        session = await begun(vault, None)
        assert await has(vault, session, *(one for one, _ in made)) == [True, True]
        assert await fetched(vault, session, [one for one, _ in made]) == [raw for _, raw in made]
    (only,) = packs_of(crashed)
    raw = only.read_bytes()
    assert raw.endswith(imitated) is False
    assert pack.digest_holds(raw, pack.decode_trailer(raw))


async def test_a_pack_of_a_later_version_is_refused_and_left_alone(tmp_path):
    await (await open_vault(tmp_path / "vault", create=True)).close()
    body = HEAD + made_frame(1)[1]
    footer = footer_of(2, len(body), blake3(body).digest())
    file = tmp_path / "vault" / "packs" / DOMAIN.hex() / "data" / "70" / ("70" * 16)
    file.parent.mkdir(parents=True)
    file.write_bytes(body + footer)
    with pytest.raises(NewerFormat, match="trailer of version 2"):
        await open_vault(tmp_path / "vault")
    assert file.read_bytes() == body + footer


def test_what_is_no_file_is_no_pack(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    (tmp_path / "empty").write_bytes(b"")
    for name in ("pipe", "link", "empty", "missing", "."):
        assert examine(tmp_path / name, HEADER) is None


def later_frame(number):
    raw = bytearray(made_frame(number)[1])
    raw[4] = 2
    raw[108:112] = zlib.crc32(raw[:108]).to_bytes(4, "little")
    return bytes(raw)


@pytest.mark.parametrize("damaged", [False, True])
def test_a_frame_of_a_later_version_is_refused_unless_it_may_be_a_clients_bytes(tmp_path, damaged):
    first, last = bytearray(made_frame(1)[1]), made_frame(3)[1]
    first[-1] ^= damaged
    (tmp_path / "pack").write_bytes(HEAD + bytes(first) + later_frame(2) + last)
    if not damaged:
        with pytest.raises(NewerFormat):
            examine(tmp_path / "pack", HEADER)
    else:
        (only,) = examine(tmp_path / "pack", HEADER).entries
        assert only.reference == made_frame(3)[0]


@pytest.mark.parametrize("sizes", [[2**20] * 20, [4 * 2**20] * 6, [700, 2**20, 3 * 2**20] * 6])
@pytest.mark.parametrize("flips", [0, 1, 5])
def test_frames_of_real_sizes_are_found_through_the_window(tmp_path, sizes, flips):
    frames = [made_frame(n, payload=bytes([n]) * size)[1] for n, size in enumerate(sizes, 1)]
    raw = bytearray(HEAD + b"".join(frames))
    places = random.Random(f"{sizes[0]} {flips}")
    for _ in range(flips):
        raw[places.randrange(pack.HEADER_SIZE, len(raw))] ^= 1
    (tmp_path / "pack").write_bytes(raw + b"torn")
    whole = [(one.offset, one.end) for one in pack.walk(raw)]
    with PackFile(tmp_path / "pack") as file:
        assert [(one.offset, one.offset + one.frame_length) for one in file.frames()] == whole
        assert file.cut == whole[-1][1]
        assert file.hash.digest() == blake3(raw[: file.cut]).digest()
