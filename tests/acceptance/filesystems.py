"""A file system on a disk that is written all the time, and what is asked of one that came back."""

import os
import struct
import subprocess
import threading

from tests.acceptance.needs import tool

FILES, PAGES = 40, 5


def run(*words):
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def must(*words):
    code, said = run(*words)
    assert code == 0, said


class Workload:
    """Files that come, are renamed over others and go, below *top*; some are synced. All of a file
    says in which round it was made."""

    def __init__(self, top):
        self.top, self.rounds, self._ends = top, 0, threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._ends.set()
        self._thread.join()

    def _work(self):
        while not self._ends.is_set():
            number = self.rounds % FILES
            path = self.top / f"new-{number}"
            with path.open("ab") as file:
                file.write(struct.pack("<Q", self.rounds) * 512 * PAGES)
                if number % 3 == 0:
                    os.fsync(file.fileno())
            path.rename(self.top / f"file-{number}")
            if number % 7 == 0:
                (self.top / f"file-{(number + 20) % FILES}").unlink(missing_ok=True)
            self.rounds += 1


def recover(image):
    """The journal is replayed, as mounting would, and then there is nothing to mend."""
    check = tool("e2fsck", "e2fsprogs")
    assert run(check, "-p", "-E", "journal_only", image)[0] == 0
    code, said = run(check, "-fn", image)
    assert code == 0, said


def check_files(image, mount):
    """What was never written before a file had it is in no file: data goes before its names."""
    mount.mkdir()
    must("mount", "-o", "loop,ro", image, mount)
    try:
        files = list(mount.glob("file-*"))
        assert len(files) > FILES // 2
        for path in files:
            said = {found for (found,) in struct.iter_unpack("<Q", path.read_bytes())}
            assert len(said) <= 1, path.name
            assert {found % FILES for found in said} <= {int(path.name.removeprefix("file-"))}
    finally:
        must("umount", mount)


def needs_recovery(image):
    return "needs_recovery" in run(tool("dumpe2fs", "e2fsprogs"), "-h", image)[1]
