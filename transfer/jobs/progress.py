"""Progress of a run: plain numbers that whoever shows them samples."""

from dataclasses import dataclass, field


@dataclass
class Warning:
    path: str
    code: str
    message: str


MAX_WARNINGS = 1000


@dataclass
class Progress:
    phase: str = ""
    bytes_done: int = 0
    bytes_total: int = 0
    files_done: int = 0
    bytes_sent: int = 0
    warnings: list[Warning] = field(default_factory=list)
    warnings_total: int = 0

    def phase_is(self, name: str) -> None:
        self.phase = name

    def sending(self, size: int) -> None:
        """*size* bytes of frames are on their way: from now on changes are transferred."""
        self.phase = "transferring"
        self.bytes_sent += size

    def read(self, size: int) -> None:
        self.bytes_done += size

    def file_done(self, size: int) -> None:
        self.files_done += 1
        self.bytes_done += size

    def warn(self, path: bytes, code: str, message: str) -> None:
        self.warnings_total += 1
        if len(self.warnings) < MAX_WARNINGS:
            self.warnings.append(Warning(path.decode(errors="backslashreplace"), code, message))
