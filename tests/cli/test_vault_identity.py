"""`transfer vault`: credentials, machines and the authority, as scripts see them."""

import json
import time

import pytest

from tests.cli.machine import powerless
from tests.vault.people import HOUR, Machine
from transfer.cli.main import main, make_parser
from transfer.formats import credential
from transfer.vault.authority import Authority
from transfer.vault.directory import read_vault_file, take_lock
from transfer.vault.registry import Registry

URL = "https://vault.example:8443"


@pytest.fixture
def vault(shell, tmp_path):
    """A new vault's path."""
    assert shell("vault", "init", tmp_path / "vault", plain=True)[0] == 0
    return tmp_path / "vault"


@pytest.fixture
def run(shell, vault):
    """`transfer vault ACTION DIR ...`, which must succeed; its answer."""

    def run(action, *words):
        code, answer = shell("vault", action, vault, *words, plain=True)
        assert code == answer["exit"] == 0, answer
        return answer

    return run


def registry_of(path):
    authority = Authority(path, read_vault_file(path).vault, time.time_ns)
    return Registry(path, authority, time.time_ns)


def registered(path, run, name, *words):
    """A machine that registered with a credential of the command line."""
    file = path.parent / f"{name}.json"
    run("credentials", "--out", file, "--url", URL, *words)
    machine = Machine(name)
    machine.register(registry_of(path), credential.decode(file.read_bytes(), time.time_ns()))
    machine.call(registry_of(path))
    return machine


def test_a_credential_is_a_file_of_its_owner_and_registers(vault, run, tmp_path):
    file = tmp_path / "new.json"
    before = time.time_ns()
    answer = run("credentials", "--out", file, "--url", URL + "/")
    assert file.stat().st_mode & 0o777 == 0o600
    found = credential.decode(file.read_bytes(), time.time_ns())
    assert (found.url, found.kind, found.machine) == (URL, "register", None)
    assert before + 48 * HOUR <= found.expires <= time.time_ns() + 48 * HOUR
    assert answer == {
        "exit": 0, "file": str(file), "id": found.id.hex(), "kind": "register", "machine": None,
        "vault": found.vault.hex(), "url": URL, "expires": credential.when(found.expires),
    }  # fmt: skip
    assert found.secret.hex() not in json.dumps(answer)
    Machine("db1").register(registry_of(vault), found)


def test_a_credential_for_a_machine_by_name_or_id(vault, run, tmp_path):
    db1 = registered(vault, run, "db1")
    answer = run("credentials", "--out", tmp_path / "a", "--url", URL, "--for", "db1")
    assert (answer["kind"], answer["machine"]) == ("for", "db1")
    answer = run("credentials", "--out", tmp_path / "b", "--url", URL, "--read", db1.id.hex(),
                 "--valid", "30m")  # fmt: skip
    assert (answer["kind"], answer["machine"]) == ("read", "db1")
    made = credential.decode((tmp_path / "b").read_bytes(), time.time_ns())
    assert made.expires <= time.time_ns() + HOUR // 2
    assert registered(vault, run, "reader", "--read", "db1").domain == db1.domain


def test_a_credential_can_be_printed(run):
    answer = run("credentials", "--out", "-", "--url", URL)
    found = credential.decode(answer["credential"].encode(), time.time_ns())
    assert found.id.hex() == answer["id"]


def test_people_read_what_was_made_and_for_whom(vault, run, tmp_path, capsys):
    words = ["vault", "credentials", str(vault), "--url", URL, "--out"]
    db1 = registered(vault, run, "db1")
    assert main([*words, str(tmp_path / "a"), "--for", "db1"]) == 0
    text = capsys.readouterr().out
    for word in ("machine db1, once", db1.id.hex(), "192.0.2.7", str(tmp_path / "a"), URL, "Z"):
        assert word in text
    assert main(["vault", "machines", str(vault)]) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head.startswith("name  ") and head.endswith("last address")
    assert line.startswith("db1 ") and line.endswith("192.0.2.7") and db1.id.hex() in line
    assert main(["vault", "machines", str(vault), "--revoke", "db1"]) == 0
    assert main(["vault", "machines", str(vault)]) == 0
    assert "revoked  " in capsys.readouterr().out
    assert main(["vault", "ca", str(vault)]) == 0
    assert capsys.readouterr().out.endswith("signs\n")
    assert main([*words, "-"]) == 0
    credential.decode(capsys.readouterr().out.encode())
    assert main([*words, "-", "--quiet"]) == 64
    assert "would hide" in capsys.readouterr().err


