"""Memory of a process tree: the sum of its proportional set sizes, shared pages counted once."""

from transfer.jobs.memory import Peak, with_children


class Sampler(Peak):
    """Watch the tree below *pid* while the `with` block runs; *peak* is in bytes."""

    def __init__(self, pid: int, interval: float = 0.1) -> None:
        super().__init__(lambda: with_children(pid), interval)

    @property
    def peak(self) -> int:
        return self.bytes
