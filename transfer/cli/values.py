"""What stands behind an option, as argparse types: a wrong value names its option."""

import argparse
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from transfer.errors import UsageError
from transfer.policy.rates import PAUSED, parse_duration, parse_rate, parse_share
from transfer.policy.token_bucket import MAX_RATE

T = TypeVar("T")


class Rate(NamedTuple):
    """Bytes a second; None for no limit, which is not the same as no word about it."""

    value: int | None


MAX_WORKERS = 64
MAX_CONNECTIONS = 64
MAX_WEIGHT = 64


def _named(parse: Callable[[str], T], text: str) -> T:
    try:
        return parse(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(f"{error.message}: {error.hint}") from error


def rate(text: str) -> int | None:
    """Bytes a second for one run; None for `off`."""
    value = _named(parse_rate, text)
    if value == PAUSED:
        raise argparse.ArgumentTypeError("0 would be a pause, which only a timetable may hold")
    return value


def machine_rate(text: str) -> Rate:
    """Of the machine, for good or for a time; 0 is a pause."""
    found = _named(parse_rate, text)
    if found is not None and found > MAX_RATE:
        raise argparse.ArgumentTypeError(f"{text} is more than any network carries; write off")
    return Rate(found)


def duration(text: str) -> float:
    return _named(parse_duration, text)


def share(text: str) -> float:
    return _named(parse_share, text)


def workers(text: str) -> int:
    return _number(text, 0, MAX_WORKERS)


def weight(text: str) -> int:
    return _number(text, 1, MAX_WEIGHT)


def connections(text: str) -> int | None:
    """None for `auto`."""
    return None if text == "auto" else _number(text, 1, MAX_CONNECTIONS)


def _number(text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 4 and least <= int(text) <= most):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from {least} to {most}")
    return int(text)


def block_size(text: str) -> int:
    """A number of bytes, with K or M (powers of 1024)."""
    factor = {"K": 2**10, "M": 2**20}.get(text[-1:], 1)
    digits = text[:-1] if factor > 1 else text
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 10):
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write 1M or 256K")
    return int(digits) * factor
