"""Rates and other quantities as people write them: RATE, a size, a duration, a share.

RATE       1.5M  300K  2G     bytes a second, powers of 1024
           512kbit  20Mbit    bits a second, powers of 1000
           4096               bytes a second
           off                no limit
size       2T  1.5G  4096     bytes, powers of 1024
duration   90s  30m  1h  2d
share      5%
"""

import re
from fractions import Fraction

from transfer.errors import UsageError

PAUSED = 0
_BYTES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
_SIZES = {**_BYTES, "T": 2**40}
_BITS = {"kbit": 10**3, "Mbit": 10**6, "Gbit": 10**9}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
# ASCII digits only, and few: int() of a million digits takes minutes.
_QUANTITY = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)([A-Za-z%]*)")


def parse_rate(text: str) -> int | None:
    """Bytes a second, rounded down; None for `off`, PAUSED for 0. Raises UsageError."""
    if text == "off":
        return None
    amount, unit = _split(text, {*_BYTES, *_BITS}, "RATE", "300K, 1.5M, 20Mbit, or off")
    rate = int(amount * _BYTES[unit] if unit in _BYTES else amount * _BITS[unit] / 8)
    if rate == PAUSED and amount:
        raise UsageError(f"RATE {text!r} is less than one byte a second", "0 would be a pause")
    return rate


def parse_size(text: str) -> int:
    """Bytes, rounded down. Raises UsageError."""
    amount, unit = _split(text, _SIZES, "size", "4096, 300M, 1.5G or 2T")
    return int(amount * _SIZES[unit])


def parse_duration(text: str) -> float:
    """Seconds. Raises UsageError for anything but a number with s, m, h or d."""
    amount, unit = _split(text, _SECONDS, "duration", "90s, 30m, 1h or 2d")
    return float(amount * _SECONDS[unit])


def parse_share(text: str) -> float:
    """More than 0, and at most 1 for 100%. Raises UsageError."""
    amount, _ = _split(text, {"%"}, "share", "5% or 0.5%")
    if not 0 < amount <= 100:
        raise UsageError(f"{text} is not between 0% and 100%")
    return float(amount / 100)


def _split(
    text: str, units: set[str] | dict[str, int], what: str, examples: str
) -> tuple[Fraction, str]:
    found = _QUANTITY.fullmatch(text)
    if found is None or found[2] not in units:
        raise UsageError(f"{text!r} is no {what}", f"write {examples}")
    return Fraction(found[1]), found[2]
