"""Frames come out as they were sent, wherever the network cuts them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.suites.vault import made_frame
from transfer.errors import FormatError
from transfer.formats import frame
from transfer.formats.frame import HEADER_SIZE
from transfer.net.frame_reader import FrameReader

FRAMES = [made_frame(number)[1] for number in range(1, 6)]
RAW = b"".join(FRAMES)


def pieces(cuts):
    ends = sorted({cut % len(RAW) for cut in cuts} | {len(RAW)})
    return [RAW[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@given(st.lists(st.integers(0, len(RAW)), max_size=12))
def test_wherever_it_is_cut_each_frame_comes_out_once_it_is_whole(cuts):
    reader, found, seen = FrameReader(), [], 0
    for piece in pieces(cuts):
        seen += len(piece)
        for header, raw in reader.feed(piece):
            assert header == frame.decode_header(raw)
            found.append(raw)
        assert len(b"".join(found)) <= seen
        assert found == [each for n, each in enumerate(FRAMES) if ends(n) <= seen]
    reader.end()
    assert found == FRAMES


def ends(number):
    return sum(map(len, FRAMES[: number + 1]))


@pytest.mark.parametrize("cut", [1, HEADER_SIZE - 1, HEADER_SIZE, len(FRAMES[0]) - 1])
def test_an_answer_that_ends_within_a_frame_is_refused(cut):
    reader = FrameReader()
    assert list(reader.feed(RAW[:cut])) == []
    with pytest.raises(FormatError, match="cut short"):
        reader.end()


def test_what_is_no_frame_is_refused_before_more_is_waited_for():
    reader = FrameReader()
    with pytest.raises(FormatError):
        list(reader.feed(b"x" * HEADER_SIZE))
