"""Limits by the time of day: show, set and pause them; check a timetable, and foretell with it.

The timetable is timetable.toml in TRANSFER_CONFIG, /etc/transfer for root, else the user's
configuration. --up and --down of a command limit that run besides.

`transfer throttle ACTION --help` says more, with examples.

Examples:
  transfer throttle show
  transfer throttle set --up 20Mbit --for 2h
  transfer throttle check timetable.toml

Exit status: 0 done, 3 done with warnings, 64 usage, or FILE is wrong: its line is named.
"""

import argparse
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from transfer.cli import actions, output, values
from transfer.cli.actions import Action
from transfer.errors import UsageError
from transfer.policy.rates import parse_size

if TYPE_CHECKING:
    from transfer.policy.timetable_simulate import Forecast

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEARS = range(1970, 9000)
_MAX_WARNINGS = 1000


def _check_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="a timetable.toml")


def _simulate_options(parser: argparse.ArgumentParser) -> None:
    _check_options(parser)
    add = parser.add_argument
    add("--bytes", type=_size, required=True, metavar="SIZE",
        help="how much: K, M, G and T are powers of 1024")  # fmt: skip
    add("--from", dest="start", metavar="DATE", help="when it begins (default: now)")
    add("--direction", choices=("up", "down"), default="up", help="default: up")
    add("--line", type=values.rate, metavar="RATE", help="what the line carries at most")


def _state_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--state", type=Path, metavar="DIR", help="what this machine remembers")


def _for_option(parser: argparse.ArgumentParser) -> None:
    _state_option(parser)
    parser.add_argument("--for", dest="duration", type=values.duration, metavar="TIME",
        help="for so long (90s, 30m, 2h), and then as before")  # fmt: skip


def _set_options(parser: argparse.ArgumentParser) -> None:
    _for_option(parser)
    for pool, what in (("up", "what is sent"), ("down", "what comes"), ("total", "both together")):
        parser.add_argument(f"--{pool}", type=values.machine_rate, metavar="RATE", help=what)
    parser.add_argument("--clear", action="store_true", help="what the timetable says holds again")


_ACTIONS = {
    "show": Action("throttle_control", "what is in force, why, and what the week will bring", """\
Of the runs that are under way it tells which limit each has, its own included.

Examples:
  transfer throttle show""", _state_option),
    "set": Action("throttle_control", "limit this machine, instead of the timetable", """\
Holds for runs that are under way, at once, and for all that begin; what is not named stays as it
is. RATE is as for --up, and 0 is a pause of that direction. --clear gives the timetable back its
say.

Examples:
  transfer throttle set --up 20Mbit --for 2h
  transfer throttle set --up off --down 5M
  transfer throttle set --clear""", _set_options),
    "pause": Action("throttle_control", "let nothing go, until `resume` or for a time", """\
Runs stay, keep what they have sent, and go on afterwards.

Examples:
  transfer throttle pause --for 10m""", _for_option),
    "resume": Action("throttle_control", "end a pause", """\
Examples:
  transfer throttle resume""", _state_option),
    "off": Action("throttle_control", "no limits, whatever the timetable says", """\
`transfer throttle set --clear` gives the timetable back its say.

Examples:
  transfer throttle off --for 1h""", _for_option),
    "check": Action("throttle", "look through a timetable for what was not meant", """\
Warns of rules that overlap with the same priority, and of rules that never have an effect. Tells
when no rule holds, and which times of the coming two years do not exist, or exist twice, because
clocks are set.

Examples:
  transfer throttle check timetable.toml""", _check_options),
    "simulate": Action("throttle", "say when so many bytes would be done", """\
DATE is RFC 3339, or the same without an offset, by this machine's clock. Counted is what the
timetable allows, as if nothing else were to be sent; --line says what the line itself carries,
for times without a limit.

Examples:
  transfer throttle simulate timetable.toml --bytes 2T
  transfer throttle simulate timetable.toml --bytes 500G --from 2027-03-01T18:00 --direction down
  transfer throttle simulate timetable.toml --bytes 2T --line 100Mbit""", _simulate_options),
}  # fmt: skip


def configure(parser: argparse.ArgumentParser) -> None:
    actions.configure(parser, _ACTIONS)


