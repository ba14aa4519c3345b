"""Globs follow gitignore's rules, except that nothing is taken back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.errors import UsageError
from transfer.policy.globs import Globs

# pattern, then what it excludes and what not; a "/" at the end says that it is a directory
CASES = [
    (b"*.o", b"a.o b/c.o b.o/ b.o/x .o", b"a.oo a.o.c o"),
    (b"cache/", b"cache/ a/cache/ cache/x a/cache/b/c", b"cache a/cache"),
    (b"/build", b"build build/ build/x", b"a/build builds"),
    (b"doc/*.pdf", b"doc/a.pdf doc/.pdf", b"a/doc/a.pdf doc/a/b.pdf doc/"),
    (b"doc/*", b"doc/a doc/a/b", b"doc doc/ x/doc/a"),
    (b"**/foo", b"foo a/foo a/b/foo foo/x", b"afoo a/foob"),
    (b"**/foo/bar", b"foo/bar a/foo/bar", b"foo/x/bar bar"),
    (b"abc/**", b"abc/x abc/d/ abc/d/e", b"abc abc/ x/abc/y"),
    (b"a/**/b", b"a/b a/x/b a/x/y/b a/b/c", b"a/xb ab b x/a/b"),
    (b"/**", b"a a/ a/b", b""),
    (b"**", b"a a/ a/b", b""),
    (b"a**b", b"ab axxb d/ab", b"a/b"),
    (b"x/a**b", b"x/ab x/azb", b"x/a/b"),
    (b"?", b"a \xff a/b", b"ab"),
    (b"a?c", b"abc", b"a/c ac"),
    (b"[a-c]x", b"ax bx", b"dx Ax"),
    (b"[!a-c]x", b"dx \xffx", b"ax /x"),
    (b"[^a]x", b"bx", b"ax"),
    (b"[]]x", b"]x", b"[x"),
    (b"[a-]x", b"-x ax", b"bx"),
    (b"[[:digit:]_]x", b"5x _x", b"ax :x"),
    (b"[\\]a]", b"] a", b"\\"),
    (rb"\#x", b"#x", b"x"),
    (rb"\!x", b"!x", b"x"),
    (rb"\*", b"*", b"a"),
    (b"x  ", b"x", b""),
    (b"\xff*", b"\xff \xff\xfe", b"\xfe"),
    (b"*/", b"a/ a/b", b"a"),
    (b"a.b", b"a.b", b"axb"),
    (b"x\r\n", b"x", b"y"),
]


@pytest.mark.parametrize(("pattern", "excluded", "kept"), CASES, ids=repr)
def test_what_a_pattern_excludes(pattern, excluded, kept):
    globs = Globs([pattern])
    for path in excluded.split():
        assert globs.excludes(path.removesuffix(b"/"), path.endswith(b"/")), path
    for path in kept.split():
        assert not globs.excludes(path.removesuffix(b"/"), path.endswith(b"/")), path


def test_an_escaped_space_at_the_end_counts():
    assert Globs([rb"x\ "]).excludes(b"x ", False)
    assert not Globs([rb"x\ "]).excludes(b"x", False)


def test_a_name_may_hold_a_line_end():
    assert Globs([b"a*b"]).excludes(b"a\nb", False)
    assert not Globs([b"b"]).excludes(b"b\n", False)


def test_comments_and_empty_lines_exclude_nothing():
    assert not Globs([b"", b"# a", b"\n", b"   "]).excludes(b"a", False)
    assert not Globs([]).excludes(b"a", True)


def test_any_of_several_is_enough():
    globs = Globs([b"a", b"/b", b"c/"])
    assert [globs.excludes(path, False) for path in (b"x/a", b"b", b"x/b", b"c", b"c/d")] == [
        True, True, False, False, True,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "pattern",
    [
        b"!a",
        b"[a",
        b"a\\",
        b"[z-a]",
        b"[[:nope:]]",
        b"/",
        b"a//b",
        b"../a",
        b"./a",
        b"[\\",
        b"[!",
        b"a[b/]d",
    ],
)
def test_bad_patterns_are_named(pattern):
    with pytest.raises(UsageError) as raised:
        Globs([b"good", pattern])
    assert repr(pattern.decode()) in str(raised.value)


parts = st.binary(min_size=1, max_size=6).filter(lambda part: not set(part) & {0, 0x2F})


@given(st.lists(parts, min_size=1, max_size=4), st.booleans())
def test_a_path_escaped_excludes_itself_and_what_is_below(path, is_directory):
    if {b".", b".."} & set(path):
        return
    escaped = b"/" + b"/".join(b"".join(b"\\%c" % byte for byte in part) for part in path)
    if escaped.rstrip(b"\r\n") != escaped:
        return  # a line end at the end of a pattern cannot be said
    globs = Globs([escaped])
    assert globs.excludes(b"/".join(path), is_directory)
    assert globs.excludes(b"/".join([*path, b"below"]), False)
    assert not globs.excludes(b"/".join([b"x", *path]), False) or path[0] == b"x"


@given(st.binary(max_size=12))
def test_any_bytes_are_a_pattern_or_refused(pattern):
    try:
        Globs([pattern]).excludes(b"some/path", False)
    except UsageError:
        pass
