"""What scripts depend on: where results and words go, exit codes, and where options may stand."""

import base64
import errno
import fcntl
import json
import os
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from transfer import errors
from transfer.cli import failures
from transfer.cli.main import COMMANDS, make_parser
from transfer.cli.output import printable
from transfer.errors import NoSpace, TransferError, TransientError

BUG = (
    "import sys, transfer; from transfer.cli import points; from transfer.cli.main import main\n"
    "def run(args): raise {}\n"
    "points.run = run; sys.exit(main(['points', *sys.argv[1:]]))"
)


def broken(error, *words):
    return subprocess.run(
        [sys.executable, "-c", BUG.format(error), *words], capture_output=True, text=True
    )


@pytest.mark.parametrize("error", ["ValueError('what')", "transfer.errors.TransferError('what')",
                                   "FileNotFoundError(2, 'what')"])  # fmt: skip
def test_a_bug_shows_its_traceback_and_where_to_report_it(error):
    done = broken(error, "--json")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["exit"], answer["error"]["code"]) == (70, 70, "bug")
    assert "what" in answer["error"]["message"]
    assert "report" in answer["error"]["hint"]
    assert "Traceback" in done.stderr
    assert broken(error).stdout == ""


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        ("OSError(28, 'No space', 'x')", 75, "x: No space"),
        ("PermissionError(13, 'denied', b'y')", 64, "y: denied"),
        ("OSError(5, 'I/O error')", 75, "I/O error"),
        ("MemoryError()", 75, "memory"),
        ("KeyboardInterrupt()", 130, "interrupted"),
        ("transfer.errors.NoSpace('full')", 75, "full"),
    ],
)
def test_what_the_system_says_is_no_bug(error, code, says):
    done = broken(error, "--json")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["exit"]) == (code, code)
    assert says in answer["error"]["message"]
    assert "Traceback" not in done.stderr
    assert says in done.stderr


def test_what_the_database_says_of_its_disk_is_no_bug(tmp_path):
    with sqlite3.connect(tmp_path / "x") as database:
        database.execute("PRAGMA max_page_count=2")
        database.execute("CREATE TABLE t (a)")
        with pytest.raises(sqlite3.OperationalError) as full:
            database.execute("INSERT INTO t VALUES (zeroblob(100000))")
        assert isinstance(failures.ours(full.value), NoSpace)
        with pytest.raises(sqlite3.OperationalError) as wrong:
            database.execute("SELECT nothing")
        assert failures.ours(wrong.value) is None
    database.close()


def test_each_error_says_what_to_do(capsys):
    def leaves(kind):
        # Those of other modules never get as far as a person.
        below = [each for each in kind.__subclasses__() if each.__module__ == errors.__name__]
        return [leaf for each in below for leaf in leaves(each)] if below else [kind]

    for kind in leaves(TransferError):
        code = failures.show(kind("what"), as_json=True)
        error = json.loads(capsys.readouterr().out)["error"]
        assert code == kind.exit_code != 70
        assert error["hint"], kind


def test_why_it_failed_is_said_on_request(capsys):
    try:
        try:
            raise OSError(errno.EIO, "the disk")
        except OSError as error:
            raise TransientError("the vault") from error
    except TransientError as error:
        failures.show(error, as_json=False, verbose=True)
        assert "because of OSError: [Errno 5] the disk" in capsys.readouterr().err
        failures.show(error, as_json=False)
        assert "because" not in capsys.readouterr().err
    failures.show(OSError(errno.EIO, "the disk"), as_json=False, verbose=True)


# Output


def run(shell, *words, **options):
    return subprocess.run(shell.command(*words), capture_output=True, text=True, **options)