def run(args: argparse.Namespace) -> output.Outcome:
    return actions.run(args, _ACTIONS)


def run_check(args: argparse.Namespace) -> output.Outcome:
    from transfer.files.timetable import read_timetable
    from transfer.policy.timetable_check import check

    timetable = read_timetable(args.file)
    found = check(timetable, time.time_ns())
    warnings = [
        {"path": str(args.file), "code": each.code, "message": each.message}
        for each in found if each.is_warning
    ]  # fmt: skip
    notes = [each for each in found if not each.is_warning]
    result = {
        "file": str(args.file),
        "rules": [rule.name for rule in timetable.rules],
        "notes": [{"code": e.code, "message": e.message, "rules": e.rules} for e in notes],
        "warnings": warnings[:_MAX_WARNINGS],
        "warnings_total": len(warnings),
    }
    count = len(timetable.rules)
    lines = [f"{args.file}: {count} {'rule' if count == 1 else 'rules'}"]
    lines += [output.printable(each.message) for each in notes]
    return output.Outcome(result, lines, output.WARNINGS if warnings else 0)


def run_simulate(args: argparse.Namespace) -> output.Outcome:
    from transfer.files.timetable import read_timetable
    from transfer.policy.timetable_simulate import simulate

    timetable = read_timetable(args.file)
    start = time.time_ns() if args.start is None else _instant(args.start)
    forecast = simulate(timetable, args.bytes, start, args.direction, args.line)
    seconds = None if forecast.done is None else (forecast.done - start) / 10**9
    result = {
        "file": str(args.file), "bytes": args.bytes, "direction": args.direction,
        "from": _rfc3339(start), "done": _rfc3339(forecast.done), "seconds": seconds,
        "paused_seconds": forecast.paused / 10**9, "bytes_left": forecast.left,
        "unlimited_from": _rfc3339(forecast.unlimited), "forever": forecast.forever,
    }  # fmt: skip
    return output.Outcome(result, _told(args, start, forecast))


def _told(args: argparse.Namespace, start: int, forecast: "Forecast") -> list[str]:
    from transfer.cli.throttle_chart import when
    from transfer.files.timetable import local_zone
    from transfer.policy.timetable_simulate import MAX_YEARS

    zone = local_zone()
    lines = [f"begins  {when(start, zone)}, {output.size(args.bytes)} {args.direction}"]
    left = output.size(forecast.left)
    if forecast.done is not None:
        took = _duration(forecast.done - start)
        lines.append(f"done    {when(forecast.done, zone)}, after {took}")
    elif forecast.unlimited is not None:
        lines.append(f"no limit from {when(forecast.unlimited, zone)} on, with {left} left")
        lines.append("        --line RATE says what the line carries")
    elif forecast.forever:
        lines.append(f"never done: paused for ever, with {left} left")
    else:
        lines.append(f"not done in {MAX_YEARS} years: {left} are left then")
    if forecast.paused and not forecast.forever:
        lines.append(f"paused  {_duration(forecast.paused)} of that")
    return lines


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(f"{error.message}: {error.hint}") from error


def _instant(text: str) -> int:
    """Nanoseconds since 1970 UTC; without an offset, *text* is by this machine's clock."""
    from transfer.files.timetable import local_zone

    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = datetime.min
    if found.year not in _YEARS:
        raise UsageError(
            f"--from {text!r} is no date", "write 2027-03-01T18:00, or 2027-03-01T18:00:00+01:00"
        )
    if found.tzinfo is None:
        found = found.replace(tzinfo=local_zone())
    return (found - _EPOCH) // timedelta(microseconds=1) * 1000


def _rfc3339(instant: int | None) -> str | None:
    """Rounded up to a second: never before it is done."""
    if instant is None:
        return None
    return f"{_EPOCH + timedelta(seconds=-(-instant // 10**9)):%Y-%m-%dT%H:%M:%SZ}"


def _duration(nanoseconds: int) -> str:
    minutes = -(-nanoseconds // (60 * 10**9))
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = ((days, "d"), (hours, "h"), (minutes, "min"))
    return " ".join(f"{amount} {unit}" for amount, unit in parts if amount) or "0 min"
