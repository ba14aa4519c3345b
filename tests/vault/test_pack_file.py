"""Reading a pack through a window finds what reading it whole finds."""

import random

import pytest
from blake3 import blake3

from tests.suites.vault import DOMAIN, made_frame
from transfer.formats import pack
from transfer.formats.pack import PackClass, PackHeader
from transfer.vault.pack_file import PackFile

HEADER = PackHeader(DOMAIN, PackClass.DATA, b"p" * 16)


@pytest.mark.parametrize("sizes", [[2**20] * 20, [4 * 2**20] * 6, [700, 2**20, 3 * 2**20] * 6])
@pytest.mark.parametrize("flips", [0, 1, 5])
def test_frames_cut_and_hash_are_those_of_the_whole(tmp_path, sizes, flips):
    frames = [made_frame(n, payload=bytes([n]) * size)[1] for n, size in enumerate(sizes, 1)]
    raw = bytearray(pack.encode_header(HEADER) + b"".join(frames))
    places = random.Random(f"{sizes[0]} {flips}")
    for _ in range(flips):
        raw[places.randrange(pack.HEADER_SIZE, len(raw))] ^= 1
    path = tmp_path / "pack"
    path.write_bytes(raw + b"torn")
    whole = [(each.offset, each.end) for each in pack.walk(raw)]
    with PackFile(path) as file:
        found = [(each.offset, each.offset + each.frame_length) for each in file.frames()]
        assert found == whole
        assert file.cut == whole[-1][1]
        assert file.hash.digest() == blake3(raw[: file.cut]).digest()