def test_where_the_server_last_listened_is_where_machines_find_it(vault, run, shell, tmp_path):
    words = ("vault", "credentials", vault, "--out", tmp_path / "new")
    shell.refused(64, "usage-error", *words, plain=True, says=["where"])
    (vault / "address.json").write_text('{"url": "https://10.0.0.1:9"}')
    assert run("credentials", "--out", tmp_path / "new")["url"] == "https://10.0.0.1:9"
    for damaged in ("{}", "x", '{"url": "ftp://a"}'):
        (vault / "address.json").write_text(damaged)
        shell.refused(64, "usage-error", *words[:3], "--out", tmp_path / "other", plain=True)
    assert run("credentials", "--out", tmp_path / "other", "--url", URL)["url"] == URL


def test_what_cannot_be_written_voids_no_credential(vault, run, shell, tmp_path):
    good = tmp_path / "good"
    run("credentials", "--out", good, "--url", URL)
    (tmp_path / "there").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("there", "link", "missing/file", "."):
        shell.refused(
            64, "usage-error", "vault", "credentials", vault, "--out", tmp_path / name,
            "--url", URL, plain=True, says=[tmp_path / name],
        )  # fmt: skip
    assert (tmp_path / "there").read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()
    Machine("db1").register(registry_of(vault), credential.decode(good.read_bytes()))


@pytest.mark.parametrize(
    "words",
    [
        ("--url", "http://a"), ("--url", "a:1"), ("--url", URL, "--valid", "0s"),
        ("--url", URL, "--valid", "soon"), ("--url", URL, "--for", "a", "--read", "b"),
        ("--url", URL, "--for", "nobody"), ("--url", URL, "--valid", "999999999999999d"),
    ],
)  # fmt: skip
def test_a_credential_that_makes_no_sense_leaves_no_file(vault, shell, tmp_path, words):
    file = tmp_path / "new"
    code, answer = shell("vault", "credentials", vault, "--out", file, *words, plain=True)
    assert code == 64, answer
    assert answer["error"]["hint"]
    assert not file.exists()
    assert not (vault / "records" / "credentials").exists()


def test_machines_are_listed_and_revoked(vault, run, shell):
    assert run("machines") == {"exit": 0, "machines": [], "damaged": []}
    db2, db1 = registered(vault, run, "db2"), registered(vault, run, "db1")
    first, second = run("machines")["machines"]
    assert (first["name"], second["name"]) == ("db1", "db2")
    assert first == {
        "name": "db1", "id": db1.id.hex(), "role": "machine", "domain": db1.domain.hex(),
        "registered": first["registered"], "last_used": first["last_used"],
        "last_address": "192.0.2.7", "certificate_end": first["certificate_end"], "revoked": None,
    }  # fmt: skip
    assert first["certificate_end"].endswith("Z") and first["last_used"].endswith("Z")
    revoked = run("machines", "--revoke", "db1")
    assert revoked["revoked"] and revoked["name"] == "db1"
    assert run("machines", "--revoke", db1.id.hex()) == revoked
    assert [one["revoked"] for one in run("machines")["machines"]] == [revoked["revoked"], None]
    shell.refused(64, "not-found", "vault", "machines", vault, "--revoke", "x", plain=True)
    shell.refused(
        77, "not-authorised", "vault", "credentials", vault, "--out", vault.parent / "new",
        "--url", URL, "--for", "db1", plain=True, says=["revoked"],
    )  # fmt: skip
    assert not (vault.parent / "new").exists()
    db2.call(registry_of(vault))


