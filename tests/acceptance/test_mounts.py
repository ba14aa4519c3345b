"""Trees that cross file systems: what is mounted below a PATH, and what a kernel makes up."""

from contextlib import ExitStack

import pytest

from tests.acceptance.agent import Machine
from tests.acceptance.compare import differences
from tests.acceptance.shell import Shell
from tests.cli.machine import mounted, small_disk

pytestmark = pytest.mark.usefixtures("quick_keyrings")


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.fixture
def source(tmp_path):
    """A tree with a disk in it, in which there is another one."""
    top = tmp_path / "source"
    (top / "deep").mkdir(parents=True)
    (top / "deep" / "file").write_text("of the first file system")
    with small_disk(top / "disk"), small_disk(top / "disk" / "inner"):
        (top / "disk" / "file").write_bytes(b"of the second" * 500)
        (top / "disk" / "inner" / "file").write_text("of the third")
        yield top


@pytest.fixture
def mounting():
    """`mount`, until the test ends."""
    with ExitStack() as stack:
        yield lambda *words: stack.enter_context(mounted(*words))


def names(top):
    return {str(path.relative_to(top)) for path in top.rglob("*")}


async def test_what_is_mounted_below_a_path_is_part_of_it(machine, source, tmp_path):
    made = await machine.backup(source)
    assert (made.files, made.warnings) == (3, [])
    await machine.restore(tmp_path / "back")
    assert differences(source, tmp_path / "back" / "source") == []


async def test_with_one_file_system_only_the_places_of_others_are_there(
    machine, source, tmp_path, mounting
):
    (source / "cover").touch()
    mounting("--bind", source / "disk" / "file", source / "cover")
    made = Shell(tmp_path)("backup", "item", source, "--one-file-system")
    assert (made["files"], made["warnings"]) == (1, [])
    await machine.restore(tmp_path / "back")
    assert names(tmp_path / "back" / "source") == {"deep", "deep/file", "disk"}


async def test_one_file_system_is_that_of_the_path(machine, source, tmp_path):
    await machine.backup(source / "disk", one_file_system=True)
    await machine.restore(tmp_path / "back")
    assert names(tmp_path / "back" / "disk") == {"file", "inner"}


async def test_an_overlay_is_one_file_system(machine, tmp_path, mounting):
    """Although each of its files says that it is on the device of its layer."""
    upper, work, top = (tmp_path / name for name in ("upper", "work", "top"))
    for place in (upper, work, top):
        place.mkdir()
    with small_disk(tmp_path / "lower") as lower:
        (lower / "file").touch()
        options = f"xino=off,lowerdir={lower},upperdir={upper},workdir={work}"
        mounting("-t", "overlay", "-o", options, "overlay", top)
        (top / "another").touch()
        assert (top / "file").stat().st_dev != top.stat().st_dev
        made = await machine.backup(top, one_file_system=True)
    assert (made.files, made.warnings) == (2, [])


async def test_what_the_kernel_makes_up_is_not_read(machine, source, tmp_path, mounting):
    """Whole file systems are empty directories; a file that is mounted over a name is not there."""
    for kind, place in (("proc", source / "proc"), ("sysfs", source / "deep" / "sys")):
        place.mkdir()
        mounting("-t", kind, kind, place)
    for number, file in enumerate(("version", "sys/kernel/ostype")):
        (source / f"{number}").touch()
        mounting("--bind", source / "proc" / file, source / f"{number}")
    (source / "knob").touch()
    mounting("--bind", source / "deep/sys/kernel/uevent_seqnum", source / "knob")
    made = await machine.backup(source)
    assert (made.files, made.warnings, made.consistency) == (3, [], "crash")
    await machine.restore(tmp_path / "back")
    assert names(tmp_path / "back" / "source") == {
        "deep", "deep/file", "deep/sys", "disk", "disk/file", "disk/inner", "disk/inner/file",
        "proc",
    }  # fmt: skip


async def test_a_tree_that_is_mounted_in_itself_is_walked_to_an_end(
    machine, source, tmp_path, mounting
):
    (source / "again").mkdir()
    mounting("--rbind", source, source / "again")
    made = await machine.backup(source)
    assert (made.files, made.warnings) == (6, [])
    await machine.restore(tmp_path / "back")
    assert differences(source, tmp_path / "back" / "source", frozenset(["links"])) == []


@pytest.mark.parametrize("path", ["/proc", "/proc/version", "/sys/kernel", "/proc/self/status"])
def test_a_path_of_which_nothing_could_be_kept_is_refused(tmp_path, path):
    answer = Shell(tmp_path)("backup", "item", path, expect=64)
    assert path.split("/")[1] in answer["error"]["message"]
    assert not (tmp_path / "vault").exists()
