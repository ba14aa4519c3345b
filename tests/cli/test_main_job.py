"""The command line as scripts use it: real processes, exit codes and JSON."""

import filecmp
import os
import subprocess
import sys

import pytest


def same(left, right):
    found = filecmp.dircmp(left, right)
    assert not (found.left_only or found.right_only or found.diff_files or found.funny_files)
    for name in found.common_dirs:
        same(left / name, right / name)


def test_a_tree_comes_back_and_a_second_run_stores_nothing(shell, tree, tmp_path):
    code, first = shell.started("backup", "home", tree)
    assert code == 0
    assert first["files"] == 6
    code, second = shell.started("backup", "home", tree)
    assert (code, second["blocks_new"], second["nodes_new"]) == (0, 0, 0)
    assert second["parent"] == first["point"]
    code, restored = shell.started("restore", "home", "--to", tmp_path / "out")
    assert (code, restored["damaged"]) == (0, [])
    same(tree, tmp_path / "out" / "tree")
    assert os.readlink(tmp_path / "out" / "tree" / "link") == "small"
    assert (tmp_path / "out/tree/hard").stat().st_ino == (tmp_path / "out/tree/small").stat().st_ino
    assert shell("verify", "home")[0] == 0


def test_an_image_comes_back_sparse_and_one_changed_byte_costs_one_block(shell, tmp_path):
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.write(os.urandom(3 * 2**20))
        file.seek(600 * 2**20)
        file.write(b"end")
    assert shell("backup", "vm", image)[0] == 0
    with image.open("r+b") as file:
        file.seek(2**20 + 5)
        file.write(b"!")
    code, second = shell("backup", "vm", image)
    assert (code, second["blocks_new"]) == (0, 1)
    assert second["nodes_new"] <= 3  # leaf, root, page
    assert shell("restore", "vm", "--to", tmp_path / "back")[0] == 0
    assert filecmp.cmp(image, tmp_path / "back", shallow=False)
    assert (tmp_path / "back").stat().st_blocks * 512 < 8 * 2**20


def test_workers_0_runs_the_same_job_in_threads(shell, tree, tmp_path):
    assert shell("backup", "home", tree, "--workers", 0)[0] == 0
    assert shell("restore", "home", "--to", tmp_path / "out", "--workers", 0)[0] == 0
    same(tree, tmp_path / "out" / "tree")


def test_a_wrong_passphrase_is_77_and_replaces_nothing(shell, tree):
    shell("backup", "home", tree)
    (shell.top / "wrong").write_text("not the passphrase at all")
    code, answer = shell("backup", "home", tree, passphrase="wrong")
    assert (code, answer["error"]["code"]) == (77, "wrong-passphrase")
    assert shell("backup", "home", tree, passphrase="wrong", state="elsewhere")[0] == 77
    assert shell("points")[0] == 0


def test_a_machine_that_lost_its_state_restores_with_the_passphrase(shell, tree, tmp_path):
    shell("backup", "home", tree)
    assert shell("restore", "home", "--to", tmp_path / "out", state="new")[0] == 0
    same(tree, tmp_path / "out" / "tree")


@pytest.mark.parametrize(
    "words",
    [
        ("points", "nope"),
        ("restore", "home@ffff", "--to", "x"),
        ("backup", "bad name", "/"),
        ("backup", "x", "/no/such"),
    ],
)
def test_what_a_person_must_change_is_64(shell, tree, words):
    shell("backup", "home", tree)
    code, answer = shell(*words)
    assert code == 64
    assert answer["error"]["message"]


def test_parser_errors_are_64(shell):
    assert shell("bogus", plain=True)[0] == 64


def test_an_existing_file_stays_and_is_named(shell, tree, tmp_path):
    shell("backup", "home", tree)
    (tmp_path / "out" / "tree").mkdir(parents=True)
    (tmp_path / "out" / "tree" / "small").write_text("mine")
    code, answer = shell("restore", "home", "--to", tmp_path / "out")
    assert code == 3
    assert [each["code"] for each in answer["warnings"]] == ["exists"]
    assert (tmp_path / "out" / "tree" / "small").read_text() == "mine"
    assert shell("restore", "home", "--to", tmp_path / "out", "--overwrite", "always")[0] == 0
    assert (tmp_path / "out" / "tree" / "small").read_text() == "hello"


