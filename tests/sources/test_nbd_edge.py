"""What NBD's edge makes of the system's errors, and of reads that are not aligned."""

import errno
import pickle
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.errors import (
    ProtocolBroken,
    SourceFailed,
    SourceUnavailable,
    TransientError,
    UsageError,
)
from transfer.sources.nbd_address import NbdAddress
from transfer.sources.nbd_edge import MAX_PART, error_of, failure_of, parts
from transfer.sources.nbd_protocol import Export, Failure

ADDRESS = NbdAddress(b"disk", b"/s")


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), UsageError, "Permission denied"),
        (OSError(errno.EMFILE, "Too many open files"), TransientError, "Too many open files"),
        (OSError("AF_UNIX path too long"), SourceUnavailable, "AF_UNIX path too long"),
        (ConnectionResetError(), SourceUnavailable, "ConnectionResetError"),
        (ssl.SSLEOFError(8, "EOF occurred in violation"), SourceUnavailable, "hung up"),
        (ProtocolBroken("it lies", "so there"), ProtocolBroken, "it lies"),
    ],
)
def test_an_error_is_one_of_ours_and_says_where(error, kind, says):
    ours = error_of(ADDRESS, error)
    assert type(ours) is kind
    assert ours.message.startswith("nbd+unix:///disk?socket=/s: ")
    assert says in ours.message


def test_what_a_server_failed_comes_back_whole_from_a_worker():
    error = pickle.loads(pickle.dumps(failure_of(ADDRESS, "it cannot be read", Failure(5))))
    assert (type(error), error.number) == (SourceFailed, 5)
    assert error.message.endswith(": it cannot be read: input/output error")
    assert failure_of(ADDRESS, "", Failure(77)).message.endswith("error 77")


SERVERS = st.sampled_from([(1, 1000), (1, 2**32 - 1), (512, 1535), (4096, 2**20), (65536, 65536)])
lengths = st.integers(0, 3 * MAX_PART // 2) | st.just(MAX_PART)


@given(SERVERS, lengths, lengths, st.integers(0, 70_000))
def test_parts_are_all_that_was_asked_for_in_the_servers_blocks(server, offset, length, more):
    (block, most), size, at = server, offset + length + more, 0
    for part in parts(Export(size, 1, {}, min_block=block, max_payload=most), offset, length):
        assert part.offset % block == 0
        assert part.length % block == 0 or part.offset + part.length == size
        assert 0 < part.length <= min(MAX_PART, most)
        assert part.offset // MAX_PART == (part.offset + part.length - 1) // MAX_PART
        assert part.offset + part.start == offset + at
        assert part.at == at
        assert 0 <= part.start < part.stop <= part.length
        at += part.stop - part.start
    assert at == length
