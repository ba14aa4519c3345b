"""`transfer key` as scripts use it, and that no key is seen where everybody can look."""

import base64
import contextlib
import io
import json
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.cli.conftest import PASSPHRASE, Shell, make_tree
from transfer.cli.main import main
from transfer.jobs import keyring as keyrings

NEW, NEWEST = "a completely different sentence", "a third one, for nobody who knew it"


class Quick(Shell):
    """The same command line, but in this process: what starts a process each time is `run`."""

    def __call__(self, *words, plain=False, **options):
        threads = ("--workers", 0) if words[0] in ("backup", "restore", "verify") else ()
        _, _, _, *argv = self.command(*words, *threads, "--json", plain=plain, **options)
        out, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            code = main(argv)
        assert "Traceback" not in errors.getvalue(), errors.getvalue()
        return code, json.loads(out.getvalue())


@pytest.fixture
def shell(stocked):
    """One point is there of the very files that stand in its tree."""
    quick = Quick(stocked.top)
    (stocked.top / "new").write_text(NEW + "\n")
    return quick


@pytest.fixture
def point(shell):
    code, answer = shell("backup", "home", shell.top / "tree")
    assert code == 0
    return answer["point"]


def new_of(shell):
    return "--new-passphrase-file", shell.top / "new"


def recovery_of(shell):
    """A new recovery key, in a file."""
    code, answer = shell("key", "recovery")
    assert code == 0
    (shell.top / "printed").write_text(answer["recovery_key"].lower().replace("-", " ") + "\n")
    return answer["recovery_key"], ("--recovery-key-file", shell.top / "printed")


def keyrings_of(shell):
    return sorted((shell.top / "vault" / "records" / "keyrings").rglob("*"), key=str)[1:]


def run(shell, *words, **options):
    """(exit code, stdout, stderr) without --json."""
    done = subprocess.run(
        shell.command(*words, **options), capture_output=True, text=True, check=False, timeout=100
    )
    return done.returncode, done.stdout, done.stderr


def test_status_tells_what_opens_the_keyring(shell):
    code, answer = shell("key", "status")
    assert code == 0
    assert len(answer.pop("domain")) == 32 and len(answer.pop("epoch")) == 16
    assert "transfer key recovery" in answer.pop("hint")
    assert answer == {
        "exit": 0, "version": 1, "generation": 1, "epochs": 1, "passphrases": 1, "recovery_keys": 0,
    }  # fmt: skip
    code, text, _ = run(shell, "key", "status")
    assert code == 0
    assert "recovery keys  0" in text and "transfer key recovery" in text
    recovery_of(shell)
    code, answer = shell("key", "status")
    assert (answer["recovery_keys"], "hint" in answer) == (1, False)


def test_a_new_passphrase_replaces_the_old_and_sends_nothing_again(shell, point):
    code, answer = shell("key", "passphrase", *new_of(shell))
    assert (code, answer["version"], answer["epochs"]) == (0, 2, 1)
    shell.refused(77, "wrong-passphrase", "points", says=("wrong passphrase", "version 2"))
    code, again = shell("backup", "home", shell.top / "tree", passphrase="new")
    assert (code, again["blocks_new"], again["nodes_new"]) == (0, 0, 0)


def test_a_printed_recovery_key_opens_and_replaces_a_lost_passphrase(shell):
    code, text, errors = run(shell, "key", "recovery")
    assert code == 0
    key, *explained = text.splitlines()
    assert key not in errors and "not shown again" in explained[-1]
    (shell.top / "printed").write_text(key)
    recovery = "--recovery-key-file", shell.top / "printed"
    assert shell("points", *recovery, passphrase="lost")[0] == 0
    assert shell("key", "passphrase", *recovery, *new_of(shell), passphrase="lost")[0] == 0
    assert shell("points", passphrase="new")[0] == 0
    assert shell("restore", "home", "--to", shell.top / "out", *recovery, passphrase="lost")[0] == 0


def test_wrong_misread_and_missing_recovery_keys_are_told_apart(shell):
    first, recovery = recovery_of(shell)
    shutil.copy(shell.top / "printed", shell.top / "old")
    recovery_of(shell)
    old = "--recovery-key-file", shell.top / "old"
    shell.refused(77, "wrong-passphrase", "points", *old, says=("wrong recovery key",))
    for typed, says in ((first[:-1], "39 characters"), ("9" + first[1:], "character 1")):
        (shell.top / "printed").write_text(typed)
        error = shell.refused(64, "usage-error", "points", *recovery, says=(says,))
        assert typed[6:11] not in str(error)
    none = "--recovery-key-file", shell.top / "none"
    shell.refused(64, "usage-error", "points", *none, says=(shell.top / "none",))


