"""Stages: what a sample has, what the shares of known speeds are, and that a try runs."""

import pytest

from perf.measured import Measured
from perf.sample import KEYS, sample
from perf.stage_speeds import Speed
from perf.stages import Part, bottleneck, shared
from tests.perf.harness import perf
from transfer.pipeline.sealing import Opener

MIB = 2**20


@pytest.mark.slow
def test_a_try_names_each_stage_and_what_its_runs_were_bound_by(tmp_path):
    out, kept = perf(tmp_path, "stages", "--only", "incompressible", "--sample", 1)
    work = kept["works"]["incompressible"]
    names = [each["name"] for each in work["stages"]]
    assert names[:3] == ["read, from the page cache", "hash", "probe"] and len(set(names)) == 17
    assert all(each["amount"] > 0 and each["wall"] > 0 for each in work["stages"])
    assert [each["step"] for each in work["runs"]] == ["backup", "restore"]
    for run in work["runs"]:
        assert run["bound"] in out
        parts = {each["name"]: each for each in run["parts"]}
        assert parts["TLS, both ends"]["amount"] > 8 * MIB
        assert parts["start and end of the client"]["cpu"] > 0


def test_a_sample_is_from_all_over_a_disk_and_has_no_zeros(tmp_path):
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        for number in (0, 1, 6, 7):
            file.seek(number * MIB)
            file.write(bytes([number + 1]) * MIB)
    found = sample(disk, 4 * MIB)
    assert [extent.offset // MIB for extent in found.extents] == [1, 7]
    assert [block[0] for block in found.blocks] == [2, 8]
    opener = Opener(KEYS)
    assert [opener.open(raw)[2] for raw in found.frames] == found.blocks


def test_a_sample_of_a_tree_has_as_much_of_small_files_as_of_large_ones(tmp_path):
    for number in range(40):
        (tmp_path / f"{number:02}").write_bytes(b"s" * 10_000)
    (tmp_path / "inline").write_bytes(b"i" * 2048)
    (tmp_path / "large").write_bytes(b"l" * 400_000)
    found = sample(tmp_path, 400_000)
    sizes = [extent.length for extent in found.extents]
    assert sizes.count(10_000) == 20
    assert sizes.count(2048) == 0


def measured(seconds, cpu, server_cpu, **said):
    return Measured(seconds, seconds, cpu, server_cpu, 0, 0, said)


SPEEDS = [
    Speed("hash", "client", "new", ("backup",), 100, 1.0, 1.0),
    Speed("tls", "both", "sealed", ("backup", "restore"), 100, 2.0, 2.0),
    Speed("disk", "server", "sealed", ("backup",), 100, 0.5, 4.0),
    Speed("rows", "server", "rows", ("backup",), 10, 1.0, 1.0),
    Speed("open", "client", "new", ("restore",), 100, 1.0, 1.0),
]


def test_a_stage_takes_its_part_of_a_runs_bytes_and_what_is_left_is_told_by_side():
    run = measured(
        10, 9.0, 6.0, bytes_read=5 * MIB, bytes_sent=50, blocks_new=1, nodes_new=4
    )  # fmt: skip
    found = shared("backup", run, measured(1, 0.5, 0.25), SPEEDS, 2)
    cpu = {part.name: part.cpu for part in found.parts}
    assert cpu["hash"] == MIB / 100  # one new block, though five MiB were read
    assert (cpu["tls"], cpu["disk"], cpu["rows"]) == (1.0, 0.25, 0.5)
    assert cpu["all else of the server"] == 6.0 - 0.5 - 0.25 - 0.5 - 0.25
    assert "open" not in cpu
    restored = shared(
        "restore", measured(10, 9.0, 1.0, bytes_written=200, bytes_received=50),
        measured(1, 0.5, 0.0), SPEEDS, 2,
    )  # fmt: skip
    left = {part.name: part.cpu for part in restored.parts}
    assert left["all else of the client"] == 9.0 - 2.0 - 0.5 - 0.5


@pytest.mark.parametrize(
    ("seconds", "cpu", "server_cpu", "said"),
    [
        (5.0, 6.0, 3.0, "bound by CPU: 90% of 2 cores, and zstd takes 44% of it"),
        (5.0, 3.0, 4.5, "bound by the server: 90% of one core"),
        (10.0, 5.0, 3.0, "bound by waiting for the disk: fsync waits 4.0 of 10.0 s"),
        (50.0, 5.0, 3.0, "bound by turns: 2 cores are 8% busy, no stage waits long; zstd"),
    ],
)
def test_a_run_is_bound_by_what_it_has_most_of(seconds, cpu, server_cpu, said):
    parts = [
        Part("zstd", "client", "new", 1, 4.0, 4.0), Part("fsync", "server", "sealed", 1, 0.5, 4.5)
    ]  # fmt: skip
    assert bottleneck(parts, seconds, cpu, server_cpu, 2).startswith(said)
