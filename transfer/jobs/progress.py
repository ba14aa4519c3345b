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
    """Only the run writes it; whoever shows it reads at any time, from any thread."""

    phases: list[str] = field(default_factory=list)
    """Each as it began, the current one last."""
    bytes_done: int = 0
    bytes_total: int = 0
    """0, or less than what is done, where nobody knows."""
    files_done: int = 0
    bytes_sent: int = 0
    warnings: list[Warning] = field(default_factory=list)
    warnings_total: int = 0

    @property
    def phase(self) -> str:
        return self.phases[-1] if self.phases else ""

    def phase_is(self, name: str) -> None:
        if name != self.phase:
            self.phases.append(name)

    def sending(self, size: int) -> None:
        """*size* bytes of frames are on their way: from now on changes are transferred."""
        self.phase_is("transferring")
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
