"""A rate is exact, or it is refused: a unit read wrongly is a line filled eight times over."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.errors import UsageError
from transfer.policy.rates import PAUSED, parse_duration, parse_rate, parse_share


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("4096", 4096),
        ("1K", 1024),
        ("300K", 300 * 1024),
        ("1M", 2**20),
        ("1.5M", 3 * 2**19),
        ("2G", 2**31),
        ("0.1M", 104857),
        ("8kbit", 1000),
        ("512kbit", 64_000),
        ("20Mbit", 2_500_000),
        ("1Gbit", 125_000_000),
        ("1.5kbit", 187),
        ("off", None),
        ("0", PAUSED),
        ("0K", PAUSED),
    ],
)
def test_letters_are_bytes_by_1024_and_bits_are_by_1000(text, rate):
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "text",
    ["", "fast", "1T", "1k", "1m", "1MB", "1Mb", "1mbit", "20 Mbit", " 1M", "1M ", "-1", "+1",
     "1e6", "1.", ".5M", "1,5M", "inf", "nan", "OFF", "1M\n", "0x10", "\u0661\u0662", "1M/s",
     "0.5", "0.001kbit", "9" * 30, "1_000"],
)  # fmt: skip
def test_what_is_not_quite_a_rate_is_refused(text):
    with pytest.raises(UsageError) as refused:
        parse_rate(text)
    assert repr(text) in refused.value.message
    assert refused.value.hint


@given(st.integers(1, 2**40))
def test_a_bare_number_is_bytes(number):
    assert parse_rate(str(number)) == number
    assert parse_rate(f"{number}K") == number * 1024


@given(st.text())
def test_any_text_is_a_rate_or_a_usage_error(text):
    try:
        rate = parse_rate(text)
    except UsageError:
        return
    assert rate is None or rate >= 0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("1h", 3600), ("2d", 172800), ("1.5h", 5400), ("0s", 0)],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "1", "h", "1w", "1H", "-1h", "1 h", "1h30m", "forever"])
def test_a_duration_needs_its_unit(text):
    with pytest.raises(UsageError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("100%", 1), ("0.5%", 0.005)])
def test_shares(text, share):
    assert parse_share(text) == share


@pytest.mark.parametrize("text", ["", "5", "0%", "101%", "-5%", "5 %", "%", "half", "0.05"])
def test_a_share_is_a_percentage_of_something(text):
    with pytest.raises(UsageError):
        parse_share(text)