def test_damage_is_named_and_the_rest_comes_back(shell, tree, tmp_path):
    shell("backup", "home", tree)
    packs = sorted((tmp_path / "vault" / "packs").glob("*/data/*/*"))
    raw = bytearray(packs[0].read_bytes())
    raw[2 * 2**20] ^= 1
    packs[0].write_bytes(raw)
    code, answer = shell("restore", "home", "--to", tmp_path / "out")
    assert code == 65
    assert answer["damaged"]
    assert (tmp_path / "out" / "tree" / "small").read_text() == "hello"
    assert shell("vault", "verify", tmp_path / "vault", plain=True)[0] == 65
    assert shell("backup", "home", tree)[0] == 0  # heals it
    assert shell("verify", "home")[0] == 0


def test_a_deleted_catalog_is_rebuilt(shell, tree, tmp_path):
    shell("backup", "home", tree)
    for left in (tmp_path / "vault").glob("catalog.sqlite*"):
        left.unlink()
    assert shell("vault", "rebuild", tmp_path / "vault", plain=True)[0] == 0
    assert shell("restore", "home", "--to", tmp_path / "out")[0] == 0
    same(tree, tmp_path / "out" / "tree")


def test_the_vault_holds_no_plaintext_and_no_name(shell, tmp_path):
    secret = b"planted-content-quokka" * 400
    top = tmp_path / "planted-directory-quokka"
    top.mkdir()
    (top / "planted-name-quokka").write_bytes(secret)
    (top / "inline-quokka").write_bytes(b"planted-content-quokka")
    shell("backup", "planted-item-quokka", top)
    keys = b"".join(path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file())
    assert b"quokka" not in keys
    for path in (tmp_path / "vault").rglob("*"):
        assert b"quokka" not in bytes(path)
        if path.is_file():
            assert b"quokka" not in path.read_bytes(), path


def test_a_vault_replaced_by_an_older_copy_is_noticed(shell, tree, tmp_path):
    shell("backup", "home", tree)
    subprocess.run(["cp", "-a", tmp_path / "vault", tmp_path / "older"], check=True)
    shell("backup", "home", tree)
    subprocess.run(["rm", "-r", tmp_path / "vault"], check=True)
    (tmp_path / "older").rename(tmp_path / "vault")
    code, answer = shell("restore", "home", "--to", tmp_path / "out")
    assert (code, answer["error"]["code"]) == (65, "vault-rolled-back")


def test_keys_are_changed_without_sending_data_again(shell, tree, tmp_path):
    shell("backup", "home", tree)
    code, answer = shell("key", "recovery")
    assert code == 0
    (tmp_path / "recovery").write_text(answer["recovery_key"])
    (tmp_path / "new").write_text("a completely different sentence")
    assert shell("key", "passphrase", "--new-passphrase-file", tmp_path / "new")[0] == 0
    assert shell("points")[0] == 77
    code, again = shell("backup", "home", tree, passphrase="new")
    assert (code, again["blocks_new"]) == (0, 0)
    recovery = ("--recovery-key-file", tmp_path / "recovery")
    assert shell("restore", "home", "--to", tmp_path / "out", *recovery, passphrase="new")[0] == 0
    (tmp_path / "newest").write_text("a third sentence, for nobody who knew the second")
    hard = shell(
        "key", "rotate", "--hard", "--new-passphrase-file", tmp_path / "newest", passphrase="new"
    )
    assert hard[1]["generation"] == 2
    code, resent = shell("backup", "home", tree, passphrase="newest")
    assert (code, resent["blocks_new"]) == (0, again["blocks_new"] + 7)
    assert shell("restore", f"home@{again['point'][:12]}", "--to", tmp_path / "old",
                 passphrase="newest")[0] == 0  # fmt: skip


def test_help_is_quick_and_completion_is_there():
    help_text = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "transfer", "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    for heavy in ("asyncio", "cryptography", "sqlalchemy", "rich", "msgspec"):
        assert f" {heavy}\n" not in help_text.stderr
    script = subprocess.run(
        [sys.executable, "-m", "transfer", "--print-completion", "bash"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "restore" in script
