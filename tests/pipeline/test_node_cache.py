"""A cache gives back what was kept, or nothing; what it is damaged to is never believed."""

import asyncio
import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.suites.vault import LEAF, PAGE, made_frame
from transfer.formats.reference import Kind, tag_of
from transfer.pipeline.node_cache import MAX_NODES, NodeCache


def node(number, size=100):
    return made_frame(number, PAGE, payload=bytes([number % 256]) * size)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "nodes" / "item"


def opened(path, **options):
    cache = NodeCache(path, **options)
    cache.open()
    return cache


def run(path, read=(), added=(), commit=True, **options):
    """One run: what it read was there or not."""
    cache = opened(path, **options)
    try:
        found = cache.get([reference for reference, _ in read])
        cache.add(added)
        if commit:
            cache.commit()
        return found
    finally:
        cache.close()


def test_what_is_below_a_node_that_is_kept_is_kept_without_being_read(path):
    leaves = [made_frame(10 + n, LEAF, [made_frame(n)[0]]) for n in range(3)]
    below = sorted(reference for reference, _ in leaves[:2])
    above = made_frame(20, tag_of(Kind.STREAM, 2), below)
    run(path, added=[*leaves, above])
    cache = opened(path)
    cache.keep([above[0], made_frame(30, LEAF, below[:1])[0]])
    cache.add([node(1)])
    cache.commit()
    cache.close()
    expected = [leaves[0][1], leaves[1][1], None, above[1]]
    assert run(path, [*leaves, above]) == expected


def test_the_next_run_finds_what_this_one_read_and_made(path):
    one, two, three = node(1), node(2), node(3)
    assert run(path, [one], [one, two]) == [None]
    assert run(path, [one], [three]) == [one[1]]
    assert run(path, [one, two, three]) == [one[1], None, three[1]]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == [path.name]


def test_a_run_that_found_nothing_new_leaves_all_as_it_is(path):
    nodes = [node(1), node(2)]
    run(path, added=nodes)
    before = path.read_bytes(), path.stat().st_ino
    run(path, nodes[:1])
    assert (path.read_bytes(), path.stat().st_ino) == before


def test_a_run_without_a_point_changes_nothing(path):
    run(path, added=[node(1)])
    run(path, [node(1)], [node(2)], commit=False)
    assert run(path, [node(1), node(2)]) == [node(1)[1], None]
    assert os.listdir(path.parent) == [path.name]


def test_what_did_not_open_is_not_kept(path):
    run(path, added=[node(1), node(2)])
    cache = opened(path)
    cache.get([node(1)[0], node(2)[0]])
    cache.forget(node(1)[0])
    assert cache.get([node(1)[0]]) == [None]
    cache.add([node(3)])
    cache.commit()
    cache.close()
    assert run(path, [node(1), node(2)]) == [None, node(2)[1]]


def test_it_keeps_to_its_limit(path):
    nodes = [node(number, 1000) for number in range(1, 11)]
    run(path, added=nodes, limit=5500)
    assert path.stat().st_size <= 5500
    assert sum(raw is not None for raw in run(path, nodes)) == 4
    assert MAX_NODES * 200 <= 20 * 2**20


def test_frames_beyond_one_window_are_found(path):
    nodes = [node(number, 200_000) for number in range(1, 20)]
    run(path, added=nodes)
    assert run(path, nodes) == [raw for _, raw in nodes]


@given(st.data())
def test_a_damaged_file_gives_what_is_before_the_damage_at_least(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("cache") / "item"
    nodes = [node(number) for number in range(1, 6)]
    run(path, added=nodes)
    raw = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    if data.draw(st.booleans()):
        raw[at] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del raw[at:]
    path.write_bytes(raw)
    found = run(path, nodes)
    size, sound = len(nodes[0][1]), at // len(nodes[0][1])
    assert found[:sound] == [raw for _, raw in nodes[:sound]]
    assert all(each is None or len(each) == size for each in found)


@pytest.mark.parametrize("what", ["missing", "a directory", "a symlink"])
def test_a_place_that_cannot_be_used_is_no_failure(path, tmp_path, what):
    path.parent.mkdir()
    if what == "a directory":
        path.mkdir()
    elif what == "a symlink":
        (tmp_path / "elsewhere").write_bytes(node(1)[1])
        path.symlink_to(tmp_path / "elsewhere")
    assert run(path, [node(1)]) == [None]
    run(path, added=[node(2)])


async def test_threads_may_use_it_together(path):
    nodes = [node(number) for number in range(1, 200)]
    cache = opened(path)
    await asyncio.gather(*(asyncio.to_thread(cache.add, [each]) for each in nodes))
    cache.commit()
    cache.close()
    assert run(path, nodes) == [raw for _, raw in nodes]
