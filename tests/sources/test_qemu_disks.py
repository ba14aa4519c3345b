"""What is made of what QMP says, without a QEMU."""

import json
import os

import pytest

from transfer.errors import Ambiguous, NotFound, UsageError, ViewBroken
from transfer.sources.live_disk import Grains
from transfer.sources.qemu_disks import Machine, check_viewable, chosen

SIZE = 1 << 30
VERSION_2 = "a qcow2 of version 2 keeps no bitmaps (qemu-img amend -o compat=1.1)"


def node(name, driver, filename="", **more):
    image = {"virtual-size": SIZE, "filename": filename or name} | more.pop("image", {})
    cache = {"direct": True, "no-flush": False, "writeback": True}
    return {
        "node-name": name, "drv": driver, "ro": False, "detect_zeroes": "unmap", "cache": cache,
        "image": image,
    } | more  # fmt: skip


def throttled(name, group="g", rest=""):
    said = {"throttle-group": group, "driver": "throttle", "file": {"driver": "qcow2"}}
    return node(name, "throttle", "json:" + json.dumps(said) + rest)


def qcow2(name, **more):
    details = {"type": "qcow2", "data": {"compat": "1.1", **more.pop("data", {})}}
    return node(name, "qcow2", image={"format-specific": details}, **more)


def machine(nodes, edges, blocks=(), exports=()):
    """*edges*: "parent child" or "parent child role"."""
    ids = {each["node-name"]: number for number, each in enumerate(nodes)}
    found = [(*edge.split(), "file")[:3] for edge in edges]
    graph = {
        "nodes": [{"id": number, "name": name} for name, number in ids.items()],
        "edges": [{"parent": ids[a], "child": ids[b], "name": role} for a, b, role in found],
    }
    listed = [{"id": id, "node-name": name} for id, name in exports]
    return Machine(list(blocks), nodes, graph, listed)


def block(name, qdev="", device="", removable=False):
    return {
        "device": device, "qdev": qdev, "removable": removable, "inserted": {"node-name": name}
    }  # fmt: skip


def guest_disk(top="top", disk="d", **more):
    return [throttled(top), qcow2(disk, **more)], [f"{top} {disk}"]


def test_a_filter_is_opened_anew_with_all_that_is_known_of_it():
    nodes, edges = guest_disk()
    (disk,) = machine(nodes, edges, [block("top")]).disks()
    assert disk.options == {
        "driver": "throttle", "node-name": "top", "read-only": False, "detect-zeroes": "unmap",
        "cache": {"direct": True, "no-flush": False}, "throttle-group": "g",
    }  # fmt: skip


def test_a_file_name_that_qemu_cut_off_still_names_the_group():
    nodes = [throttled("top", "big", "..."), qcow2("d")]
    (disk,) = machine(nodes, ["top d"], [block("top")]).disks()
    assert (disk.options or {})["throttle-group"] == "big"


def test_a_guests_disk_has_the_names_of_device_and_nodes():
    nodes, edges = guest_disk()
    device = block("top", "/machine/peripheral/vda/virtio-backend", "drive0")
    (disk,) = machine(nodes, edges, [device]).disks()
    assert (disk.name, disk.names) == (b"d", {"vda", "drive0", "top", "d"})


def test_a_name_that_qemu_made_up_is_not_kept():
    nodes, edges = guest_disk("#block12", "#block34")
    (disk,) = machine(nodes, edges, [block("#block12", "/machine/peripheral/vda")]).disks()
    assert disk.name == b"vda"


def test_a_raw_disk_is_called_as_its_format_is_and_needs_no_filter():
    nodes = [node("r", "raw"), node("f", "file")]
    (disk,) = machine(nodes, ["r f"], [block("r")]).disks()
    assert (disk.name, disk.node, disk.untracked) == (
        b"r",
        "f",
        "file keeps no bitmaps, qcow2 does",
    )
    assert (disk.options or {})["node-name"] == "r"


def test_a_raw_disk_that_is_a_part_of_a_file_is_viewed_as_a_whole_only():
    said = "json:" + json.dumps({"driver": "raw", "offset": 512, "file": {}})
    nodes = [throttled("top"), node("r", "raw", said), node("f", "file")]
    (disk,) = machine(nodes, ["top r", "r f"], [block("top")]).disks()
    assert (disk.node, (disk.options or {})["node-name"]) == ("r", "top")


def test_two_that_end_in_one_node_are_one_disk():
    nodes, edges = guest_disk()
    (disk,) = machine(nodes, edges, exports=[("raw", "d"), ("live", "top")]).disks()
    assert disk.options is not None