def test_a_damaged_machine_is_named_and_the_others_are_listed(vault, run, shell):
    machine = registered(vault, run, "db1")
    registered(vault, run, "db2")
    (vault / "records" / "machines" / machine.id.hex()).write_bytes(b"gone")
    code, answer = shell("vault", "machines", vault, plain=True)
    assert code == 65
    assert [one["name"] for one in answer["machines"]] == ["db2"]
    assert machine.id.hex() in answer["damaged"][0]
    code, answer = shell("vault", "verify", vault, plain=True)
    assert code == 65
    assert machine.id.hex() in answer["damaged"][0]


def test_identity_works_beside_a_running_server(vault, run):
    lock = take_lock(vault)
    db1 = registered(vault, run, "db1")
    run("machines", "--revoke", "db1")
    run("ca", "--renew")
    run("init", "--host", "vault.example")
    with pytest.raises(Exception, match="revoked"):
        db1.call(registry_of(vault))
    assert lock


def test_the_authority_is_shown_and_renewed(vault, run):
    (first,) = run("ca")["authorities"]
    assert run("ca")["authorities"] == [first]
    second, old = run("ca", "--renew")["authorities"]
    assert old == first and second["id"] != first["id"]
    assert first["ends"] > "2050"


def test_hosts_are_stored_and_replaced(shell, tmp_path):
    path = tmp_path / "new"
    init = ("vault", "init", path)
    shell.refused(64, "usage-error", *init, "--host", "a b", plain=True, says=["a b"])
    assert not path.exists()
    code, made = shell(*init, "--host", "b.example", "--host", "192.0.2.7", plain=True)
    assert (code, made["hosts"]) == (0, ["192.0.2.7", "b.example"])
    code, again = shell(*init, "--host", "c.example", plain=True)
    assert (code, again["hosts"], again["vault"]) == (0, ["c.example"], made["vault"])
    assert Authority(path, bytes.fromhex(made["vault"]), time.time_ns).hosts() == ["c.example"]
    assert shell(*init, plain=True)[0] == 0
    assert Authority(path, bytes.fromhex(made["vault"]), time.time_ns).hosts() == ["c.example"]


@pytest.mark.parametrize("action", ["credentials", "machines", "ca"])
def test_what_is_no_vault_has_no_identity(shell, tmp_path, action):
    more = ("--out", tmp_path / "new", "--url", URL) if action == "credentials" else ()
    for name in ("missing", "state"):
        (tmp_path / "state").mkdir(exist_ok=True)
        shell.refused(64, "not-found", "vault", action, tmp_path / name, *more, plain=True)
    assert list((tmp_path / "state").iterdir()) == []


def test_another_user_may_not(vault, shell):
    (vault / "vault").chmod(0o644)
    vault.chmod(0o500)
    try:
        code, answer = shell("vault", "ca", vault, "--renew", plain=True, before=powerless)
        assert code == 77, answer
    finally:
        vault.chmod(0o700)


ACTIONS = ("init", "serve", "credentials", "machines", "ca", "verify", "stats", "rebuild")


@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_has_its_help_with_examples(action, capsys):
    with pytest.raises(SystemExit) as end:
        make_parser("vault").parse_args(["vault", action, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert f"  transfer vault {action} /srv/vault" in text.partition("Examples:")[2]
    for option in ("--json", "--quiet", "--verbose", "DIR"):
        assert option in text


def test_words_of_vault_may_stand_in_any_order():
    args = make_parser("vault").parse_args(
        ["--json", "vault", "credentials", "--out", "F", "--url", "U", "DIR", "--for", "M"]
    )
    assert (args.action, str(args.directory), args.out, args.url, args.for_machine) == (
        "credentials", "DIR", "F", "U", "M",
    )  # fmt: skip
    assert args.json and not args.quiet
    args = make_parser("vault").parse_args(["vault", "serve", "DIR"])
    assert (args.listen, args.log_requests) == ("127.0.0.1:8443", False)
