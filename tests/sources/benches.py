"""Disks whose changes are known, of each kind, as `transfer backup` names them."""

from contextlib import contextmanager

from tests.acceptance import shell
from tests.sources import test_qcow2, test_qemu_laws, test_reflinked
from tests.sources.disks import file_system

KINDS = ("qcow2", "qmp", "reflink")


@contextmanager
def bench_of(kind, top):
    """Its *name* is the PATH."""
    if kind == "qcow2":
        bench = test_qcow2.Bench(top / "disk.qcow2")
        bench.name = f"qcow2:{bench.path}"
        yield bench
        return
    if kind == "qmp":
        before = shell.started()
        (top / "machine").mkdir()
        yield test_qemu_laws.Bench(top / "machine")
        shell.end_all(before)
        return
    with file_system(top / "mounted", "xfs") as path:
        bench = test_reflinked.Bench(path / "disk")
        bench.name = str(bench.path)
        yield bench
