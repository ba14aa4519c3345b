"""What a person can do about the bottleneck of a run."""

from transfer.policy.bottleneck import Cause

_BOTH: dict[Cause, str] = {
    "network": "the network; a line that loses packets or is long gains by more --connections",
    "vault": "the vault, whose disk or processor takes its time",
    "throttle": "a limit; `transfer throttle show` says which, if it is not this run's own",
}
_BACKUP: dict[Cause, str] = {
    "source": "the source, which is read no faster; `transfer sources PATH` says what need be read",
    "cpu": "the processors; --compression fast needs less of them, and more --workers are for more",
}
_RESTORE: dict[Cause, str] = {
    "target": "the target, which takes no more",
    "cpu": "the processors; more --workers are for more of them",
}


def on_backup(cause: Cause | None) -> list[str]:
    """One line, or none where there is nothing to say."""
    return [f"limited by {(_BOTH | _BACKUP)[cause]}"] if cause else []


def on_restore(cause: Cause | None) -> list[str]:
    return [f"limited by {(_BOTH | _RESTORE)[cause]}"] if cause else []
