"""Time, CPU, memory and bytes of transfer beside the peers that are installed, in one run.

Each work is backed up and restored by each program; the order rotates from run to run. Before each
backup the source is read once, so that all find it in the page cache, and before each step what
others wrote is synced. Times are those of whole commands, start-up included; memory is the largest
sum of Pss of a command's processes, sampled every 100 ms. Stores are behind HTTPS on loopback, as
far as a program has that: `transfer vault serve`, and restic's with `rclone serve restic`. What the
first run of each program restores is compared with the source. "Until synced" is until all that a
command and its server have written is on the disk, which some see to before they end.
"""

import argparse
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from perf import results, tables, works
from perf.available import PEERS, available, variant
from perf.far_tools import Served
from perf.measured import Measured, measure
from perf.tables import Figure
from perf.tools import Tool
from perf.verified import lost
from perf.works import Work

STEPS = FIRST, _, EVERYTHING, RESTORE = (
    "first backup",
    "unchanged",
    "unchanged, all read",
    "restore",
)


def configure(parser: argparse.ArgumentParser) -> None:
    results.configure(parser)
    add = parser.add_argument
    add("--only", action="append", choices=[work.name for work in works.WORKS], metavar="WORK",
        help=f"{', '.join(work.name for work in works.WORKS)}; may be repeated "
        f"(default: {', '.join(works.DEFAULT)})")  # fmt: skip
    add("--runs", type=int, default=3, metavar="N", help="of each program (default: 3)")
    add("--step", action="append", choices=STEPS, metavar="STEP",
        help=f"{'; '.join(STEPS)}; may be repeated. The first backup is always made")  # fmt: skip
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--far", action="store_true",
        help="stores behind HTTPS, on loopback (the default)")  # fmt: skip
    where.add_argument("--near", action="store_true",
        help="stores in directories, without servers")  # fmt: skip
    add("--peer", action="append", choices=[*PEERS, "none"], metavar="NAME",
        help=f"{', '.join(PEERS)} or none; may be repeated (default: all that are installed)"
        )  # fmt: skip
    add("--variant", action="append", type=_variant, default=[], metavar="NAME=ARGS",
        help="transfer once more, with these words for `transfer backup`")  # fmt: skip
    add("--data", type=Path, metavar="DIR",
        help="make the data there, once, and leave it for the next time")  # fmt: skip


