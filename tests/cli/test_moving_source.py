"""Files are replaced by symlinks, fifos and others while a backup reads: what the point holds is
what stood there, never what a symlink leads to.
"""

import os
import threading
from contextlib import suppress

from tests.cli.conftest import contents

SECRET = b"secret" * 20_000
OURS = [b"one" * 40_000, b"another" * 40_000]


def test_what_is_swapped_between_scan_and_read_leads_nowhere(stocked, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(SECRET)
    names = [f"{number:02}" for number in range(30)]
    for name in names:
        (source / name).write_bytes(OURS[0])
    (source / "steady").write_bytes(OURS[1])
    done = threading.Event()

    def swap():
        rounds = 0
        while not done.is_set():
            rounds += 1
            for number, name in enumerate(names):
                path, new = source / name, source / f"{name}.new"
                kind = (rounds + number) % 5
                with suppress(FileNotFoundError):
                    new.unlink()
                if kind == 0:
                    new.symlink_to(outside / "secret")
                elif kind == 1:
                    os.mkfifo(new)
                elif kind == 2:
                    new.symlink_to(outside)
                else:
                    new.write_bytes(OURS[kind % 2])
                new.rename(path)

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        for number in range(4):
            code, answer = stocked.started(
                "backup", "moving", source, *([] if number % 2 else ["--full"])
            )
            assert code in (0, 3), answer
            assert {each["code"] for each in answer["warnings"]} <= {
                "changed", "replaced", "unreadable", "vanished", "missing",
            }  # fmt: skip
            assert all(each["path"] for each in answer["warnings"])
    finally:
        done.set()
        swapping.join()
    points = [each["point"] for each in stocked("points", "moving")[1]["points"]]
    assert len(points) == 4
    for point in points:
        out = tmp_path / point[:8]
        assert stocked("restore", f"moving@{point}", "--to", out)[0] == 0
        for path, (_, what) in contents(out / "source").items():
            assert what in (None, *OURS, str(outside), str(outside / "secret"), b""), path
        assert (out / "source" / "steady").read_bytes() == OURS[1]