def test_results_go_to_stdout_and_words_to_stderr(stocked, tmp_path):
    os.mkfifo(tmp_path / "tree" / "pipe")
    (tmp_path / "tree" / "closed\n").mkdir()
    done = run(stocked, "points")
    assert (done.returncode, done.stderr) == (0, "")
    assert stocked.point[:16] in done.stdout
    done = run(stocked, "points", "nope")
    assert (done.returncode, done.stdout) == (64, "")
    assert done.stderr.startswith("transfer: there is no item nope")
    done = run(stocked, "ls", "home", "tree", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.fixture(params=["buffered", "at once"])
def writing(request, monkeypatch):
    """How Python writes to stdout."""
    monkeypatch.setenv("PYTHONUNBUFFERED", "" if request.param == "buffered" else "1")


def test_nobody_reads_the_results(stocked, writing):
    for closed in (True, False):
        read, write = os.pipe()
        if closed:
            os.close(read)
        done = subprocess.run(
            stocked.command("ls", "home", "tree"), stdout=write, stderr=subprocess.PIPE, text=True
        )
        os.close(write)
        assert (done.returncode, done.stderr) == (141 if closed else 0, "")
        if not closed:
            os.close(read)


def test_results_that_cannot_be_written(stocked, writing):
    for words in (("points",), ("points", "nope", "--json")):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                stocked.command(*words), stdout=full, stderr=subprocess.PIPE, text=True
            )
        assert done.returncode in (64, 75)
        assert "Exception" not in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stderr.startswith("transfer: ")


@pytest.mark.parametrize(
    ("name", "shown"),
    [("plain é ☃", "plain é ☃"), ("a\x1b[31mb\n", r"a\x1b[31mb\x0a"), (b"\xff\xc3", r"\xff\xc3"),
     ("\udcff", r"\xff"), ("\ud800", r"\xed\xa0\x80"), ("\u202e", r"\xe2\x80\xae")],
)  # fmt: skip
def test_nothing_is_printed_that_a_terminal_would_obey(name, shown):
    assert printable(name) == shown


