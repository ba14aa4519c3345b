"""Memory of a process tree: the sum of its proportional set sizes, shared pages counted once."""

from transfer.jobs.memory import Peak, with_children


class Sampler(Peak):
    """Watch the tree below *pid* while the `with` block runs; *peak* is in bytes."""

    def __init__(self, pid: int, interval: float = 0.1) -> None:
        super().__init__(lambda: living(pid), interval)

    @property
    def peak(self) -> int:
        return self.bytes


def living(pid: int) -> list[int]:
    """*pid* and its descendants; none, where one of them ends while they are looked for."""
    try:
        return with_children(pid)
    except FileNotFoundError:
        return []