def test_a_soft_rotation_sends_nothing_again_and_reads_all(shell, point):
    _, recovery = recovery_of(shell)
    code, answer = shell("key", "rotate")
    assert code == 0
    assert (answer["generation"], answer["epochs"], answer["recovery_keys"]) == (1, 2, 1)
    code, again = shell("backup", "home", shell.top / "tree", "--full")  # all is read
    assert (code, again["blocks_new"], again["nodes_new"]) == (0, 0, 0)
    (shell.top / "tree" / "later").write_bytes(os.urandom(5000))
    code, again = shell("backup", "home", shell.top / "tree")
    assert (code, again["blocks_new"]) == (0, 1)
    assert shell("verify", "home", *recovery)[0] == 0
    assert shell("verify", f"home@{point}")[0] == 0


def test_a_hard_rotation_sends_all_again_and_still_reads_the_old(shell, point):
    _, recovery = recovery_of(shell)
    code, answer = shell("key", "rotate", "--hard", *new_of(shell))
    assert code == 0
    assert (answer["generation"], answer["epochs"], answer["recovery_keys"]) == (2, 2, 0)
    assert "transfer key recovery" in answer["hint"]  # it must be printed anew
    shell.refused(77, "wrong-passphrase", "points")
    error = shell.refused(
        77, "wrong-passphrase", "points", *recovery, says=("there is no recovery key",)
    )
    assert "print a new one" in error["hint"]
    code, again = shell("backup", "home", shell.top / "tree", passphrase="new")
    assert code == 0 and again["blocks_new"] >= 7 and again["nodes_new"] > 0
    assert shell("verify", "home", passphrase="new")[0] == 0
    assert shell("verify", f"home@{point}", passphrase="new")[0] == 0


def test_a_hard_rotation_refuses_the_present_passphrase(shell):
    (shell.top / "new").write_bytes(b"\xef\xbb\xbf" + PASSPHRASE.encode() + b"\r\n")
    words = ("key", "rotate", "--hard", *new_of(shell))
    shell.refused(64, "usage-error", *words, says=("another passphrase",))
    assert len(keyrings_of(shell)) == 1


def test_the_same_passphrase_from_another_keyboard_opens(shell):
    (shell.top / "new").write_text("Größe, Mühe und Öl")
    assert shell("key", "passphrase", *new_of(shell))[0] == 0
    for raw in ("Gro\u0308ße, Mu\u0308he und O\u0308l\n", "\ufeffGröße, Mühe und Öl\r\n"):
        (shell.top / "new").write_bytes(raw.encode())
        assert shell("key", "status", passphrase="new")[0] == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("key",), "required"),
        (("key", "destroy"), "destroy"),
        (("key", "status", "--hard"), "--hard"),
        (("key", "passphrase", "--hard"), "--hard"),
        (("key", "rotate", "--new-passphrase-file", "x"), "no new passphrase"),
        (("key", "recovery", "--new-passphrase-file", "x"), "no new passphrase"),
        (("key", "passphrase"), "no terminal"),
        (("key", "rotate", "--hard"), "no terminal"),
        (("key", "passphrase", "--new-passphrase-file", "/no/such"), "/no/such"),
    ],
)
def test_what_an_action_would_ignore_or_lacks_is_64(shell, words, says):
    shell.refused(64, "usage-error", *words, says=(says,))
    assert len(keyrings_of(shell)) == 1


def test_a_recovery_key_is_never_made_where_nobody_sees_it(shell):
    assert run(shell, "key", "recovery", "--quiet")[0] == 64
    assert len(keyrings_of(shell)) == 1


@pytest.mark.parametrize("content", [b"short\n", b"\xff\xfethis is no UTF-8 at all", b""])
def test_a_new_passphrase_that_will_not_do_changes_nothing(shell, content):
    (shell.top / "new").write_bytes(content)
    error = shell.refused(64, "usage-error", "key", "passphrase", *new_of(shell))
    assert str(shell.top / "new") in error["message"]
    assert "short" not in error["message"].replace("transfer", "")
    assert len(keyrings_of(shell)) == 1


@pytest.mark.parametrize("at", [0, 5, 30, 200, 700, -80, -1])
def test_a_damaged_keyring_is_65_and_not_a_wrong_passphrase(shell, at):
    (record,) = keyrings_of(shell)
    raw = bytearray(record.read_bytes())
    raw[at] ^= 1
    record.write_bytes(raw)
    for passphrase in ("passphrase", "new"):
        code, answer = shell("key", "status", passphrase=passphrase)
        assert code == 65 and answer["error"]["hint"]
    assert record.read_bytes() == raw  # never replaced because it does not open


def test_another_domains_keyring_in_its_place_is_65(shell, tmp_path):
    make_tree(shell.top / "other")
    assert shell("backup", "x", shell.top / "other", vault="elsewhere", state="else")[0] == 0
    (record,) = keyrings_of(shell)
    (foreign,) = sorted((shell.top / "elsewhere/records/keyrings").rglob("*"), key=str)[1:]
    shutil.copy(foreign, record)
    code, answer = shell("key", "status")
    assert code == 65 and "domain" in answer["error"]["message"]


