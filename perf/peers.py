"""Peers whose stores are directories here, whether or not the others are behind HTTPS."""

from pathlib import Path

from perf.tools import Absolute, Tool, output


class Borg(Absolute):
    """Borg with a local repository: its own way to a server is SSH."""

    name, package, needs = "borg", "apt install borgbackup", ("borg",)
    loses = frozenset({"sparse"})
    note = "local repository, no HTTPS; lz4 by default"

    def __init__(self, top: Path) -> None:
        super().__init__(top)
        self._archives = 0

    @property
    def environment(self) -> dict[str, str]:
        own = {"BORG_BASE_DIR": str(self.top), "BORG_PASSPHRASE": "correct horse battery staple"}
        return {**super().environment, **own}

    def reset(self) -> None:
        super().reset()
        self._archives = 0
        self.run(["borg", "init", "--encryption", "repokey-blake2", str(self.store)])

    def version(self) -> str:
        return output("borg", "--version")

    def backup(self, source: Path, *, everything: bool = False) -> list[str]:
        self._archives += 1
        cache = ["--files-cache", "disabled"] if everything else []
        return ["borg", "create", *cache, f"{self.store}::{self._archives}", str(source)]

    def restore(self, source: Path, target: Path) -> list[str]:
        # It extracts into the directory in which it runs.
        return ["env", "-C", str(target), "borg", "extract", f"{self.store}::{self._archives}"]


class Rclone(Tool):
    """An encrypting copier: what copying costs without points, deduplication and compression."""

    name, package, needs = "rclone", "apt install rclone", ("rclone",)
    loses = frozenset({"mode", "owner", "xattrs", "mtime", "sparse", "links"})
    note = "crypt on a local directory: a copy, no points, no compression"

    @property
    def environment(self) -> dict[str, str]:
        crypt = {"TYPE": "crypt", "REMOTE": str(self.store), "PASSWORD": self._obscured}
        own = {f"RCLONE_CONFIG_SEALED_{name}": value for name, value in crypt.items()}
        return {**super().environment, "RCLONE_CONFIG": "", **own}

    def __init__(self, top: Path) -> None:
        super().__init__(top)
        self._obscured = ""

    def reset(self) -> None:
        super().reset()
        self.store.mkdir()
        self._obscured = output("rclone", "obscure", "correct horse battery staple")

    def version(self) -> str:
        return output("rclone", "version").splitlines()[0]

    def backup(self, source: Path, *, everything: bool = False) -> list[str] | None:
        if everything:
            return None  # behind crypt there is no checksum to compare with
        return self._copy(str(source), f"sealed:{source.name}", source.is_dir())

    def restore(self, source: Path, target: Path) -> list[str]:
        there = str(self.restored(source, target))
        return self._copy(f"sealed:{source.name}", there, source.is_dir())

    def _copy(self, here: str, there: str, directory: bool) -> list[str]:
        return ["rclone", "sync" if directory else "copyto", here, there, "--quiet"]


class Kopia(Tool):
    """Kopia with a local repository, defaults throughout."""

    name, package, needs = "kopia", "kopia.io", ("kopia",)
    loses = frozenset({"xattrs", "sparse", "links"})
    note = "local repository, no HTTPS"

    @property
    def environment(self) -> dict[str, str]:
        own = {
            "KOPIA_PASSWORD": "correct horse battery staple",
            "KOPIA_CONFIG_PATH": str(self.top / "kopia.config"),
            "KOPIA_CACHE_DIRECTORY": str(self.top / "cache"),
            "KOPIA_LOG_DIR": str(self.top / "log"),
            "KOPIA_CHECK_FOR_UPDATES": "false",
        }
        return {**super().environment, **own}

    def reset(self) -> None:
        super().reset()
        self.store.mkdir()
        self.run(["kopia", "repository", "create", "filesystem", "--path", str(self.store)])

    def version(self) -> str:
        return "kopia " + output("kopia", "--version").split(" build")[0]

    def backup(self, source: Path, *, everything: bool = False) -> list[str]:
        again = ["--force-hash=100"] if everything else []
        return ["kopia", "snapshot", "create", str(source), *again, "--no-progress"]

    def restore(self, source: Path, target: Path) -> list[str]:
        return ["kopia", "restore", str(source), str(self.restored(source, target))]


PEERS: tuple[type[Tool], ...] = (Borg, Rclone, Kopia)
