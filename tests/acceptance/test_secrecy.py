"""The vault's directory holds no plaintext, no name and no key: every byte of it is searched."""

import base64
import os
import pwd
import shutil
from pathlib import Path

import pytest

from tests.acceptance import trees
from tests.acceptance.agent import Machine
from tests.acceptance.needs import needs_root
from tests.acceptance.relay import Relay
from tests.acceptance.served import Server
from tests.acceptance.shell import PASSPHRASE, Shell
from transfer.crypto import keys
from transfer.formats import credential
from transfer.formats.reference import Kind, tag_of
from transfer.jobs import keys as key_jobs
from transfer.jobs.far import registration_of
from transfer.jobs.state import StateDirectory

pytestmark = pytest.mark.usefixtures("quick_keyrings")

MARK = b"xq7planted"
NAME = "yp8machine"
SECOND, THIRD = "another sentence that nobody guesses", "and once again a different one"


def planted(top: Path) -> Path:
    """A tree in which each string that a user could choose has the mark in it."""
    mark = MARK.decode()
    top.mkdir()
    (top / f"{mark}-file").write_bytes(b"content of a small file: " + MARK)
    (top / "middle").write_bytes(b"content of a file with a block: " + MARK * 500)
    # At the edges of blocks and of what a worker reads at once.
    large = bytearray(trees.noise("large", 6 << 20))
    for at in (0, 2**20 - 5, 4 * 2**20 - 5, len(large) - len(MARK)):
        large[at : at + len(MARK)] = MARK
    (top / "large").write_bytes(large)
    (top / f"{mark}-directory").mkdir()
    os.setxattr(top / f"{mark}-directory", f"user.{mark}-name", b"value")
    os.setxattr(top / "middle", "user.value", b"of an attribute: " + MARK)
    (top / "link").symlink_to(f"/{mark}/target")
    os.link(top / "middle", top / f"{mark}-hard-link")
    os.mkfifo(top / f"{mark}-fifo")
    return top


def spellings(secret: bytes) -> list[bytes]:
    """*secret* as it is, as text that programs make of bytes, and in UTF-16."""
    padded = [base64.b64encode(bytes(shift) + secret) for shift in range(3)]
    # Only the middle: the first and the last group depend on the neighbours.
    inner = [text[4:-4] for text in padded]
    shown = [secret, secret.hex().encode(), secret.hex().upper().encode(), *inner]
    try:
        return [*shown, secret.decode().encode("utf-16-le")]
    except UnicodeDecodeError:
        return shown


def found_in(directory: Path, secrets: dict[str, bytes]) -> set[str]:
    """Which of *secrets* stand in a name or in the content of anything below *directory*."""
    wanted = [(what, text) for what, secret in secrets.items() for text in spellings(secret)]
    found = set()
    for path in [directory, *directory.rglob("*")]:
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            continue
        raw = path.read_bytes() if path.is_file() else b""
        for text in (raw, bytes(path.relative_to(directory))):
            found |= {what for what, needle in wanted if needle in text}
    return found


def secrets_of(agent) -> dict[str, bytes]:
    """Every key of the agent's domain, and those that are derived from it."""
    opened, secrets = agent.opened, agent.opened.secrets
    found = {"keyring key": opened.key, "signing key": secrets.signing_key}
    for generation, key in secrets.id_keys.items():
        found[f"ID key {generation}"] = key
        for tag in (*(tag_of(kind) for kind in (Kind.DATA, Kind.PAGE)), tag_of(Kind.STREAM, 1)):
            found[f"ID key {generation} of {tag}"] = keys.id_key(key, tag)
    found |= {f"seal key {epoch}": key for epoch, key in secrets.seal_keys.items()}
    return found


