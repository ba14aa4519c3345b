"""What is read ahead is what stands there, and less trips to the disk are made."""

import os

import pytest

from transfer.files.direct import SECTOR, aligned_room
from transfer.formats.pack import PackClass, PackHeader, class_of
from transfer.formats.reference import Kind, tag_of
from transfer.vault.objects import DirectoryObjects
from transfer.vault.read_ahead import read_ahead
from transfer.vault.schema import FrameRow, State

DATA, PAGE, KIB = tag_of(Kind.DATA), tag_of(Kind.PAGE), 1024
DOMAIN, PACK, OTHER, NODES = b"d" * 16, b"p" * 16, b"q" * 16, b"n" * 16
SIZE = 3 * 2**20 + 77


@pytest.fixture
def objects(tmp_path):
    objects = DirectoryObjects(tmp_path)
    for pack, pack_class in (
        (PACK, PackClass.DATA),
        (OTHER, PackClass.DATA),
        (NODES, PackClass.METADATA),
    ):
        path = objects.pack_path(PackHeader(DOMAIN, pack_class, pack))
        path.parent.mkdir(parents=True)
        path.write_bytes(pack[:1] + os.urandom(SIZE - 1))
    return objects


@pytest.fixture
def trips(monkeypatch):
    real, trips = os.preadv, []

    def preadv(descriptor, rooms, offset):
        trips.append((offset, len(rooms[0])))
        return real(descriptor, rooms, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    return trips


def row(offset, length, pack=PACK, tag=DATA):
    return FrameRow(DOMAIN, tag, b"", pack, offset, length, State.GOOD, True, 0, None, bytes(8), 1)


def content(objects, each):
    path = objects.pack_path(PackHeader(DOMAIN, class_of(each.tag), each.pack))
    return path.read_bytes()[each.offset : each.offset + each.length]


def ahead(objects, *rows, room=4 * 2**20):
    found = read_ahead(objects, rows, aligned_room(room))
    for each in rows:
        got = found.get((each.pack, each.offset))
        assert got is None or got == content(objects, each)
    return set(found)


def test_neighbours_are_read_together_in_whatever_order_they_are_asked_for(objects, trips):
    rows = [row(at, 300 * KIB) for at in (600 * KIB + 44, 44, 300 * KIB + 44)]
    assert len(ahead(objects, *rows)) == 3
    assert trips == [(0, -(-(900 * KIB + 44) // SECTOR) * SECTOR)]


def test_what_lies_far_apart_is_read_apart(objects, trips):
    rows = [row(44, 200 * KIB), row(2**20, 200 * KIB), row(44, 200 * KIB, OTHER)]
    assert len(ahead(objects, *rows)) == len(trips) == 3


def test_a_run_is_no_larger_than_the_room(objects, trips):
    rows = [row(44 + at * 200 * KIB, 200 * KIB) for at in range(10)]
    assert len(ahead(objects, *rows, room=2**20)) == 10
    assert len(trips) == 2 and all(length <= 2**20 for _, length in trips)


def test_the_last_frame_of_a_pack_ends_anywhere(objects):
    assert ahead(objects, row(SIZE - 200_001, 200_001))


@pytest.mark.parametrize(
    "rows",
    [
        [row(44, 10 * KIB), row(60 * KIB, KIB)],
        [row(44, 300 * KIB, NODES, PAGE), row(300 * KIB + 44, KIB, NODES, PAGE)],
    ],
    ids=["small", "nodes"],
)
def test_small_runs_and_nodes_come_from_the_page_cache(objects, trips, monkeypatch, rows):
    flags, opened = [], os.open

    def heard(path, how, *others, **named):
        flags.append(how)
        return opened(path, how, *others, **named)

    monkeypatch.setattr(os, "open", heard)
    assert len(ahead(objects, *rows)) == 2
    assert len(trips) == len(flags) == 1
    assert not flags[0] & os.O_DIRECT


@pytest.mark.parametrize(
    "rows",
    [
        [row(44, 500 * KIB, b"gone" * 4)],
        [row(SIZE - 1000, 500 * KIB)],
        [row(0, 2 * 2**20)],
    ],
    ids=["no such pack", "cut short", "larger than the room"],
)
def test_all_else_is_left_to_others(objects, rows):
    found = read_ahead(objects, rows, aligned_room(2**20))
    assert found == {}


def test_a_disk_that_fails_leaves_it_to_others(objects, monkeypatch):
    def preadv(*_):
        raise OSError(5, "bad sector")

    monkeypatch.setattr(os, "preadv", preadv)
    assert ahead(objects, row(44, 500 * KIB)) == set()
