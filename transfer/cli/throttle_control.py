"""`transfer throttle show|set|pause|resume|off`: see throttle.py for options and help."""

import argparse
import time
from typing import Any

import msgspec

from transfer.cli import output
from transfer.cli.throttle_chart import chart, in_force, rate_text, when
from transfer.errors import UsageError
from transfer.files.timetable import local_zone
from transfer.jobs import control, machine_limits
from transfer.jobs.machine_limits import Override, Overrides
from transfer.jobs.opening import default_state
from transfer.jobs.state import StateDirectory
from transfer.throttle.rules import POOLS

_SECOND = 10**9


def run_show(args: argparse.Namespace) -> output.Outcome:
    state, now, zone = _state(args), time.time_ns(), local_zone()
    table, path = machine_limits.timetable()
    found, runs = machine_limits.overrides(state).at(now), control.tell(state, "show")
    explained = table.explain(now)
    lines = [f"timetable {output.printable(str(path)) if path else 'none'}"]
    lines += in_force(explained, zone)
    for name in (*POOLS, "pause"):
        if (each := getattr(found, name)) is not None:
            until = f" until {when(each.until, zone)}" if each.until else ""
            lines.append(f"set    {name} {rate_text(each.rate)}{until}")
    for name, answer in runs.items():
        lines.append(f"run    {name}: {_of_run(answer)}")
    if path is not None:
        lines += ["", *chart(table, now, zone, colours=_on_terminal(), width=80)]
    result = {
        "timetable": str(path) if path else None,
        "limits": {p: getattr(explained.limits, p)._asdict() for p in POOLS},
        "since": explained.since, "until": explained.until,
        "set": msgspec.to_builtins(found), "runs": runs,
    }  # fmt: skip
    return output.Outcome(result, lines)


def _of_run(answer: dict[str, Any]) -> str:
    if "error" in answer:
        return str(answer["error"])
    return ", ".join(f"{name} {rate_text(each['rate'])}" for name, each in answer.items())


def _on_terminal() -> bool:
    import os
    import sys

    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def run_set(args: argparse.Namespace) -> output.Outcome:
    chosen = {pool: getattr(args, pool) for pool in POOLS if getattr(args, pool) is not None}
    if args.clear == bool(chosen):
        raise UsageError("--up, --down or --total, or --clear", "`transfer throttle set --help`")
    until = _until(args)
    changes: dict[str, Override | None] = dict.fromkeys(POOLS) if args.clear else {}
    changes |= {pool: Override(rate.value, until) for pool, rate in chosen.items()}
    return _change(args, changes)


def run_pause(args: argparse.Namespace) -> output.Outcome:
    return _change(args, {"pause": Override(0, _until(args))})


def run_resume(args: argparse.Namespace) -> output.Outcome:
    return _change(args, {"pause": None})


def run_off(args: argparse.Namespace) -> output.Outcome:
    override = Override(None, _until(args))
    return _change(args, {**dict.fromkeys(POOLS, override), "pause": None})


def _change(args: argparse.Namespace, changes: dict[str, Override | None]) -> output.Outcome:
    """On the disk first: a run that begins now finds it there."""
    state, now = _state(args), time.time_ns()

    def changed(before: Overrides) -> Overrides:
        kept = before.at(now)
        for name, each in changes.items():
            standing = getattr(kept, name)
            if each and each.until and standing and standing.until is None:
                raise UsageError(
                    f"{name} is set for good, and would not be afterwards",
                    "leave --for out, or first: transfer throttle set --clear, or resume",
                )
        found: Overrides = msgspec.structs.replace(kept, **changes)
        return found

    found = machine_limits.change(state, changed)
    told = control.tell(state, "reload")
    failed = {name: each["error"] for name, each in told.items() if "error" in each}
    lines = [f"{len(told) - len(failed)} runs under way follow it"]
    lines += [f"run {name} does not: {output.printable(why)}" for name, why in failed.items()]
    result = {"set": msgspec.to_builtins(found), "runs": sorted(told), "failed": failed}
    return output.Outcome(result, lines, output.WARNINGS if failed else 0)


def _until(args: argparse.Namespace) -> int | None:
    return None if args.duration is None else time.time_ns() + int(args.duration * _SECOND)


def _state(args: argparse.Namespace) -> StateDirectory:
    return StateDirectory(args.state or default_state())
