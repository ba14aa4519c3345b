"""kill -9 at random moments, again and again: the next run goes on where the last one was.

What a killed run had journalled is counted before the next one begins. That one must know all of
it, read the rest, and send nothing that the vault has.
"""

import filecmp
import os
import random
import shutil
import tempfile
import time
from pathlib import Path

import pytest

from tests.acceptance import trees
from tests.acceptance.compare import differences
from tests.acceptance.needs import space
from tests.acceptance.served import shell_at
from tests.acceptance.shell import kill
from transfer.files.metadata import to_stat
from transfer.formats.entry import INLINE_MAX
from transfer.formats.journal import Read, decode_all
from transfer.formats.stream import DEFAULT_BLOCK
from transfer.pipeline import tasks
from transfer.pipeline.grouping import SHARED_BLOCK, SHARED_MAX
from transfer.pipeline.resume import Proofs, key_of_all
from transfer.sources.handles import file_handle

MIB = 2**20
SETTLE = 2.1  # seconds, until a ctime proves something
SLOW = [pytest.mark.slow, pytest.mark.timeout(1200)]
HOURS = [pytest.mark.hours, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def sources():
    """Small ones, and what the promise is about: an image of 2 GiB, and a tree."""
    top = Path(tempfile.mkdtemp(prefix="transfer-kills-"))

    def make(name):
        path = top / name
        if not path.exists():
            kind, size = name.split("-")
            if kind == "image":
                trees.image(path, int(size) * MIB)
            else:
                trees.many_files(path, int(size))
                trees.image(path / "large", int(size) * MIB // 50)
            space(path, 3 * size_of(path))
            time.sleep(SETTLE)
        return path

    yield make
    shutil.rmtree(top)


def noted(top):
    """The keys of what the journal knows as read."""
    found = list((top / "state" / "journals").glob("*"))
    records = decode_all(found[0].read_bytes()).records if found else []
    return {key for each in records if isinstance(each, Read) for key, _ in each.extents}


def extents(source):
    """{key: bytes} of all that can be noted of *source*, as the specification of keys says."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    proofs = Proofs(boot, time.time_ns(), 1, DEFAULT_BLOCK)
    found = {}
    places = [path for path in source.rglob("*") if path.is_dir()]
    for paths in [[source]] if source.is_file() else map(files_in, [source, *places]):
        alone = []
        for path in paths:
            with path.open("rb") as file:
                stat, handle = os.fstat(file.fileno()), file_handle(file.fileno(), b"")
            proof, size = proofs.of(to_stat(stat), handle), stat.st_size
            step = tasks.BATCH if source.is_file() or size > tasks.BATCH else size or 1
            for offset in range(0, size, step):
                length = min(step, size - offset)
                found[proof.key(offset, length)] = length
            if INLINE_MAX < size <= SHARED_MAX:
                alone.append((proof.key(0, size), size))
        found |= groups(alone)
    return found


def files_in(place):
    return sorted(path for path in place.iterdir() if path.is_file())


def groups(files):
    """{key: bytes} of all blocks that neighbours might share: where these end depends on a key."""
    found = {}
    for first in range(len(files)):
        keys, size = [], 0
        for key, length in files[first:]:
            keys, size = [*keys, key], size + length
            if size > SHARED_BLOCK:
                break
            if len(keys) > 1:
                found[key_of_all(keys)] = size
    return found


def size_of(source):
    paths = [source] if source.is_file() else source.rglob("*")
    return sum(path.stat().st_size for path in paths if path.is_file())


def wait_for(process, top, count):
    """Until so many extents are journalled, or the process has ended."""
    while process.poll() is None and len(noted(top)) < count:
        time.sleep(0.002)


@pytest.mark.parametrize(
    ("place", "name", "kills", "step"),
    [
        ("near", "image-160", 3, 3), ("far", "tree-4000", 3, 8),
        pytest.param("far", "image-512", 12, 3, marks=SLOW),
        pytest.param("near", "tree-8000", 12, 8, marks=SLOW),
        pytest.param("far", "image-2048", 50, 3, marks=HOURS),
        pytest.param("near", "tree-40000", 50, 10, marks=HOURS),
        pytest.param("near", "image-2048", 50, 3, marks=HOURS),
        pytest.param("far", "tree-40000", 50, 10, marks=HOURS),
    ],
)  # fmt: skip
@pytest.mark.timeout(300)
def test_a_killed_backup_goes_on_where_it_was(sources, work, place, name, kills, step):
    source, shell = sources(name), shell_at(work, place)
    sizes, moments = extents(source), random.Random(f"{name} {place}")
    for _ in range(kills):
        before = noted(work)
        process = shell.start("backup", "item", source)
        wait_for(process, work, len(before) + moments.randrange(2 * step))
        time.sleep(moments.uniform(0, 0.02))
        assert kill(process.pid)
        assert process.wait() == -9
        shell.finish(process, None)
        assert noted(work) >= before
    known = sum(sizes[key] for key in noted(work))
    result = shell("backup", "item", source)
    assert result["warnings"] == []
    assert 0 < known == result["bytes_resumed"]
    assert result["bytes_read"] == result["bytes_source"] - known == size_of(source) - known
    assert result["blocks_resent"] == 0
    assert shell("vault", "verify", work / "vault", plain=True)["damaged"] == []
    shell("restore", "item", "--to", work / "back")
    if source.is_dir():
        assert differences(source, work / "back" / source.name) == []
    else:
        assert filecmp.cmp(source, work / "back", shallow=False)
