"""What an interrupted run has read is not read again while everything says that it is the same."""

import os

import pytest

from tests.cli.machine import mounted, small_disk
from transfer.files.directories import Place
from transfer.files.metadata import to_stat
from transfer.formats.reference import Kind, Reference, tag_of
from transfer.formats.stream import MIN_BLOCK
from transfer.pipeline.files import FileSender
from transfer.pipeline.grouping import Found
from transfer.pipeline.resume import Proofs
from transfer.pipeline.streams import send_stream
from transfer.sources.base import OpenDirectories
from transfer.sources.quiet import SETTLED
from transfer.sources.reading import SourceFile
from transfer.sources.scan import scan

SIZE = MIN_BLOCK
LARGE = 5 * 2**20
PROOFS = Proofs("this boot", 2**62, 1, SIZE)


class Notes:
    """The journal of runs that were all interrupted."""

    def __init__(self):
        self.known, self.asked = {}, 0

    async def recall(self, keys):
        self.asked += len(keys)
        return [self.known.get(key) for key in keys]

    async def note(self, extents):
        self.known.update(extents)


@pytest.fixture
def reads():
    return Notes()


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "source" / "file"
    path.parent.mkdir()
    path.write_bytes(os.urandom(LARGE))
    return path


@pytest.fixture
def send(sending, reads, path):
    """Send the file as a stream of its own; the stream and the counters."""

    async def send(proofs=PROOFS, strict=True):
        stat = to_stat(path.stat())
        file = SourceFile(Place(bytes(path.parent)), bytes(path.name, "utf8"), stat)
        async with sending(reads=reads) as line:
            stream = await send_stream(
                line.sender, line.nodes, file, stat.size, SIZE, None, strict,
                proof=proofs.of(stat, b"handle"),
            )  # fmt: skip
        return stream, line.sender.sent

    return send


async def test_a_stream_is_read_once(send):
    stream, sent = await send()
    assert (sent.bytes_read, sent.bytes_resumed) == (LARGE, 0)
    again, sent = await send()
    assert again == stream
    assert (sent.bytes_read, sent.bytes_resumed) == (0, LARGE)
    assert (sent.bytes_sent, sent.nodes_new, sent.blocks_resent) == (0, 0, 0)


async def test_what_was_not_noted_is_read_and_nothing_else(send, reads):
    stream, _ = await send()
    reads.known.popitem()
    again, sent = await send()
    assert again == stream
    assert 0 < sent.bytes_read < LARGE
    assert sent.bytes_read + sent.bytes_resumed == LARGE
    assert sent.bytes_sent == 0


async def test_blocks_that_the_vault_has_lost_are_read_and_sent_again(send, reads, vault, opened):
    stream, _ = await send()
    lost = Reference(tag_of(Kind.DATA), next(iter(reads.known.values()))[3])
    session = await vault.open_session(opened.domain, None)
    await vault.report_damaged(session.number, [lost])
    again, sent = await send()
    assert again == stream
    assert sent.blocks_new == 1
    assert sent.bytes_read + sent.bytes_resumed == LARGE


async def test_a_note_of_blocks_that_nobody_has_costs_a_question(send, reads):
    stream, _ = await send()
    reads.known = {key: tuple(b"x" * 32 for _ in ids) for key, ids in reads.known.items()}
    again, sent = await send()
    assert again == stream
    assert (sent.bytes_read, sent.bytes_resumed) == (LARGE, 0)


def write(path):
    with path.open("r+b") as file:
        file.seek(LARGE // 2)
        file.write(b"changed")


def replace(path):
    content = path.read_bytes()
    path.with_name("new").write_bytes(content)
    path.with_name("new").rename(path)


def keep_times(path):
    before = path.stat()
    write(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def grow(path):
    os.truncate(path, LARGE + 1)


@pytest.mark.parametrize("change", [write, replace, keep_times, grow, os.chmod])
async def test_a_file_that_was_touched_is_read(send, path, change):
    await send()
    before = path.read_bytes()
    change(path, *([0o600] if change is os.chmod else []))
    _, sent = await send()
    assert sent.bytes_read >= LARGE
    assert sent.bytes_resumed == 0
    if path.read_bytes() == before:
        assert sent.bytes_sent == 0


@pytest.mark.parametrize(
    "other",
    [PROOFS._replace(boot="another"), PROOFS._replace(generation=2),
     PROOFS._replace(block_size=2 * SIZE), PROOFS._replace(boot="")],
)  # fmt: skip
async def test_what_was_read_under_other_circumstances_proves_nothing(send, other):
    await send()
    _, sent = await send(other)
    assert (sent.bytes_read, sent.bytes_resumed) == (LARGE, 0)


async def test_what_was_written_shortly_before_the_sync_proves_nothing(send, reads, path):
    ctime = path.stat().st_ctime_ns
    await send(PROOFS._replace(moment=ctime + SETTLED))
    assert (reads.known, reads.asked) == ({}, 0)
    await send(PROOFS._replace(moment=ctime + SETTLED + 1))
    assert reads.known


def test_each_thing_that_a_key_is_made_of_makes_another(path):
    stat = to_stat(path.stat())
    places = [PROOFS.of(stat, b"h").key(*place) for place in ((0, 1), (0, 10), (1, 0), (10, 0))]
    others = [
        PROOFS.of(stat._replace(**{name: getattr(stat, name) + 1}), b"h").key(0, 1)
        for name in ("dev", "ino", "size", "mtime", "ctime")
    ]
    handles = [PROOFS.of(stat, handle).key(0, 1) for handle in (b"", b"g")]
    keys = [*places, *others, *handles]
    assert len(set(keys)) == len(keys)


class Quiet:
    def warn(self, path, code, message):
        raise AssertionError((path, code, message))

    def file_done(self, size):
        pass


@pytest.fixture
def send_files(sending, reads, tmp_path):
    """Send the files of a directory; their entries and the counters."""
    top = tmp_path / "small"
    top.mkdir()
    for size in (0, 100, 3000, SIZE, SIZE + 1, LARGE):
        (top / f"{size:08}").write_bytes(os.urandom(size))
    (top / "holes").touch()
    os.truncate(top / "holes", 3 * SIZE)
    os.link(top / f"{SIZE:08}", top / "link")

    async def send():
        place, directories = Place(bytes(top)), OpenDirectories()
        scanned, _, _ = scan(directories, place, sorted(map(os.fsencode, os.listdir(top))), len)
        directories.close()
        async with sending(reads=reads) as line:
            files = FileSender(line.sender, line.nodes, SIZE, Quiet(), PROOFS)

            async def rescan(name):
                raise AssertionError(name)

            found = [Found(each, None) for each in scanned]
            entries = await files.send(place, found, 0, rescan)
        return entries, files.counts, line.sender.sent

    return send


async def test_small_files_are_read_once_but_those_that_are_within_their_entries(send_files):
    entries, counts, sent = await send_files()
    again, counts_again, resumed = await send_files()
    assert again == entries
    assert counts_again == counts
    assert resumed.bytes_read == 100
    assert resumed.bytes_resumed == sent.bytes_read - 100
    assert (resumed.bytes_sent, resumed.blocks_resent) == (0, 0)


async def test_what_is_mounted_over_a_single_name_proves_nothing(send_files, tmp_path):
    """Where it is, a write may leave no trace."""
    with small_disk(tmp_path / "disk") as disk:
        (disk / "file").write_bytes(os.urandom(3000))
        with mounted("--bind", disk / "file", tmp_path / "small" / "00003000"):
            await send_files()
            _, _, sent = await send_files()
    assert sent.bytes_read == 100 + 3000
