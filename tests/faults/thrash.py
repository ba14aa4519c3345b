"""Many machines back up, restore and verify while somebody kills -9 runs, workers and the server.

    python -m tests.faults.thrash [--seconds 1800] [--seed N] [--machines 3]

The law: a restore never gives wrong bytes, every acknowledged point stays, and each kind of
operation succeeds at least once. The seed is printed; it repeats all choices, though not their
timing.
"""

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from blake3 import blake3

from tests.acceptance.served import Server
from tests.acceptance.shell import Shell, children, end_all, kill

# Killed; done; done with warnings; interrupted; the vault was away, or somebody else's session.
ALLOWED = {-9, 0, 75}
MIB = 2**20


class Wrong(Exception):
    """The law was broken."""


def digests(top: Path) -> dict[str, str]:
    """What each file below *top* holds, by its path."""
    files = (path for path in top.rglob("*") if path.is_file())
    return {str(path.relative_to(top)): blake3(path.read_bytes()).hexdigest() for path in files}


class Thrashing:
    def __init__(self, top: Path, seed: int, machines: int) -> None:
        self.top, self.seed, self.stopped = top, seed, threading.Event()
        self.server = Server(top / "vault").start()
        self.starting = threading.Lock()
        self.machines = [_Machine(self, number) for number in range(machines)]
        self.counts: Counter[str] = Counter()
        self.errors: list[BaseException] = []

    def run(self, seconds: float) -> Counter[str]:
        work = [self._chaos, *(each.work for each in self.machines)]
        threads = [threading.Thread(target=self._guarded, args=(each,)) for each in work]
        for thread in threads:
            thread.start()
        self.stopped.wait(seconds)
        self.stopped.set()
        for thread in threads:
            thread.join(120)
        if self.errors:
            raise self.errors[0]
        self._settle()
        return self.counts

    def _guarded(self, work) -> None:
        try:
            work()
        except BaseException as error:
            self.errors.append(error)
            self.stopped.set()

    def _chaos(self) -> None:
        choice = random.Random(f"chaos {self.seed}")
        while not self.stopped.wait(choice.uniform(0.1, 1.5)):
            victim = choice.choice(["run", "run", "worker", "worker", "server"])
            if victim == "server":
                self.server.end(signal.SIGKILL)
                time.sleep(choice.uniform(0, 0.5))
                self.server.start()
                self.counts["killed server"] += 1
                continue
            runs = [each.process for each in self.machines if each.process is not None]
            if not runs:
                continue
            process = choice.choice(runs)
            below = [process.pid] if victim == "run" else children(process.pid)
            if below and kill(choice.choice(below)):
                self.counts[f"killed {victim}"] += 1

    def _settle(self) -> None:
        """After all: each point that was acknowledged is there, and restores exactly."""
        for machine in self.machines:
            machine.check_all()
        found = self.server.plain("vault", "verify", self.server.directory, plain=True, expect=None)
        if found["damaged"]:
            raise Wrong(f"the vault is damaged: {found['damaged'][:3]}")
        lacking = {"backup", "restore", "verify"} - set(self.counts)
        if lacking:
            raise Wrong(f"never succeeded: {lacking}")


class _Machine:
    """One with a source that it changes between its runs, and digests of what its points hold."""

    def __init__(self, all_: Thrashing, number: int) -> None:
        self.all, self.choice = all_, random.Random(f"machine {all_.seed} {number}")
        self.top = all_.top / f"machine-{number}"
        self.top.mkdir()
        self.shell = Shell(self.top, far=True)
        all_.server.register(self.shell, name=f"m{number}")
        self.source, self.points = self.top / "source", dict[str, dict[str, str]]()
        self.process = None
        self.source.mkdir()
        for file in range(12):
            self._write(file)

    def _write(self, file: int) -> None:
        size = self.choice.choice([10, 3000, 100_000, 2 * MIB, 6 * MIB])
        place = self.source / f"d{file % 4}"
        place.mkdir(exist_ok=True)
        (place / f"{file}").write_bytes(self.choice.randbytes(size))

    def work(self) -> None:
        while not self.all.stopped.is_set():
            kinds = ["backup", "backup", "restore", "older", "verify"]
            kind = self.choice.choice(kinds) if self.points else "backup"
            getattr(self, f"_{kind}")()

    def _run(self, *words):
        """The answer, None if it did not come to a good end."""
        self.process = process = self.shell.start(*words)
        try:
            out, errors = process.communicate(timeout=300)
        finally:
            self.process = None
        if process.returncode not in ALLOWED or "Traceback" in errors:
            raise Wrong(f"{words}: {process.returncode}\n{out}\n{errors}")
        if process.returncode:
            self.all.counts[f"{words[0]} ended with {process.returncode}"] += 1
            return None
        self.all.counts[words[0]] += 1
        return json.loads(out)

    def _backup(self) -> None:
        for _ in range(self.choice.randrange(4)):
            self._write(self.choice.randrange(12))
        content = digests(self.source)
        answer = self._run("backup", "item", self.source)
        if answer is not None:  # else it may have been committed all the same, and is nobody's
            self.points[answer["point"]] = content

    def _restore(self) -> None:
        self._restored(list(self.points)[-1])

    def _older(self) -> None:
        self._restored(self.choice.choice(list(self.points)))

    def _restored(self, point: str) -> None:
        into = self.top / "back" / point[:16]
        into.mkdir(parents=True, exist_ok=True)
        # One that was killed when all was done, and not yet said, has left no mark.
        again = ["--overwrite", "changed"] if any(into.iterdir()) else []
        if self._run("restore", f"item@{point}", "--to", into, *again) is None:
            return  # the next restore of this point goes on with what is there
        self._compare(point, into)

    def _compare(self, point: str, into: Path) -> None:
        found = digests(into / "source").items() ^ self.points[point].items()
        if found:
            raise Wrong(f"point {point}: {sorted(found)[:3]}")
        shutil.rmtree(into)

    def _verify(self) -> None:
        answer = self._run("verify", "item")
        if answer is not None and answer["damaged"]:
            raise Wrong(f"damaged: {answer['damaged'][:3]}")

    def check_all(self) -> None:
        listed = {each["point"] for each in self.shell("points", "item")["points"]}
        if lost := self.points.keys() - listed:
            raise Wrong(f"lost points: {lost}")
        for point in self.points:
            into = self.top / "last" / point[:16]
            into.mkdir(parents=True)
            self.shell("restore", f"item@{point}", "--to", into)
            self._compare(point, into)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--machines", type=int, default=3)
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    top = Path(tempfile.mkdtemp(prefix="transfer-thrash-"))
    try:
        counts = Thrashing(top, args.seed, args.machines).run(args.seconds)
    finally:
        end_all()
        shutil.rmtree(top, ignore_errors=True)
    for what, count in sorted(counts.items()):
        print(f"{count:6} {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
