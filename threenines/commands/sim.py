"""`threenines sim`: the ownership protocol through simulated weeks of faults."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from verification.simulation.history import Outcome, Parameters
    from verification.simulation.journal import Finding, Header, Journal
    from verification.simulation.runner import Hunt, Total

EXAMPLES = (
    "threenines sim                              one simulated week",
    "threenines sim --seeds 200                  two hundred of them",
    "threenines sim --seed 17                    that one again, decision by decision",
    "threenines sim --profile nightly            ten thousand; killed, it goes on where it was",
    "threenines sim --seeds 200 --coverage       which faults and which rows of the tables occurred",
    "threenines sim --mutants                    do the checks catch planted bugs, and nothing else?",
    "threenines sim --seed 3 --mutant wall-clock one of those bugs",
    "threenines sim --seeds 200 --shrink --keep 'what was wrong'   land a failure in the list of regressions",
    "threenines sim --seeds 200 --json | tail -1 | jq .violations",
)
PROGRESS_S = 15.0


class Profile(StrEnum):
    """How much: as many weeks as CI runs with the tests, or as a night has room for."""

    CI = "ci"
    NIGHTLY = "nightly"


def sim(
    seeds: Annotated[int | None, typer.Option(min=1, help="How many histories.", show_default=False)] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="The first seed; alone: replay it.", show_default=False)
    ] = None,
    weeks: Annotated[float, typer.Option(min=0.0002, help="Length of one history.")] = 1.0,
    profile: Annotated[Profile | None, typer.Option(help="200 or 10,000 weeks.", show_default=False)] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Histories at the same time (nightly: 2).", show_default=False)
    ] = None,
    journal: Annotated[
        Path | None, typer.Option(help="Go on with what this file has, and add to it.", show_default=False)
    ] = None,
    coverage: Annotated[bool, typer.Option("--coverage", help="What happened how often.")] = False,
    mutants: Annotated[bool, typer.Option("--mutants", help="Hunt the planted bugs.")] = False,
    mutant: Annotated[str | None, typer.Option(help="Plant this bug.", show_default=False)] = None,
    shrink: Annotated[bool, typer.Option("--shrink", help="Reduce a failing history.")] = False,
    keep: Annotated[
        str | None, typer.Option(help="Add it to the regressions, with this bug named.", show_default=False)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="End with one line for a script.")] = False,
) -> int:
    """Run the ownership protocol through simulated weeks: crashes, stops, cuts, clocks, a store that stalls.

    One seed is one history. The seed and the parameters come first; a failure prints what replays it.

    Status 0: no promise was broken. 1: one was. 2: some kind of fault, or some row of the tables, never
    occurred in a whole profile. 130: stopped by Ctrl-C or SIGTERM.
    """
    from threenines.errors import UserError
    from verification.simulation.history import WEEK_S, Parameters
    from verification.simulation.mutants import BY_NAME
    from verification.simulation.runner import CI_SEEDS, NIGHTLY_SEEDS
    from verification.stopping import stopped_by_signals

    name = mutant or "faithful"
    if name not in BY_NAME:
        raise UserError(f"mutant {name}", "there is none of that name", f"use one of: {', '.join(BY_NAME)}")
    if keep is not None and not shrink:
        raise UserError("sim --keep", "a history is kept when it was shrunk", "add --shrink")
    first = 0 if seed is None else seed
    seconds = round(weeks * WEEK_S)
    if profile is not None:
        seeds = seeds or (NIGHTLY_SEEDS if profile is Profile.NIGHTLY else CI_SEEDS)
        processes = processes or 2
    if profile is Profile.NIGHTLY and journal is None:
        journal = Path(".threenines") / "simulation-nightly.jsonl"
    wanted = range(first, first + (seeds or 1))
    with stopped_by_signals():
        if mutants:
            return _mutants(first, seeds or 200, processes or 1, json)
        if seed is not None and seeds is None:
            return _replay(Parameters(seed, seconds), name, shrink, keep, json)
        total = _many(wanted, seconds, processes or 1, name, journal, shrink, keep, coverage, json)
    if total.findings:
        return 1
    owing = total.coverage.owing
    if profile is None or not owing:
        return 0
    typer.echo(f"threenines: sim: this never happened: {', '.join(owing)}; run more weeks", err=True)
    return 2


def _many(
    seeds: range,
    seconds: int,
    processes: int,
    name: str,
    path: Path | None,
    shrink: bool,
    keep: str | None,
    coverage: bool,
    json: bool,
) -> Total:
    from verification.simulation.history import Parameters, run
    from verification.simulation.journal import Header, code_digest
    from verification.simulation.mutants import BY_NAME
    from verification.simulation.runner import FAULTS, replay_command, simulate

    typer.echo(f"seeds {seeds[0]}..{seeds[-1]}  {seconds} s each  protocol {name}", err=json)

    def told(finding: Finding) -> None:
        _tell_finding(finding, replay_command(Parameters(finding.seed, seconds), name), json)

    progress = _progress(len(seeds), json)
    if path is None:
        total = simulate(
            seeds, seconds=seconds, processes=processes, variant=name, told=told, progress=progress
        )
    else:
        header = Header(seeds[0], len(seeds), seconds, FAULTS, name, code_digest())
        with _journal(path, header, json) as journal:
            total = simulate(
                seeds,
                seconds=seconds,
                processes=processes,
                variant=name,
                journal=journal,
                told=told,
                progress=progress,
            )
    if shrink and total.findings:
        outcome = run(Parameters(total.findings[0].seed, seconds), BY_NAME[name]())
        _shrink(outcome, name, keep, json)
    _tell_total(total, coverage, json)
    return total


def _journal(path: Path, header: Header, json: bool) -> Journal:
    from threenines.errors import UserError
    from verification.simulation.journal import Journal, JournalError

    try:
        journal = Journal(path, header)
    except JournalError as error:
        raise UserError(str(error.path), error.what, error.mend) from None
    except OSError as error:
        raise UserError(str(path), error.strerror or str(error), "name a file that can be written") from None
    if journal.batches:
        typer.echo(f"{len(journal.done):,} of them are done already ({path})", err=json)
    return journal


def _progress(seeds: int, json: bool) -> Callable[[Total], None]:
    last = time.monotonic()

    def tell(total: Total) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < PROGRESS_S:
            return
        last = now
        left_s = (seeds - total.seeds) * total.wall_s / total.seeds
        typer.echo(
            f"{total.seeds:,}/{seeds:,} weeks  {total.faults:,} faults  {len(total.findings)} violations  "
            f"{total.speed:,.0f} simulated s/s  {left_s / 60:.0f} min left",
            err=True,
        )

    return tell


def _tell_finding(finding: Finding, replay: str, json: bool) -> None:
    typer.echo(f"broken after {finding.at_ns / 1e9:.6f} s: {finding.check}: {finding.detail}", err=json)
    typer.echo(f"  replay: {replay}", err=json)


def _tell_total(total: Total, coverage: bool, json: bool) -> None:
    from verification.simulation.liveness import BOUND_NS, quantile_ms

    gaps = total.gaps_ms
    p99_ms, longest_ms = quantile_ms(gaps, 0.99), quantile_ms(gaps, 1.0)
    bound_ms = BOUND_NS // 1_000_000
    if json:
        import msgspec

        told = {
            "seeds": total.seeds,
            "weeks": total.weeks,
            "faults": total.faults,
            "violations": len(total.findings),
            "failing_seeds": [finding.seed for finding in total.findings],
            "simulated_s": total.simulated_s,
            "skipped_s": total.skipped_s,
            "wall_s": round(total.wall_s, 3),
            "simulated_per_wall": round(total.speed),
            "ownerless": {"n": sum(n for _, n in gaps), "p99_ms": p99_ms, "max_ms": longest_ms},
            "ownerless_bound_ms": bound_ms,
            "never_happened": total.coverage.missing,
        }
        typer.echo(msgspec.json.encode(told).decode())
        return
    counts = total.counts
    typer.echo(
        f"{total.weeks:g} weeks, {total.faults:,} faults, {len(total.findings)} violations "
        f"in {total.wall_s:.1f} s: {total.speed:,.0f} simulated seconds a second"
    )
    typer.echo(
        f"  {counts['moved']:,} moves of an agent, {counts['fence']:,} self-fencings, "
        f"{counts['failback']:,} returns home, {counts['elections']:,} elections, "
        f"{counts['silent and performed'] + counts['silent and not performed']:,} silences, "
        f"{counts['late']:,} late writes, {counts['effects']:,} effects"
    )
    if gaps:
        typer.echo(
            f"  without an owner although a host could be: {sum(n for _, n in gaps):,} times, "
            f"p99 {p99_ms:,} ms, longest {longest_ms:,} ms, bound {bound_ms:,} ms"
        )
    if coverage:
        _tell_coverage(total)


def _tell_coverage(total: Total) -> None:
    from verification.simulation.coverage import UNREACHED

    seen = total.coverage
    for kind, (injected, effective) in seen.kinds.items():
        typer.echo(f"  {effective:>10,}  {kind} ({injected:,} injected)")
    for what, count in (*seen.effects.items(), *seen.rows.items()):
        why = f"  ({UNREACHED[what]})" if not count and what in UNREACHED else ""
        typer.echo(f"  {count:>10,}  {what}{why}")


def _replay(parameters: Parameters, name: str, shrink: bool, keep: str | None, json: bool) -> int:
    from verification.simulation.history import plan, run
    from verification.simulation.journal import Finding
    from verification.simulation.mutants import BY_NAME
    from verification.simulation.runner import replay_command

    planned = plan(parameters)
    clocks = ", ".join(f"{ppm:+d}" for ppm in planned.ppm)
    typer.echo(
        f"seed {parameters.seed}  {parameters.seconds} s  {len(planned.faults)} faults  "
        f"{len(planned.fleet.workers)} workers, clocks {clocks} ppm  protocol {name}",
        err=json,
    )
    outcome = run(parameters, BY_NAME[name](), keep_log=True)
    if not json:
        for at_ns, what, *about in outcome.log:
            typer.echo(f"{at_ns / 1e9:14.6f}  {what:<9} {' '.join(map(str, about))}")  # type: ignore[operator]
    violation = outcome.violation
    if violation is not None:
        finding = Finding(parameters.seed, violation.check, violation.at_ns, violation.detail)
        _tell_finding(finding, replay_command(parameters, name), json)
        if shrink:
            _shrink(outcome, name, keep, json)
    if json:
        import msgspec

        told = {
            "seeds": 1,
            "weeks": parameters.seconds / 604_800,
            "faults": outcome.counts["faults"],
            "violations": 0 if violation is None else 1,
        }
        typer.echo(msgspec.json.encode(told).decode())
    return 0 if violation is None else 1


def _shrink(outcome: Outcome, name: str, keep: str | None, json: bool) -> None:
    from threenines.errors import UserError

    try:
        from verification.simulation.shrinking import shrunk
    except ImportError as error:
        raise UserError(
            "sim --shrink", "Hypothesis is not installed", "install the extra `threenines[dev]`"
        ) from error

    small = shrunk(outcome, name)
    if small is None:
        typer.echo("  no shorter history breaks it", err=json)
        return
    typer.echo(f"  shrunk to {len(small.faults or ())} faults in {small.seconds} s:", err=json)
    for fault in small.faults or ():
        typer.echo(f"    {fault.at_ms:>8} ms  {fault.kind} {fault.host} {fault.for_ms} ms", err=json)
    if keep is not None and outcome.violation is not None:
        from verification.simulation.regressions import FILE, add, regression

        add(regression(keep, name, outcome.violation.check, small))
        typer.echo(f"  kept in {FILE}", err=json)


def _mutants(first: int, seeds: int, processes: int, json: bool) -> int:
    from verification.simulation.runner import hunt_all, try_benign

    typer.echo(f"planted bugs, at most {seeds} seeds each from {first} on", err=json)
    hunts: list[Hunt] = []
    for one in hunt_all(first, seeds, processes):
        hunts.append(one)
        found = f"{one.seeds:>4} seeds" if one.caught else "   escaped"
        violation = one.outcome.violation if one.outcome is not None else None
        by = "" if violation is None else f"  by {violation.check}"
        typer.echo(f"{found}  {one.name:<28}{by:<28}{one.what}", err=json)
    fewer = min(seeds, 25)
    typer.echo(f"harmless changes, {fewer} seeds each", err=json)
    ghosts: list[Hunt] = []
    for one in try_benign(first, fewer, processes):
        ghosts.append(one)
        found = "  caught!" if one.caught else "  not caught"
        typer.echo(f"{found:<12}  {one.name:<28}{one.what}", err=json)
    if json:
        import msgspec

        told = {
            "mutants": [{"name": h.name, "caught": h.caught, "seeds": h.seeds} for h in hunts],
            "benign": [{"name": h.name, "caught": h.caught, "seeds": h.seeds} for h in ghosts],
        }
        typer.echo(msgspec.json.encode(told).decode())
    sound = all(one.caught for one in hunts) and not any(one.caught for one in ghosts)
    return 0 if sound else 1
