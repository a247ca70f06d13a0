"""`python -m benchmarks peers`: ours against keepalived, Redis Sentinel and Patroni."""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import sys
from collections.abc import Sequence
from types import FrameType

from rich.console import Console
from rich.table import Table

from benchmarks.harness import OUT, write
from benchmarks.peers.campaign import Campaign, Wish, expected_s
from benchmarks.peers.packages import bring
from benchmarks.peers.records import Kind, read_trials
from benchmarks.peers.schedule import remaining
from benchmarks.peers.site import open_site
from benchmarks.peers.summary import (
    OURS,
    WANTED_RATIO,
    Claim,
    Holds,
    Row,
    claims,
    figures,
    rows,
    safety_of,
)
from infra.substrates.base import SubstrateError
from infra.tools.errors import SetupError

SYSTEMS = (OURS, "keepalived-1s", "keepalived-fast", "redis-sentinel", "patroni")
TRIALS_OUT = OUT / "peers.jsonl"
EXAMPLES = """\
examples:
  python -m benchmarks peers                        15 trials of every kind with every system
  python -m benchmarks peers --trials 2             a look
  python -m benchmarks peers --run a --minutes 4    a piece of it; the same line again goes on
  python -m benchmarks peers --run a --report       what is there, measured no further

exit status: 0 at least twice as fast as the fastest safe peer under every fault, 1 not so, 2 not decided
or not finished, 3 it could not be run, 64 wrong use
"""


def main(arguments: Sequence[str]) -> int:
    """Runs the comparison, or goes on with it, and prints the result."""
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as wrong:
        return 64 if wrong.code else 0
    # The seed of a named run is its name's, so that the next piece has the same order without being told.
    seed = options.seed
    if seed is None:
        seed = random.Random(options.run).getrandbits(32) if options.run else random.getrandbits(32)
    wish = Wish(
        run=options.run or f"seed-{seed}",
        systems=tuple(options.system or SYSTEMS),
        kinds=tuple(Kind(one) for one in options.kind or Kind),
        trials=options.trials,
        rounds=options.rounds,
        seed=seed,
    )
    left = remaining(wish.blocks(), read_trials(TRIALS_OUT, wish.run))
    minutes = sum(expected_s(block.trials) for block in left) / 60
    print(
        f"peers: run {wish.run}, seed {seed}, {wish.trials} trials of {', '.join(wish.kinds)} with "
        f"{', '.join(wish.systems)}, at most {wish.rounds} of each in a block; "
        f"{sum(len(block.trials) for block in left)} to go, about {minutes:.0f} min",
        file=sys.stderr,
        flush=True,
    )
    if not options.report and left:
        status = _measure(wish, options.minutes)
        if status:
            return status
    return _result(wish, markdown=options.markdown)


def _measure(wish: Wish, minutes: float | None) -> int:
    """0 when the time was used, 3 when it could not be."""
    if os.geteuid() != 0:
        print(
            "threenines: benchmarks.peers: only root may make network namespaces; run it as root",
            file=sys.stderr,
        )
        return 3
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGHUP, _leave)
    try:
        with open_site(bring()) as site:
            Campaign(site, wish, TRIALS_OUT, None if minutes is None else minutes * 60).work()
    except (SetupError, SubstrateError) as error:
        print(f"threenines: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("stopped; the same command with --run goes on", file=sys.stderr)
        return 130
    return 0


def _leave(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _result(wish: Wish, *, markdown: bool) -> int:
    """Prints what the run has so far and writes the figures."""
    trials = read_trials(TRIALS_OUT, wish.run)
    table = rows(trials, wish.systems)
    judged = claims(table)
    console = Console(width=None if sys.stdout.isatty() else 150)
    if markdown:
        print(_markdown(table))
    else:
        console.print(_table(table))
    for one in (trial for trial in trials if trial.void):
        console.print(f"void: {one.system} {one.kind} {one.number}: {one.void}")
    for claim in judged:
        console.print(_sentence(claim))
    finished = not remaining(wish.blocks(), trials)
    if loads := [one.load for one in trials if one.load is not None]:
        console.print(
            f"load average at the faults: median {statistics.median(loads):.1f}, most {max(loads):.1f} on "
            f"{os.cpu_count()} cores; times taken on a busy machine say little"
        )
    if finished and (made := figures(table)):
        write(made)
    if any(claim.holds is Holds.NO for claim in judged):
        return 1
    decided = len(judged) == len(wish.kinds) and all(claim.holds is Holds.YES for claim in judged)
    return 0 if finished and decided else 2


COLUMNS = ("fault", "system", "n", "median", "p95", "range", "spread", "split brain", "lost", "safe")


def _cells(table: Sequence[Row]) -> list[tuple[str, ...]]:
    made: list[tuple[str, ...]] = []
    for one in table:
        voids = f" (+{one.void} void)" if one.void else ""
        unserved = f", {one.unserved} not served" if one.unserved else ""
        made.append(
            (
                one.kind.value,
                one.system,
                f"{one.n}{voids}",
                _ms(one.median_ms),
                _ms(one.p95_ms),
                f"{_ms(one.least_ms)} – {_ms(one.most_ms)}{unserved}",
                _ms(one.spread_ms),
                f"{one.split_trials} trials, {one.split_writes} writes" if one.split_trials else "0",
                f"{one.lost} of {one.acknowledged}" + (f", {one.unread} unread" if one.unread else ""),
                safety_of(one.system, table).value,
            )
        )
    return made


def _table(table: Sequence[Row]) -> Table:
    shown = Table(*COLUMNS)
    for cells in _cells(table):
        shown.add_row(*cells)
    return shown


def _markdown(table: Sequence[Row]) -> str:
    lines: list[tuple[str, ...]] = [COLUMNS, ("---",) * len(COLUMNS), *_cells(table)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f} ms"


def _sentence(claim: Claim) -> str:
    if claim.ratio is None:
        return f"{claim.kind}: {claim.holds}: {claim.why}"
    return (
        f"{claim.kind}: {claim.ours_ms:,.0f} ms against {claim.peer_ms:,.0f} ms of {claim.peer}, the fastest "
        f"peer that was safe: {claim.ratio:.1f}× (wanted {WANTED_RATIO:g}×): {claim.holds}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks peers",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--trials", type=_positive, default=15, help="of every kind with every system (15)")
    parser.add_argument("--rounds", type=_positive, default=2, help="of every kind in a block, at most (2)")
    parser.add_argument("--system", action="append", choices=SYSTEMS, help="only this one; may be repeated")
    parser.add_argument("--kind", action="append", choices=[*Kind], help="only this fault; may be repeated")
    parser.add_argument(
        "--seed", type=int, help="order of blocks and faults; else of the run's name, or drawn"
    )
    parser.add_argument("--run", help="name of the run, to go on with it")
    parser.add_argument("--minutes", type=float, help="end before this time; the rest is for the next piece")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--markdown", action="store_true", help="print the table for BENCHMARKS.md")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return value
