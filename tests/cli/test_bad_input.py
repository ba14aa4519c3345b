"""Bad input: a clear error, the contract's exit code, no traceback, and nothing lost."""

import base64
import fcntl
import json
import os
import unicodedata

import pytest

from tests.cli.conftest import contents, make_tree
from tests.cli.machine import powerless

NEW = "a passphrase with an ümlaut in it"


@pytest.fixture
def unharmed(stocked, tmp_path):
    """The stock's shell; afterwards all frames, records and state are what they were."""

    def kept():
        state = json.loads((tmp_path / "state" / "machine.json").read_text())
        vault = tmp_path / "vault"
        return state, contents(vault / "packs"), contents(vault / "records")

    before = kept()
    yield stocked
    assert kept() == before


# Passphrase


def test_a_wrong_passphrase(unharmed, tmp_path):
    (tmp_path / "wrong").write_text("not the passphrase at all")
    for words in (("backup", "home", tmp_path / "tree"), ("points",), ("verify", "home")):
        unharmed.refused(77, "wrong-passphrase", *words, passphrase="wrong", says=["passphrase"])
    assert unharmed("backup", "x", tmp_path / "tree", passphrase="wrong", state="new")[0] == 77


def test_a_short_passphrase(unharmed, tmp_path):
    (tmp_path / "short").write_text("fifteen letters\n")
    says = [tmp_path / "short", "15", "16"]
    unharmed.refused(64, "usage-error", "points", passphrase="short", says=says)
    unharmed.refused(
        64, "usage-error", "backup", "home", tmp_path / "tree",
        passphrase="short", vault="new", says=says,
    )  # fmt: skip
    assert not (tmp_path / "new" / "records").exists()


@pytest.mark.parametrize("raw", [b"\xff" * 20, b"x" * 70_000, None])
def test_a_passphrase_file_that_is_none(unharmed, tmp_path, raw):
    if raw is not None:
        (tmp_path / "odd").write_bytes(raw)
    unharmed.refused(64, "usage-error", "points", passphrase="odd", says=[tmp_path / "odd"])


def test_no_passphrase_and_no_terminal(unharmed, tmp_path):
    where = ("--vault", tmp_path / "vault", "--state", tmp_path / "state")
    unharmed.refused(64, "usage-error", "points", *where, plain=True, says=["terminal"])


def test_the_same_passphrase_from_another_keyboard(quick, tmp_path):
    (tmp_path / "made").write_text(unicodedata.normalize("NFC", NEW))
    decomposed = unicodedata.normalize("NFD", NEW).encode()
    (tmp_path / "typed").write_bytes(b"\xef\xbb\xbf" + decomposed + b"\r\n")
    (tmp_path / "file").touch()
    assert quick("backup", "x", tmp_path / "file", passphrase="made", vault="v")[0] == 0
    assert quick("points", passphrase="typed", vault="v")[0] == 0


# Keyring


def keyrings(top):
    return sorted((top / "vault" / "records" / "keyrings").glob("*/0*"))


def test_a_damaged_keyring_is_named_and_never_replaced(stocked, tmp_path):
    (path,) = keyrings(tmp_path)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    before = contents(tmp_path / "vault" / "records")
    for state in ("state", "new"):
        code, answer = stocked("backup", "home", tmp_path / "tree", state=state)
        assert (code, answer["exit"]) == (65, 65)
        assert "keyring" in answer["error"]["message"]
        assert answer["error"]["hint"]
    assert contents(tmp_path / "vault" / "records") == before


def test_a_keyring_of_another_domain(stocked, tmp_path):
    (tmp_path / "file").touch()
    assert stocked("backup", "x", tmp_path / "file", vault="other", state="other-state")[0] == 0
    (ours,) = keyrings(tmp_path)
    (theirs,) = sorted((tmp_path / "other" / "records" / "keyrings").glob("*/0*"))
    ours.write_bytes(theirs.read_bytes())
    before = contents(tmp_path / "vault" / "records")
    code, answer = stocked("backup", "home", tmp_path / "tree")
    assert code == 65
    assert "keyring" in answer["error"]["message"]
    assert answer["error"]["hint"]
    assert contents(tmp_path / "vault" / "records") == before


def test_a_damaged_keyring_of_others_is_not_in_the_way(stocked, tmp_path):
    (tmp_path / "other").write_text("another machine's own passphrase")
    assert stocked("register", "--name", "second", state="second", passphrase="other")[0] == 0
    (ours,) = [path for path in keyrings(tmp_path) if domain(tmp_path) in str(path)]
    (theirs,) = [path for path in keyrings(tmp_path) if path != ours]
    theirs.write_bytes(theirs.read_bytes()[:-1])
    assert stocked("points", state="third")[0] == 0
    # Which of the two is ours without the state? One is damaged, so nobody can say.
    assert stocked("points", state="fourth", passphrase="other")[0] == 65