def test_machines_that_rotate_at_once_lose_no_epoch(shell):
    command = [*shell.command("key", "rotate"), "--json"]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)
    ]
    codes = [process.wait(100) for process in started]
    for process in started:
        process.stdout.close()
        process.stderr.close()
    assert set(codes) <= {0, 75, 77} and 0 in codes  # done, vault in use, another was faster
    _, answer = shell("key", "status")
    assert answer["epochs"] == 1 + codes.count(0) == answer["version"]


# No key is seen where everybody can look.


def secrets_of(shell, passphrase=PASSPHRASE):
    """All that must not be seen, in the forms in which it might be."""
    raw = keyrings_of(shell)[-1].read_bytes()[28:]
    opened = keyrings.open_keyring(raw, keyrings.Secret(lambda new: passphrase))
    keys = [opened.key, opened.secrets.signing_key, *opened.secrets.id_keys.values()]
    keys += opened.secrets.seal_keys.values()
    forms = [each.encode() for each in (PASSPHRASE, NEW, NEWEST)]
    for key in keys:
        forms += [key, key.hex().encode(), base64.b64encode(key), repr(key)[2:-1].encode()]
    return forms


def seen(content, secrets):
    return [each for each in secrets if each in content]


def descendants(pid):
    """Processes below *pid* that can still be looked at."""
    found = {}
    for task in Path("/proc").glob("[0-9]*"):
        try:
            after_name = (task / "stat").read_text().rpartition(")")[2].split()
            parent = int(after_name[1])
            command, environment = (task / "cmdline").read_bytes(), (task / "environ").read_bytes()
        except (OSError, IndexError):
            continue
        found[int(task.name)] = parent, command + environment
    family = {pid}
    while more := {child for child, (parent, _) in found.items() if parent in family} - family:
        family |= more
    return {child: found[child][1] for child in family & found.keys()}


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="there is no /proc here")
def test_no_secret_is_in_a_process_list(shell):
    key, recovery = recovery_of(shell)
    secrets = [*secrets_of(shell), key.encode(), key.replace("-", "").encode()]
    (shell.top / "large").write_bytes(os.urandom(48 * 2**20))
    command = [*shell.command("backup", "vm", shell.top / "large", "--workers", 2), *recovery]
    looked = {}
    with subprocess.Popen([*map(str, command), "--json"], stdout=subprocess.PIPE) as process:
        reader = threading.Thread(target=process.stdout.read)
        reader.start()
        while process.poll() is None:
            time.sleep(0.02)
            for pid, text in descendants(process.pid).items():
                looked.setdefault(pid, set()).add(text)
        reader.join()
    assert process.returncode == 0
    everything = b"".join(set().union(*looked.values()))
    assert len(looked) == 3 and b"worker_process" in everything  # the command and its workers
    assert not seen(everything, secrets)


def test_no_secret_is_printed_or_left_in_the_state_directory(shell):
    key, recovery = recovery_of(shell)
    (shell.top / "newest").write_text(NEWEST)
    (shell.top / "wrong").write_text(key.replace("-", "")[:39])
    wrong = "--recovery-key-file", shell.top / "wrong"
    before, said = secrets_of(shell), []
    for words, options in (
        (("key", "status", *recovery), {}),
        (("key", "status", *wrong, "--json"), {}),
        (("key", "passphrase", *new_of(shell), "--verbose"), {}),
        (("key", "rotate", "--hard", "--new-passphrase-file", shell.top / "newest", "--json"),
         {"passphrase": "new"}),
        (("backup", "home", shell.top / "tree", "--verbose"), {"passphrase": "newest"}),
    ):  # fmt: skip
        said += run(shell, *words, **options)[1:]
    secrets = [*before, *secrets_of(shell, NEWEST), key.encode(), key[:11].encode()]
    assert not seen("".join(said).encode(), secrets)
    for path in (shell.top / "state").rglob("*"):
        if path.is_file():
            assert not seen(path.read_bytes(), secrets)
            assert path.stat().st_mode & 0o077 == 0
    for path in (shell.top / "vault").rglob("*"):
        if path.is_file():
            assert not seen(path.read_bytes(), secrets)


def test_keys_that_were_replaced_are_not_used_again_when_the_vault_is_an_older_copy(shell):
    top, tree = shell.top, shell.top / "tree"
    shutil.copytree(top / "vault", top / "older", symlinks=True)
    assert shell("key", "rotate")[0] == 0
    (top / "vault").rename(top / "newer")
    (top / "older").rename(top / "vault")
    code, answer = shell("backup", "home", tree)
    assert (code, answer["error"]["code"]) == (65, "vault-rolled-back")
    assert shell("restore", "home", "--to", top / "out")[0] == 0
    assert shell("key", "rotate")[0] == 0
    assert shell("backup", "home", tree)[0] == 0
