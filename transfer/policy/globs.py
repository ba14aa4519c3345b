"""Globs: gitignore's patterns without negation, on bytes.

    *.o           a name, at any depth          /build, doc/*.pdf   from the root
    cache/        only directories              a/**, **/b, a/**/b  any number of directories

What an excluded directory holds is excluded with it. `*`, `?` and `[...]` never match a "/".
"""

import re
from collections.abc import Sequence

from transfer.errors import UsageError

_SLASH = ord("/")
_CLASSES: dict[bytes, bytes] = {
    b"alpha": rb"[A-Za-z]", b"digit": rb"[0-9]", b"alnum": rb"[A-Za-z0-9]", b"upper": rb"[A-Z]",
    b"lower": rb"[a-z]", b"space": rb"[ \t-\r]", b"blank": rb"[ \t]", b"xdigit": rb"[0-9A-Fa-f]",
    b"punct": rb"[!-/:-@\[-`{-~]", b"cntrl": rb"[\x00-\x1f\x7f]", b"graph": rb"[!-~]",
    b"print": rb"[ -~]",
}  # fmt: skip


class Globs:
    """Raises UsageError that names the pattern for one that is malformed or can match nothing."""

    def __init__(self, patterns: Sequence[bytes]) -> None:
        translated = [t for t in map(_translate, patterns) if t is not None]
        self._match = re.compile(b"|".join(translated), re.DOTALL).match if translated else None

    def excludes(self, path: bytes, is_directory: bool) -> bool:
        """*path* is relative to the item's root, without a slash at either end."""
        if self._match is None:
            return False
        return self._match(path + b"/" if is_directory else path) is not None


def _translate(pattern: bytes) -> bytes | None:
    """A regular expression for paths, where a directory's ends in "/"; None for a comment."""
    body = _without_trailing_spaces(pattern.rstrip(b"\r\n"))
    if not body or body.startswith(b"#"):
        return None
    if body.startswith(b"!"):
        raise _bad(pattern, "negation is not supported")
    only_directories = body.endswith(b"/")
    body = body.removesuffix(b"/")
    start = b"" if b"/" in body else b"(?:.*/)?"
    expression = _segments(body.removeprefix(b"/"), pattern)
    return start + expression + (b"/" if only_directories else rb"(?:/|\Z)")


def _without_trailing_spaces(body: bytes) -> bytes:
    kept = body.rstrip(b" ")
    backslashes = len(kept) - len(kept.rstrip(b"\\"))
    return kept + b" " if backslashes % 2 and kept != body else kept


def _segments(body: bytes, pattern: bytes) -> bytes:
    segments = body.split(b"/")
    expression = b""
    for index, segment in enumerate(segments):
        if segment in (b"", b".", b".."):
            raise _bad(pattern, "no path has such a part")
        last = index == len(segments) - 1
        if segment == b"**" and (len(segments) > 1 or pattern.startswith(b"/")):
            expression += b".+" if last else b"(?:.*/)?"
        else:
            expression += b"(?=[^/])" + _segment(segment, pattern) + (b"" if last else b"/")
    return expression


def _segment(segment: bytes, pattern: bytes) -> bytes:
    expression, at = b"", 0
    while at < len(segment):
        here = segment[at : at + 1]
        at += 1
        if here == b"*":
            while segment[at : at + 1] == b"*":
                at += 1
            expression += b"[^/]*"
        elif here == b"?":
            expression += b"[^/]"
        elif here == b"[":
            values, at = _bracket(segment, at, pattern)
            expression += _one_of(values)
        else:
            if here == b"\\":
                here, at = _escaped(segment, at, pattern)
            expression += re.escape(here)
    return expression


def _bracket(segment: bytes, at: int, pattern: bytes) -> tuple[set[int], int]:
    """The bytes that the bracket expression at *at* matches, and the offset after it."""
    negated = segment[at : at + 1] in (b"!", b"^")
    at += negated
    values: set[int] = set()
    first = True
    while first or segment[at : at + 1] != b"]":
        first = False
        if segment.startswith(b"[:", at):
            more, at = _class(segment, at + 2, pattern)
        else:
            more, at = _range(segment, at, pattern)
        values |= more
    return (set(range(256)) - values if negated else values) - {_SLASH}, at + 1


def _class(segment: bytes, at: int, pattern: bytes) -> tuple[set[int], int]:
    end = segment.find(b":]", at)
    members = _CLASSES.get(segment[at:end]) if end >= 0 else None
    if members is None:
        raise _bad(pattern, "unknown character class")
    return {value for value in range(256) if re.match(members, bytes((value,)))}, end + 2


def _range(segment: bytes, at: int, pattern: bytes) -> tuple[set[int], int]:
    low, at = _member(segment, at, pattern)
    if segment[at : at + 1] != b"-" or segment[at + 1 : at + 2] in (b"]", b""):
        return {low}, at
    high, at = _member(segment, at + 1, pattern)
    if high < low:
        raise _bad(pattern, "a range that runs backwards")
    return set(range(low, high + 1)), at


def _member(segment: bytes, at: int, pattern: bytes) -> tuple[int, int]:
    here = segment[at : at + 1]
    if not here:
        raise _bad(pattern, "a bracket is not closed")
    if here != b"\\":
        return here[0], at + 1
    escaped, at = _escaped(segment, at + 1, pattern)
    return escaped[0], at


def _escaped(segment: bytes, at: int, pattern: bytes) -> tuple[bytes, int]:
    if at >= len(segment):
        raise _bad(pattern, "nothing follows the last backslash")
    return segment[at : at + 1], at + 1


def _one_of(values: set[int]) -> bytes:
    if not values:
        return b"(?!)"
    return b"[" + b"".join(rb"\x%02x" % value for value in sorted(values)) + b"]"


def _bad(pattern: bytes, why: str) -> UsageError:
    shown = pattern.decode("utf-8", "backslashreplace")
    return UsageError(f"pattern {shown!r}: {why}", "the rules are gitignore's, without negation")