def domain(top):
    (path,) = (top / "state" / "vaults").iterdir()
    return base64.b64decode(json.loads(path.read_text())["domain"]).hex()


# Item, point, path


def test_an_unknown_item(unharmed):
    for words in (("points", "nope"), ("ls", "nope"), ("verify", "nope"), ("ls", "vm9/home")):
        unharmed.refused(64, "not-found", *words, says=[words[1]])


def test_an_unknown_point(unharmed, tmp_path):
    out = tmp_path / "out"
    for point in ("ffffffffffff", "zz", "-"):
        unharmed.refused(
            64, "not-found", "restore", f"home@{point}", "--to", out, says=["home", point]
        )
    assert not out.exists()


def test_a_prefix_that_two_points_have(stocked, tmp_path):
    points = [stocked.point]
    while len({point[0] for point in points}) == len(points):
        code, answer = stocked("backup", "home", tmp_path / "tree" / "empty", "--workers", 0)
        assert code == 0
        points.append(answer["point"])
    twice = points[-1][0]
    stocked.refused(64, "ambiguous", "ls", f"home@{twice}", says=[twice, "2 points"])
    assert stocked("ls", f"home@{points[-1]}")[0] == 0


def test_a_missing_path(unharmed, tmp_path):
    missing = tmp_path / "tree" / "gone"
    unharmed.refused(
        64, "not-found", "backup", "home", missing, "--workers", 0, says=[missing, "No such file"]
    )
    unharmed.refused(64, "not-found", "ls", "home", "tree/gone", says=["gone"])
    unharmed.refused(64, "not-found", "ls", "home", "tree/small/x", says=["tree/small"])


def test_a_path_to_restore_that_the_point_lacks(unharmed, tmp_path):
    out = tmp_path / "out"
    unharmed.refused(
        64, "not-found", "restore", "home", "tree/gone", "--to", out, says=["tree/gone"]
    )