def _variant(text: str) -> tuple[str, str]:
    try:
        return variant(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(args: argparse.Namespace) -> int:
    steps = [step for step in STEPS if not args.step or step in (FIRST, *args.step)]
    chosen = works.chosen(args.only)
    with results.place(args) as top:
        document = results.head("compare", top)
        tools = available(top, not args.near, dict(args.variant), args.peer)
        document |= _described(tools, chosen, args)
        _say(document)
        comparison = Comparison(tools, steps, args.runs)
        for work in chosen:
            source = works.made(work, args.quick, args.data or top / "data")
            comparison.run(work, source)
            if args.data is None:
                works.remove(source)
            heads = document["heads"]
            print("", *tables.comparison(work.name, heads, steps, comparison.figures), sep="\n")
            print(*comparison.notes.get(work.name, ()), sep="\n", flush=True)
            document["took"] = [figure._asdict() for figure in comparison.figures]
            document["notes"] = comparison.notes
            results.keep(args.json, document)  # after each work: the next one may fail
    return 0


def _described(
    tools: Sequence[Tool], chosen: list[Work], args: argparse.Namespace
) -> dict[str, Any]:
    return {
        "versions": {tool.name: tool.version() for tool in tools},
        "about": {tool.name: tool.note for tool in tools if tool.note},
        "heads": {tool.name: _head(tool, args.near) for tool in tools},
        "stores": "directories" if args.near else "behind HTTPS",
        "runs": args.runs,
        "works": {
            work.name: f"{work.what}: {work.amount(args.quick)} {work.unit}" for work in chosen
        },
    }


def _head(tool: Tool, near: bool) -> str:
    return tool.name if near or isinstance(tool, Served) else f"{tool.name} (near)"


def _say(document: dict[str, Any]) -> None:
    print("; ".join(f"{name}: {version}" for name, version in document["versions"].items()))
    for kind in ("about", "works"):
        print(*(f"{name}: {what}" for name, what in document[kind].items()), sep="\n")
    print(
        f"stores {document['stores']}; {document['runs']} runs, order rotated; median "
        "[least-most], and how many times ours", flush=True,
    )  # fmt: skip


class Comparison:
    """*notes*, by work: what a peer failed at, and what its restore brought back otherwise."""

    def __init__(self, tools: list[Tool], steps: list[str], runs: int) -> None:
        self._tools, self._steps, self._runs = tools, steps, runs
        self.figures: list[Figure] = []
        self.notes: dict[str, list[str]] = {}

    def run(self, work: Work, source: Path) -> None:
        """Raises CalledProcessError where ours fails; a peer that does is left out."""
        notes = self.notes.setdefault(work.name, [])
        tools = list(self._tools)
        for number in range(self._runs):
            for tool in rotated(tools, number):
                try:
                    self._one_run(work, tool, source, number)
                    if number == 0 and RESTORE in self._steps:
                        notes += _otherwise(tool, source)
                except subprocess.CalledProcessError as error:
                    if tool is self._tools[0]:
                        raise
                    notes.append(_failed(tool, error))
                    tools.remove(tool)
                finally:
                    tool.close()
                    if work.unit == "files":
                        _put_away(tool, number)
                    shutil.rmtree(tool.top, ignore_errors=True)
        for path in (path for tool in self._tools for path in _that_were_put_away(tool)):
            shutil.rmtree(path)

    def _one_run(self, work: Work, tool: Tool, source: Path, number: int) -> None:
        tool.reset()
        _target(tool).mkdir()
        before = tool.stored()
        for step, command in self._commands(tool, source):
            works.warm(source, step != RESTORE)
            measured = measure(command, tool)
            stored = tool.stored()
            grown = stored - before if step != RESTORE else None
            self.figures.append(figure(work, tool, (step, number), measured, stored, grown))
            before = stored

    def _commands(self, tool: Tool, source: Path) -> Iterator[tuple[str, list[str]]]:
        """Each is made when the one before it has ended."""
        for step in self._steps:
            command: list[str] | None
            if step == RESTORE:
                command = tool.restore(source, _target(tool))
            else:
                command = tool.backup(source, everything=step == EVERYTHING)
            if command is not None:
                yield step, command


def rotated(tools: list[Tool], number: int) -> list[Tool]:
    turn = number % len(tools)
    return tools[turn:] + tools[:turn]


def _target(tool: Tool) -> Path:
    return tool.top / "restored"


def _put_away(tool: Tool, number: int) -> None:
    """What was restored stays until all is measured: ext4 makes a file the slower, the more of them
    were removed within the last minutes.
    """
    if _target(tool).is_dir():
        _target(tool).rename(tool.top.with_name(f"{tool.top.name}.{number}"))


def _that_were_put_away(tool: Tool) -> list[Path]:
    return list(tool.top.parent.glob(f"{tool.top.name}.*"))


def _otherwise(tool: Tool, source: Path) -> list[str]:
    found = lost(source, tool.restored(source, _target(tool)), tool.loses)
    return [f"{tool.name} restored otherwise than it was: {what}" for what in found]


def _failed(tool: Tool, error: subprocess.CalledProcessError) -> str:
    return f"{tool.name} failed: {error} {(error.stderr or '').strip()[-500:]}"


def figure(
    work: Work, tool: Tool, of: tuple[str, int], measured: Measured, stored: int, grown: int | None
) -> Figure:
    """*of* is (step, run)."""
    sent = measured.said.get("bytes_sent", measured.said.get("bytes_received", grown))
    return Figure(
        work.name, tool.name, *of, measured.seconds, measured.cpu, measured.server_cpu,
        measured.pss, measured.server_pss, sent, stored, measured.synced,
    )  # fmt: skip
