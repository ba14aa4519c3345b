"""A damaged, swapped or foreign frame, node, point or pack: the restore names it, gives back all
else, and ends with 65.
"""

import os
import shutil

import pytest

from tests.cli.conftest import contents
from transfer.formats import pack


def packs(top, kind="data"):
    return sorted((top / "vault" / "packs").glob(f"*/{kind}/*/*"))


def frames(top, kind="data"):
    """(pack, offset, length) of each frame, in the order in which they were stored."""
    found = []
    for path in packs(top, kind):
        raw = path.read_bytes()
        found += [(path, each.offset, each.frame.header.frame_length) for each in pack.walk(raw)]
    return found


def overwrite(path, offset, raw):
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(raw)


def read(path, offset, length):
    return path.read_bytes()[offset : offset + length]


def flip(path, offset):
    overwrite(path, offset, bytes([read(path, offset, 1)[0] ^ 1]))


@pytest.fixture
def restore_the_rest(stocked, tmp_path):
    """Restore, and check that exactly what is named is missing."""

    def check(*words):
        out = tmp_path / "out"
        code, answer = stocked("restore", "home", "--to", out, *words)
        assert (code, answer["exit"]) == (65, 65), answer
        named = [each.rpartition(": ")[0] for each in answer["damaged"]]
        assert named
        source = contents(tmp_path / "tree")
        found = contents(out / "tree") if (out / "tree").exists() else {}
        for path, what in found.items():
            assert what[1] == source[path][1], path
        for path in source.keys() - found.keys():
            above = [str(each) for each in ("tree" / path, *("tree" / path).parents)]
            is_named = any(name.startswith(each) for each in above for name in named)
            assert is_named or "" in named, (path, answer["damaged"])
        assert stocked("verify", "home")[0] == 65
        return answer["damaged"]

    return check


@pytest.mark.parametrize("number", range(7))
def test_a_damaged_block(restore_the_rest, tmp_path, number):
    path, offset, length = frames(tmp_path)[number]
    flip(path, offset + length - 1)
    damaged = restore_the_rest()
    assert {each.partition(": ")[0] for each in damaged} < {
        "tree/deep/large", "tree/deep/deeper/medium",
    }  # fmt: skip


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("place", ["header", "children", "payload"])
def test_a_damaged_node(restore_the_rest, tmp_path, number, place):
    path, offset, length = frames(tmp_path, "metadata")[number]
    flip(path, offset + {"header": 30, "children": 113, "payload": length - 5}[place])
    restore_the_rest()


def test_ls_lists_what_can_be_read_and_names_the_rest(stocked, tmp_path):
    nodes = frames(tmp_path, "metadata")
    for path, offset, length in nodes:
        kept = read(path, offset, length)
        flip(path, offset + length - 1)
        verdicts = {}
        for where in ("tree", "tree/deep/deeper/medium"):
            code, answer = stocked("ls", "home", where)
            assert code in (0, 65)
            if code == 65:
                said = answer.get("damaged") or [answer["error"]["message"]]
                assert "damaged" in said[0] or "not in the vault" in said[0]
            verdicts[where] = code
        # A stream's node is nothing that a listing needs.
        assert set(verdicts.values()) <= {0, 65}
        overwrite(path, offset, kept)
    assert verdicts == dict.fromkeys(verdicts, 65)  # the last one stored is the root


def test_two_blocks_that_were_exchanged(restore_the_rest, tmp_path):
    same = [each for each in frames(tmp_path) if each[2] > 2**20]
    (path, first, length), (_, second, _) = same[:2]
    one, other = read(path, first, length), read(path, second, length)
    overwrite(path, first, other)
    overwrite(path, second, one)
    assert {each.partition(": ")[0] for each in restore_the_rest()} == {"tree/deep/large"}


@pytest.fixture
def foreign(stocked, tmp_path):
    """Another vault, of another domain, with a file like the stock's large one."""
    (tmp_path / "file").write_bytes(os.urandom(6 * 2**20))
    code, answer = stocked(
        "backup", "home", tmp_path / "file", vault="foreign/vault", state="other"
    )
    assert code == 0, answer
    return tmp_path / "foreign"


def test_a_block_of_another_domain(restore_the_rest, foreign, tmp_path):
    path, offset, length = next(each for each in frames(tmp_path) if each[2] > 2**20)
    there = next(each for each in frames(foreign) if each[2] == length)
    overwrite(path, offset, read(*there))
    assert {each.partition(": ")[0] for each in restore_the_rest()} == {"tree/deep/large"}


def lose(path, foreign):
    path.unlink()


def cut(path, foreign):
    os.truncate(path, path.stat().st_size // 2)


def empty(path, foreign):
    os.truncate(path, 0)


def zero(path, foreign):
    path.write_bytes(bytes(path.stat().st_size))


def exchange(path, foreign):
    shutil.copy(packs(foreign)[0], path)


@pytest.mark.parametrize("what", [lose, cut, empty, zero, exchange])
@pytest.mark.parametrize("kind", ["data", "metadata"])
def test_a_bad_pack(restore_the_rest, foreign, tmp_path, kind, what):
    what(packs(tmp_path, kind)[0], foreign)
    restore_the_rest()


# Points


def points(top):
    return sorted((top / "vault" / "records" / "points").rglob("?" * 64))


def test_a_damaged_point(stocked, tmp_path):
    (path,) = points(tmp_path)
    flip(path, path.stat().st_size // 2)
    before = contents(tmp_path / "vault" / "records")
    for words in (("restore", "home", "--to", tmp_path / "out"), ("verify", "home")):
        code, answer = stocked(*words)
        assert (code, answer["exit"]) == (65, 65)
        assert "home" in answer["error"]["message"]
        assert answer["error"]["hint"]
    assert not (tmp_path / "out").exists()
    assert contents(tmp_path / "vault" / "records") == before


def test_points_that_were_exchanged_or_are_foreign(stocked, foreign, tmp_path):
    (tmp_path / "tree" / "new").write_text("new")
    code, second = stocked("backup", "home", tmp_path / "tree")
    assert code == 0
    first, last = sorted(points(tmp_path), key=lambda path: path.stat().st_mtime)
    assert last.name == second["point"]
    kept = last.read_bytes()
    (theirs,) = points(foreign)
    for other in (first, theirs):
        last.write_bytes(other.read_bytes())
        code, answer = stocked("restore", "home", "--to", tmp_path / "out")
        assert code == 65, answer
        assert answer["error"]["hint"]
        assert not (tmp_path / "out").exists()
        # What is named and is sound comes back all the same.
        assert stocked("ls", f"home@{first.name}")[0] == 0
    last.write_bytes(kept)
    assert stocked("restore", "home", "--to", tmp_path / "out")[0] == 0


def test_a_damaged_catalog(stocked, tmp_path):
    path = tmp_path / "vault" / "catalog.sqlite"
    path.write_bytes(b"no database at all" * 1000)
    error = stocked.refused(65, "damaged-data", "points", says=["catalog"])
    assert "rebuild" in error["hint"]
    assert stocked("vault", "rebuild", tmp_path / "vault", plain=True)[0] == 0
    assert stocked("verify", "home")[0] == 0
