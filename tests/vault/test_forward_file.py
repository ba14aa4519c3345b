"""A file written forward has what was appended, whatever goes around the page cache."""

import errno
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transfer.files.direct import SECTOR, aligned_room
from transfer.vault.forward_file import ForwardFile

ROOM = 4 * SECTOR
lengths = st.one_of(st.integers(0, 300), st.integers(SECTOR - 2, 6 * SECTOR))


@pytest.fixture(params=[True, False], ids=["direct", "cached"])
def room(request):
    return aligned_room(ROOM) if request.param else None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(lengths, st.just("flush")), max_size=25))
def test_after_a_flush_the_file_has_all_that_was_appended_and_before_nothing_else(steps):
    lent = aligned_room(ROOM)
    with TemporaryDirectory() as place:
        path, expected = Path(place) / "file", b""
        file = ForwardFile(path, lent)
        for number, step in enumerate(steps):
            if step == "flush":
                file.flush()
                assert path.read_bytes() == expected
                lent[:] = bytes([number]) * ROOM  # it is nobody's now
            else:
                raw = os.urandom(step)
                file.append(raw)
                expected += raw
                assert expected.startswith(path.read_bytes())
            assert file.length == len(expected)
        file.flush()
        assert path.read_bytes() == expected
        file.close()


def test_large_writes_go_around_the_page_cache(tmp_path, monkeypatch):
    flags = {}

    def pwrite(descriptor, raw, offset):
        status = Path(f"/proc/self/fdinfo/{descriptor}").read_text().split("flags:")[1]
        flags[offset, len(raw)] = bool(int(status.split()[0], 8) & os.O_DIRECT)
        return real(descriptor, raw, offset)

    real = os.pwrite
    file = ForwardFile(tmp_path / "file", aligned_room(ROOM))
    if file._direct is None:
        pytest.skip("no O_DIRECT on this file system")
    monkeypatch.setattr(os, "pwrite", pwrite)
    file.append(bytes(ROOM + SECTOR + 7))
    file.flush()
    assert flags == {(0, ROOM): True, (ROOM, SECTOR): True, (ROOM + SECTOR, 7): False}
    file.close()


def test_a_file_system_that_takes_no_direct_write_gets_the_others(tmp_path, monkeypatch):
    def pwrite(descriptor, raw, offset):
        if descriptor == file._direct._direct:
            raise OSError(errno.EINVAL, "alignment")
        return real(descriptor, raw, offset)

    real, raw = os.pwrite, os.urandom(3 * ROOM + 5)
    file = ForwardFile(tmp_path / "file", aligned_room(ROOM))
    monkeypatch.setattr(os, "pwrite", pwrite)
    file.append(raw)
    file.flush()
    assert (tmp_path / "file").read_bytes() == raw
    file.close()


def test_a_disk_that_fails_is_not_tried_another_way(tmp_path, monkeypatch):
    file = ForwardFile(tmp_path / "file", aligned_room(ROOM))

    def pwrite(descriptor, raw, offset):
        tried.append(descriptor)
        raise OSError(errno.EIO, "bad")

    tried = []
    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(OSError, match="bad"):
        file.append(bytes(2 * ROOM))
    file.close()
    assert len(tried) == 1


def test_what_cannot_be_opened_for_direct_writes_is_written_through_the_page_cache(
    tmp_path, monkeypatch, room
):
    def refusing(path, flags, *args, **kwargs):
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no O_DIRECT here")
        return real(path, flags, *args, **kwargs)

    real, raw = os.open, os.urandom(2 * ROOM + 1)
    monkeypatch.setattr(os, "open", refusing)
    file = ForwardFile(tmp_path / "file", room)
    file.append(raw)
    assert (tmp_path / "file").read_bytes() == raw
    file.flush()
    file.close()
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