def test_what_comes_and_goes_is_chosen_by_name_only():
    nodes, edges = guest_disk()
    blocks = [block("top"), block("cd", device="ide1", removable=True)]
    disks = machine([*nodes, node("cd", "file")], edges, blocks).disks()
    assert [disk.name for disk in chosen(disks, [])] == [b"d"]
    assert [disk.name for disk in chosen(disks, ["ide1"])] == [b"cd"]


def test_an_empty_drive_is_no_disk():
    assert machine([], [], [{"device": "ide1", "removable": True}]).disks() == []
    with pytest.raises(NotFound):
        chosen([], [])


def test_a_name_may_be_any_bytes():
    nodes, edges = guest_disk()
    with pytest.raises(NotFound, match="no disk"):
        chosen(machine(nodes, edges, [block("top")]).disks(), [os.fsdecode(b"\xff")])


def test_a_name_of_two_disks_is_ambiguous():
    nodes = [throttled("a"), qcow2("b"), throttled("c"), qcow2("a2")]
    blocks = [block("a", device="x"), block("c", device="x")]
    disks = machine(nodes, ["a b", "c a2"], blocks).disks()
    with pytest.raises(Ambiguous):
        chosen(disks, ["x"])


@pytest.mark.parametrize(("more", "why"), [
    ({"ro": True}, "it is read-only, and keeps no bitmaps"),
    ({"data": {"data-file": "x"}}, "writes to its data file may go past QEMU"),
    ({"data": {"compat": "0.10"}}, VERSION_2),
    ({}, ""),
])  # fmt: skip
def test_which_disks_keep_bitmaps(more, why):
    nodes, edges = guest_disk(**more)
    (disk,) = machine(nodes, edges, [block("top")]).disks()
    assert disk.untracked == why


def test_a_disk_that_nobody_writes_needs_no_view():
    disks = machine([qcow2("d", ro=True)], [], [block("d")]).disks()
    check_viewable(disks)
    with pytest.raises(UsageError, match="no filter above it"):
        check_viewable(machine([qcow2("d")], [], [block("d")]).disks())


def test_a_filter_whose_options_nobody_knows_is_left_alone():
    nodes = [node("cor", "copy-on-read"), qcow2("d")]
    with pytest.raises(UsageError, match="cannot be opened anew"):
        check_viewable(machine(nodes, ["cor d"], [block("cor")]).disks())


def test_what_stands_above_a_node_and_is_none_has_no_options():
    nodes, edges = guest_disk()
    graph = machine([node("job", ""), *nodes], ["job d", *edges]).graph
    found = Machine([], nodes, graph, [])
    assert set(found.parents("d")) == {"job", "top"}
    assert found.options("job") is None


def test_another_view_is_waited_for_and_changes_no_name():
    nodes = [node("r", "raw"), node("transfer-1-c", "copy-before-write"), node("f", "file")]
    found = machine(nodes, ["r transfer-1-c", "transfer-1-c f"], [block("r")]).disks()
    assert found[0].name == b"r"
    with pytest.raises(ViewBroken):
        check_viewable(found)


def test_exports_of_ours_are_no_disks():
    exports = [("transfer-1", "transfer-1-a"), ("transfer-2", "d")]
    assert machine([qcow2("d")], [], exports=exports).disks() == []


def test_files_behind_a_disk_are_all_that_it_stands_on():
    nodes = [throttled("top"), qcow2("d"), qcow2("b1"), node("b2", "raw", "/base")]
    edges = ["top d", "d b1 backing", "b1 b2 backing"]
    (disk,) = machine(nodes, edges, [block("top")]).disks()
    assert disk.behind == ("b1", "/base")


@pytest.mark.parametrize(("extents", "span", "grains"), [
    ([], (0, 100), []),
    ([(3, 1)], (0, 100), [(0, 10)]),
    ([(3, 1), (5, 20), (9, 1)], (0, 100), [(0, 30)]),
    ([(0, 10), (20, 10), (31, 1)], (0, 100), [(0, 10), (20, 20)]),
    ([(95, 5)], (0, 97), [(90, 7)]),
    ([(3, 1), (18, 4)], (5, 21), [(5, 16)]),
])  # fmt: skip
def test_extents_are_made_whole_grains(extents, span, grains):
    assert list(Grains(10, *span).of(extents)) == grains


async def test_grains_of_many_extents_are_given_before_all_of_them_are_known():
    given = []

    async def extents():
        for at in range(0, 100, 20):
            given.append(at)
            yield at, 1

    found = [(extent, len(given)) async for extent in Grains(10, 0, 85).streamed(extents())]
    assert found == [
        ((0, 10), 2), ((20, 10), 3), ((40, 10), 4), ((60, 10), 5), ((80, 5), 5)
    ]  # fmt: skip