async def a_life(machine, top, disk, item):
    """All kinds of objects come to the vault: two generations, two passphrases, a recovery key;
    the secrets that its client had meanwhile.
    """
    words = {"item": item, "compression": "off"}
    await machine.backup(top, **words)
    secrets = {"planted": MARK, "passphrase": PASSPHRASE.encode(), "path": bytes(machine.top)}
    async with machine.open() as agent:
        secrets |= secrets_of(agent)
        printed = await key_jobs.new_recovery_key(agent)
        await key_jobs.rotate(agent)
        secrets |= secrets_of(agent)
        compact = printed.replace("-", "").encode()
        secrets |= {"recovery key": printed.encode(), "the same without dashes": compact}
        secrets["the same in bytes"] = base64.b32decode(compact)[:20]
    await machine.backup(top, **words)
    async with machine.open() as agent:
        await key_jobs.rotate_hard(agent, SECOND)
        secrets |= secrets_of(agent) | {"second passphrase": SECOND.encode()}
    machine.passphrase = SECOND
    await machine.backup(top, **words)
    await machine.backup(disk, item=f"{item}-disk", compression="off")
    async with machine.open() as agent:
        await key_jobs.change_passphrase(agent, THIRD)
        secrets |= secrets_of(agent) | {"third passphrase": THIRD.encode()}
    machine.passphrase = THIRD
    assert len(secrets) > 20
    return secrets


@pytest.fixture
def protected(tmp_path):
    """What there is to back up: paths, and the name of the item."""
    mark = MARK.decode()
    top = planted(tmp_path / f"{mark}-top")
    disk = tmp_path / f"{mark}-disk"
    disk.write_bytes((top / "large").read_bytes())
    return top, disk, f"{mark}-item"


async def test_a_vault_holds_nothing_that_its_client_knows(tmp_path, protected):
    machine = Machine(tmp_path)
    StateDirectory(machine.state).machine(f"{MARK.decode()}-machine")
    secrets = await a_life(machine, *protected)
    assert found_in(machine.vault, secrets) == set()
    assert found_in(machine.state, secrets) <= {"planted", "path"}  # its own name, and locks


async def test_nor_does_a_far_one_or_its_log_or_anybody_on_the_way(tmp_path, protected):
    """The vault knows the machine by its name; even that is hidden from who listens."""
    heard = tmp_path / "heard"
    heard.mkdir()
    server = Server(tmp_path / "vault").start()
    with Relay(server.port, heard / "wire") as relay:
        url = f"https://127.0.0.1:{relay.port}"
        server.register(Shell(tmp_path, far=True), "--url", url, name=NAME)
        machine = Machine(tmp_path, far=True)
        secrets = await a_life(machine, *protected)
        await machine.restore(tmp_path / "back", item=protected[2])
    (given,) = tmp_path.glob("credential-*.json")
    secrets["credential"] = credential.decode(given.read_bytes()).secret
    secrets["machine's key"] = registration_of(StateDirectory(machine.state)).key
    shutil.copy(server.log, heard / "log")
    assert b"/v1/frames 200" in server.log.read_bytes()
    assert (heard / "wire").stat().st_size > 15 << 20
    assert found_in(machine.vault, secrets) == set()
    assert found_in(heard, secrets) == set()
    assert found_in(heard / "wire", {"name": NAME.encode()}) == set()
    assert "name" in found_in(machine.vault, {"name": NAME.encode()})


@needs_root
async def test_a_vault_holds_no_name_of_a_user_or_group(tmp_path):
    users = [user for user in pwd.getpwall() if len(user.pw_name) >= 7 and user.pw_uid]
    if not users:
        pytest.skip("no user here has a name long enough to be looked for")
    (tmp_path / "tree").mkdir()
    for user in users:
        place = tmp_path / "tree" / str(user.pw_uid)
        place.touch()
        os.chown(place, user.pw_uid, user.pw_gid)
    machine = Machine(tmp_path)
    await machine.backup(tmp_path / "tree", compression="off")
    names = {user.pw_name: user.pw_name.encode() for user in users}
    assert found_in(machine.vault, names) == set()


def test_the_search_finds_what_is_there(tmp_path):
    top = planted(tmp_path / "top")
    assert found_in(top, {"planted": MARK}) == {"planted"}
    for number, spelled in enumerate(spellings(MARK)):
        place = tmp_path / str(number)
        place.mkdir()
        (place / "file").write_bytes(b"\x80before" + spelled + b"after\x81")
        assert found_in(place, {"planted": MARK}) == {"planted"}
        assert found_in(place, {"other": b"something else"}) == set()
    (tmp_path / "name" / MARK.decode()).mkdir(parents=True)
    assert found_in(tmp_path / "name", {"planted": MARK}) == {"planted"}