def test_names_of_any_bytes_come_out_of_any_terminal(stocked, tmp_path):
    (tmp_path / "tree" / "é☃\n").touch()
    assert stocked("backup", "home", tmp_path / "tree")[0] == 0
    for encoding in ("ascii", "utf-8"):
        done = subprocess.run(
            stocked.command("ls", "home", "tree"), capture_output=True, text=False,
            env={**os.environ, "PYTHONIOENCODING": encoding},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert b"caf\\xe9" in done.stdout
        assert b"\\x0a" in done.stdout


# ls


def test_ls_has_every_name_exactly(stocked, tmp_path):
    tree = tmp_path / "tree"
    code, answer = stocked("ls", "home", "tree")
    assert code == 0
    entries = {entry["path"]: entry for entry in answer["entries"]}
    assert {
        base64.b64decode(each["path_b64"]) if "path_b64" in each else each["path"].encode()
        for each in answer["entries"]
    } == {b"tree/" + os.fsencode(name) for name in os.listdir(tree)}
    assert entries["tree/caf\\xe9"]["path_b64"]
    assert "path_b64" not in entries["tree/small"]
    small, stat = entries["tree/small"], (tree / "small").stat()
    assert (small["type"], small["size"], small["mode"], small["mtime"]) == (
        "file", 5, stat.st_mode & 0o7777, stat.st_mtime_ns,
    )  # fmt: skip
    assert [entry["path"] for entry in answer["entries"]] == sorted(entries)


@pytest.mark.parametrize("path", ["", "/", "."])
def test_ls_of_the_root_has_the_paths(stocked, path):
    code, answer = stocked("ls", "home", path)
    assert (code, [each["path"] for each in answer["entries"]]) == (0, ["tree"])


@pytest.mark.parametrize("path", ["tree/deep/deeper/medium", "/tree//deep/./deeper/medium"])
def test_ls_of_a_file_is_that_file(stocked, path):
    code, answer = stocked("ls", "home", path)
    assert code == 0
    assert [(e["path"], e["size"]) for e in answer["entries"]] == [
        ("tree/deep/deeper/medium", 100_000)
    ]


def test_ls_of_a_wide_directory(quick, tmp_path):
    wide = tmp_path / "wide"
    wide.mkdir()
    for number in range(1500):
        (wide / f"{number:04}").touch()
    assert quick("backup", "wide", wide)[0] == 0
    assert len(quick("ls", "wide", "wide")[1]["entries"]) == 1500
    for name in ("0000", "1499"):
        code, answer = quick("ls", "wide", f"wide/{name}")
        assert (code, [each["path"] for each in answer["entries"]]) == (0, [f"wide/{name}"])
    for name in ("0000x", "1500"):
        assert quick("ls", "wide", f"wide/{name}")[0] == 64


def test_points_and_status_tell_of_each_item(stocked, tmp_path):
    second = stocked("backup", "home", tmp_path / "tree")[1]["point"]
    other = stocked("backup", "also", tmp_path / "tree" / "small")[1]["point"]
    code, answer = stocked("points")
    found = [(each["item"], each["point"], each["number"]) for each in answer["points"]]
    assert found == [("also", other, 1), ("home", stocked.point, 1), ("home", second, 2)]
    home = answer["points"][-1]
    assert set(home) == {
        "point", "item", "machine", "number", "time", "consistency", "bytes_source", "files",
    }  # fmt: skip
    assert home["time"].endswith("Z")
    code, answer = stocked("status")
    assert code == 0
    assert {each["item"]: each["point"] for each in answer["items"]} == {
        "also": other, "home": second,
    }  # fmt: skip
    assert {"machine", "machine_id", "vault", "domain", "certificate_end"} < set(answer)


# Words


@pytest.mark.parametrize(
    "words",
    [
        ("--json", "restore", "I", "--to", "T", "P", "Q", "--include", "G"),
        ("restore", "--to", "T", "I", "--json", "P", "--include", "G", "Q"),
        ("restore", "I", "P", "Q", "--to=T", "--include=G", "--json"),
        ("--json", "restore", "--include", "G", "--to", "T", "--", "I", "P", "Q"),
    ],
)
def test_options_may_stand_anywhere(words):
    args = make_parser("restore").parse_args(words)
    assert (args.item, args.paths, str(args.to), args.include) == ("I", ["P", "Q"], "T", ["G"])
    assert args.json
    assert not args.quiet


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_complete(command, capsys):
    with pytest.raises(SystemExit) as end:
        make_parser(command).parse_args([command, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert f"  transfer {command} " in text.partition("Examples:")[2] or command == "key"
    assert "Exit status" in text or command == "key"
    for parser in make_parser(command)._subparsers._group_actions[0].choices.values():
        for action in parser._actions:
            assert action.help or command == "key", action
    for option in ("--json", "--quiet", "--verbose"):
        assert option in text


def test_an_option_is_not_shortened(quick):
    quick.refused(64, "usage-error", "points", "--pass", "x", plain=True, says=["--pass"])


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_commands_options_and_files(shell):
    done = subprocess.run(
        [sys.executable, "-m", "transfer", "--print-completion", shell],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    for word in ("restore", "--passphrase-file", "changed", "rebuild"):
        assert word.strip("-") in done.stdout
    if shell == "bash":
        checked = subprocess.run(["bash", "-n"], input=done.stdout, text=True)
        assert checked.returncode == 0
        assert "_shtab_compgen_files" in done.stdout


# Waiting for a vault


def test_a_backup_waits_for_a_vault_that_is_in_use(stocked, tmp_path):
    backup = ("backup", "home", tmp_path / "tree", "--give-up-after")
    with (tmp_path / "vault" / "lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        begun = time.monotonic()
        assert stocked(*backup, "1.5s")[0] == 75
        assert time.monotonic() - begun >= 1.5
        freed = threading.Timer(1, fcntl.flock, (lock, fcntl.LOCK_UN))
        freed.start()
        code, answer = stocked.started(*backup, "1m")
        freed.join()
    assert code == 0, answer