def test_an_unreadable_path(unharmed, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(0)
    try:
        code, answer = unharmed("backup", "home", closed, "--workers", 0, before=powerless)
        assert code == 64
        assert str(closed) in answer["error"]["message"]
        assert "denied" in answer["error"]["message"]
        assert answer["error"]["hint"]
        below = closed / "below"
        unharmed.refused(
            64, "not-found", "backup", "home", below, says=[below, "denied"], before=powerless
        )
    finally:
        closed.chmod(0o700)


def test_unreadable_files_in_a_tree_are_named_and_the_rest_is_taken(stocked, tmp_path):
    tree = tmp_path / "tree"
    (tree / "small").chmod(0)
    (tree / "deep" / "deeper").chmod(0)
    code, answer = stocked("backup", "home", tree, before=powerless)
    (tree / "deep" / "deeper").chmod(0o700)
    assert code == 3
    named = {os.path.basename(each["path"]) for each in answer["warnings"]}
    assert named == {"small", "hard", "deeper"} or named == {"small", "deeper"}
    assert stocked("ls", "home", "tree/nothing")[0] == 0


def test_two_paths_with_the_same_last_component(unharmed, tmp_path):
    (tmp_path / "other" / "tree").mkdir(parents=True)
    unharmed.refused(
        64, "usage-error", "backup", "home", tmp_path / "tree", tmp_path / "other" / "tree",
        says=["tree"],
    )  # fmt: skip


@pytest.mark.parametrize("item", ["", "a b", "ä", "x" * 65, "home/alice", "../x", "a@b"])
def test_a_bad_item(unharmed, tmp_path, item):
    unharmed.refused(64, "usage-error", "backup", item, tmp_path / "tree", says=[repr(item)])


# GLOB, RATE, and other values


@pytest.mark.parametrize("glob", ["!x", "[a", "a//b", "../x", "x\\"])
def test_a_bad_glob(unharmed, tmp_path, glob):
    out = tmp_path / "out"
    unharmed.refused(
        64, "usage-error", "backup", "home", tmp_path / "tree", "--exclude", glob, says=[repr(glob)]
    )
    unharmed.refused(
        64, "usage-error", "restore", "home", "--to", out, "--include", glob, says=[repr(glob)]
    )
    assert not out.exists()


def test_a_missing_file_of_globs(unharmed, tmp_path):
    missing = tmp_path / "globs"
    unharmed.refused(
        64, "usage-error", "backup", "home", tmp_path / "tree", "--exclude-from", missing,
        says=[missing],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("option", "value"),
    [("--up", "1T"), ("--down", "fast"), ("--up", "0"), ("--connections", "0"),
     ("--connections", "many"), ("--workers", "-1"), ("--workers", "65"), ("--workers", "two"),
     ("--weight", "0"), ("--weight", "65"), ("--weight", "1.5")],
)  # fmt: skip
def test_a_bad_value_names_its_option(unharmed, tmp_path, option, value):
    for words in (("backup", "home", tmp_path / "tree"), ("restore", "home", "--to", "x")):
        unharmed.refused(64, "usage-error", *words, f"{option}={value}", says=[option])


@pytest.mark.parametrize(
    ("option", "value"),
    [("--block-size", "1000"), ("--block-size", "8M"), ("--block-size", "x"),
     ("--give-up-after", "1w"), ("--give-up-after", "soon"), ("--compression", "most")],
)  # fmt: skip
def test_a_bad_value_of_a_backup(unharmed, tmp_path, option, value):
    unharmed.refused(64, "usage-error", "backup", "home", tmp_path / "tree", option, value)


@pytest.mark.parametrize("share", ["0%", "5", "101%", "half"])
def test_a_bad_share(unharmed, share):
    unharmed.refused(64, "usage-error", "verify", "home", "--sample", share, says=["--sample"])


def test_a_limit_that_would_limit_nothing(unharmed, tmp_path):
    backup = ("backup", "home", tmp_path / "tree", "--dry-run")
    for option, value in (("--up", "1M"), ("--down", "20Mbit"), ("--connections", "4"),
                          ("--weight", "2")):  # fmt: skip
        unharmed.refused(
            64, "usage-error", *backup, option, value, says=[option, tmp_path / "vault"]
        )


def test_no_limit_is_no_lie(stocked, tmp_path):
    nothing = ("--up", "off", "--down", "off", "--connections", "auto")
    assert stocked("backup", "home", tmp_path / "tree", *nothing)[0] == 0


@pytest.mark.parametrize(
    "words", [("bogus",), (), ("restore", "home"), ("points", "--bogus"), ("backup", "home"),
              ("vault", "melt", "x"), ("restore", "home", "--t", "x")],
)  # fmt: skip
def test_what_the_parser_does_not_understand(quick, words):
    quick.refused(64, "usage-error", *words, plain=True)


def test_without_a_vault(quick):
    quick.refused(64, "not-registered", "points", "--state", quick.top / "new", plain=True,
                  says=["vault"])  # fmt: skip


# The vault's DIR


@pytest.mark.parametrize("words", [("points",), ("backup", "home", "tree")])
def test_a_directory_that_is_no_vault(stocked, tmp_path, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "letter").write_text("mine")
    before = contents(foreign)
    stocked.refused(64, "not-found", *words, vault="foreign", says=[foreign])
    assert contents(foreign) == before
    stocked.refused(64, "not-found", *words, vault="passphrase", says=[tmp_path / "passphrase"])


def test_a_missing_vault_is_not_made_by_who_only_reads(quick, tmp_path):
    for words in (("points",), ("ls", "home"), ("restore", "home", "--to", tmp_path / "out")):
        quick.refused(64, "not-found", *words, vault="gone", says=[tmp_path / "gone"])
    quick.refused(64, "not-found", "vault", "verify", tmp_path / "gone", plain=True)
    assert not (tmp_path / "gone").exists()


def test_a_vault_of_a_newer_version(stocked, tmp_path):
    path = tmp_path / "vault" / "vault"
    written = json.loads(path.read_text())
    newer = written | {"format": "transfer vault 2"}
    featured = written | {"features": {"read": ["holograms"]}}
    for changed, what in ((newer, "transfer vault 2"), (featured, "holograms")):
        path.write_text(json.dumps(changed))
        before = contents(tmp_path / "vault")
        for words in (("points",), ("backup", "home", tmp_path / "tree")):
            stocked.refused(64, "newer-format", *words, says=[what])
        assert contents(tmp_path / "vault") == before


def test_a_vault_that_another_process_has_open(unharmed, tmp_path):
    with (tmp_path / "vault" / "lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for words in (("points",), ("backup", "home", tmp_path / "tree")):
            unharmed.refused(75, "lock-held", *words, says=[tmp_path / "vault"])
        unharmed.refused(
            75, "lock-held", "vault", "rebuild", tmp_path / "vault", plain=True, says=["vault"]
        )


def test_make_tree_is_what_the_stock_holds(stocked, tmp_path):
    """Not about bad input: the comparisons here rest on it."""
    fresh = make_tree(tmp_path / "fresh")
    assert set(contents(fresh)) == set(contents(tmp_path / "tree"))
