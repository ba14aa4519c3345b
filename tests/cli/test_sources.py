"""`transfer sources`: how changes of a PATH are known, and the end of what that leaves."""

import asyncio
import json
import os
import random

import pytest

from tests.acceptance import shell
from tests.sources.benches import KINDS, bench_of
from tests.sources.disks import file_system
from tests.sources.live import Daemon
from tests.suites.sources import OTHER, Chain
from transfer.cli.main import main


def told(capsys, *words, expect=0):
    assert main(["sources", *map(str, words), "--json"]) == expect
    return json.loads(capsys.readouterr().out)


def test_a_tree_a_plain_image_and_a_qcow2_that_was_not_named_as_one(capsys, tmp_path):
    (tmp_path / "image").write_bytes(bytes(5000))
    (tmp_path / "disk").write_bytes(b"QFI\xfb" + bytes(5000))
    found = told(capsys, tmp_path, tmp_path / "image", tmp_path / "disk", "nbd://host/disk")
    assert [each["source"] for each in found["sources"]] == ["tree", "plain", "plain", "nbd"]
    assert "qcow2:PATH" in found["sources"][2]["why"]
    assert told(capsys, tmp_path / "missing", expect=64)["error"]["code"] == "not-found"
    assert told(capsys, "nbd:nonsense", expect=64)["error"]["code"] == "usage-error"


def test_a_qcow2_file_that_can_be_reflinked_is_and_is_still_told_of(capsys, tmp_path):
    with file_system(tmp_path / "mounted", "xfs") as top:
        (top / "disk").write_bytes(b"QFI\xfb" + bytes(5000))
        (found,) = told(capsys, top / "disk")["sources"]
    assert found["source"] == "reflink"
    assert "qcow2:PATH" in found["why"]


def test_clean_wants_a_path_and_an_item(capsys, tmp_path):
    assert "PATH" in told(capsys, "clean", "--all", expect=64)["error"]["message"]
    for words in ([], ["--all", "--item", "vm"]):
        assert "--item" in told(capsys, "clean", *words, tmp_path, expect=64)["error"]["hint"]
    assert "clean" in told(capsys, "--all", tmp_path, expect=64)["error"]["message"]


@pytest.fixture(params=KINDS)
def bench(request, tmp_path):
    with bench_of(request.param, tmp_path) as bench:
        yield bench


def test_what_is_left_is_removed_and_nothing_else(capsys, bench):
    chains = [Chain(bench), Chain(bench, OTHER)]

    async def run():
        for chain in chains:
            await chain.run()
            bench.write(random.Random(1))
        async with bench.source.open(chains[0].since()):
            pass

    asyncio.run(run())
    content, others = bench.content(), sorted(os.listdir(bench.path.parent))
    left = bench.objects()
    assert len(left) == 3
    assert told(capsys, bench.name)["sources"] == [
        {"path": bench.name, "source": bench.source.name, "disk": bench.disk, "why": ""}
    ]
    assert len(told(capsys, "clean", "--all", bench.name)["removed"]) == 3
    assert bench.objects() == []
    assert bench.content() == content
    assert set(os.listdir(bench.path.parent)) == set(others) - set(left)
    assert told(capsys, "clean", "--all", bench.name)["removed"] == []
    asyncio.run(chains[0].run())
    assert chains[0].why


def test_what_only_tries_leaves_nothing_at_a_disk(capsys, tmp_path):
    with bench_of("reflink", tmp_path) as bench:
        assert main(["try", bench.name, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["differences"] == []
        assert bench.objects() == []


@pytest.fixture
def started(tmp_path):
    before = shell.started()
    yield lambda *sizes, **options: Daemon(tmp_path, sizes, **options).start()
    shell.end_all(before)


def test_of_a_machine_each_disk_is_told_and_what_it_lacks(capsys, started):
    daemon = started(*[2**20] * 4, raw=[1], bare=[2], idle=[3])
    found = told(capsys, f"qmp:{daemon.qmp}")["sources"]
    assert [(each["source"], each["disk"]) for each in found] == [
        ("qmp", f"d{number}") for number in range(4)
    ]
    for each, why in zip(found, ("", "no bitmaps", "no filter above", "read-only"), strict=True):
        assert why in each["why"] if why else not each["why"]
    main(["sources", f"qmp:{daemon.qmp}"])
    assert f"qmp      qmp:{daemon.qmp} d0\n" in capsys.readouterr().out


def test_what_an_items_backups_left_is_removed_and_not_that_of_others(started, quick):
    daemon = started(2**20)
    path = f"qmp:{daemon.qmp}?nbd={daemon.nbd}&fleece={daemon.top}"
    for item in ("one", "other"):
        assert quick("backup", item, path)[0] == 0
    words = ("sources", "clean", "--item", "one", path)
    (removed,) = quick(*words)[1]["removed"]
    assert removed.startswith(f"{daemon.qmp}: transfer-")
    assert quick(*words)[1]["removed"] == []
    for item, is_known in (("other", True), ("one", False)):
        ((disk,),) = [quick("backup", item, path)[1]["disks"]]
        assert (disk["why"] == "") == is_known
