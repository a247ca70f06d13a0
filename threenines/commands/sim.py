"""`threenines sim`: the ownership protocol through simulated weeks of faults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from verification.simulation.history import Outcome, Parameters
    from verification.simulation.runner import Hunt, Total

EXAMPLES = (
    "threenines sim                              one simulated week",
    "threenines sim --seeds 200                  two hundred of them",
    "threenines sim --seed 17                    that one again, decision by decision",
    "threenines sim --mutants                    do the checks catch planted bugs?",
    "threenines sim --seed 3 --mutant wall-clock one of those bugs",
    "threenines sim --seeds 200 --json | tail -1 | jq .violations",
)


def sim(
    seeds: Annotated[int | None, typer.Option(min=1, help="How many histories.", show_default=False)] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="The first seed; alone: replay it.", show_default=False)
    ] = None,
    weeks: Annotated[float, typer.Option(min=0.0002, help="Length of one history.")] = 1.0,
    processes: Annotated[int, typer.Option(min=1, help="Histories at the same time.")] = 1,
    mutants: Annotated[bool, typer.Option("--mutants", help="Hunt the planted bugs.")] = False,
    mutant: Annotated[str | None, typer.Option(help="Plant this bug.", show_default=False)] = None,
    shrink: Annotated[bool, typer.Option("--shrink", help="Reduce a failing history.")] = False,
    json: Annotated[bool, typer.Option("--json", help="End with one line for a script.")] = False,
) -> int:
    """Run the ownership protocol through simulated weeks: crashes, stops, cuts, clocks, a store that stalls.

    One seed is one history. The seed and the parameters come first; a failure prints what replays it.
    """
    from threenines.errors import UserError
    from verification.simulation.history import WEEK_S, Parameters
    from verification.simulation.mutants import BY_NAME

    name = mutant or "faithful"
    if name not in BY_NAME:
        raise UserError(f"mutant {name}", "there is none of that name", f"use one of: {', '.join(BY_NAME)}")
    first = 0 if seed is None else seed
    seconds = round(weeks * WEEK_S)
    if mutants:
        return _mutants(first, seeds or 200, processes, json)
    if seed is not None and seeds is None:
        return _replay(Parameters(seed, seconds), name, shrink, json)
    return _many(first, seeds or 1, seconds, processes, name, shrink, json)


def _many(first: int, seeds: int, seconds: int, processes: int, name: str, shrink: bool, json: bool) -> int:
    from verification.simulation.runner import replay_command, simulate

    typer.echo(f"seeds {first}..{first + seeds - 1}  {seconds} s each  protocol {name}", err=json)

    def told(outcome: Outcome) -> None:
        if outcome.violation is not None:
            _tell_violation(outcome, replay_command(outcome.parameters, name), json)

    total = simulate(
        range(first, first + seeds), seconds=seconds, processes=processes, variant=name, told=told
    )
    if shrink and total.violations:
        _shrink(total.violations[0], name, json)
    _tell_total(total, json)
    return 1 if total.violations else 0


def _tell_violation(outcome: Outcome, replay: str, json: bool) -> None:
    violation = outcome.violation
    if violation is not None:
        at_s = violation.at_ns / 1e9
        typer.echo(f"broken after {at_s:.6f} s: {violation.check}: {violation.detail}", err=json)
        typer.echo(f"  replay: {replay}", err=json)


def _tell_total(total: Total, json: bool) -> None:
    if json:
        import msgspec

        told = {
            "seeds": total.seeds,
            "weeks": total.weeks,
            "faults": total.faults,
            "violations": len(total.violations),
            "failing_seeds": [outcome.parameters.seed for outcome in total.violations],
            "simulated_s": total.simulated_s,
            "skipped_s": total.skipped_s,
            "wall_s": round(total.wall_s, 3),
            "simulated_per_wall": round(total.speed),
        }
        typer.echo(msgspec.json.encode(told).decode())
        return
    counts = total.counts
    typer.echo(
        f"{total.weeks:g} weeks, {total.faults:,} faults, {len(total.violations)} violations "
        f"in {total.wall_s:.1f} s: {total.speed:,.0f} simulated seconds a second"
    )
    typer.echo(
        f"  {counts['moved']:,} moves of an agent, {counts['fence']:,} self-fencings, "
        f"{counts['failback']:,} returns home, {counts['elections']:,} elections, "
        f"{counts['ambiguous']:,} silences, {counts['late']:,} late writes, {counts['effects']:,} effects"
    )


def _replay(parameters: Parameters, name: str, shrink: bool, json: bool) -> int:
    from verification.simulation.history import plan, run
    from verification.simulation.mutants import BY_NAME
    from verification.simulation.runner import replay_command

    faults, ppm = plan(parameters)
    typer.echo(
        f"seed {parameters.seed}  {parameters.seconds} s  {len(faults)} faults  "
        f"clocks {ppm[0]:+d} and {ppm[1]:+d} ppm  protocol {name}",
        err=json,
    )
    outcome = run(parameters, BY_NAME[name](), keep_log=True)
    if not json:
        for at_ns, what, *about in outcome.log:
            typer.echo(f"{at_ns / 1e9:14.6f}  {what:<9} {' '.join(map(str, about))}")  # type: ignore[operator]
    _tell_violation(outcome, replay_command(parameters, name), json)
    if shrink and outcome.violation is not None:
        _shrink(outcome, name, json)
    if json:
        import msgspec

        told = {
            "seeds": 1,
            "weeks": parameters.seconds / 604_800,
            "faults": outcome.counts["faults"],
            "violations": 0 if outcome.violation is None else 1,
        }
        typer.echo(msgspec.json.encode(told).decode())
    return 0 if outcome.violation is None else 1


def _shrink(outcome: Outcome, name: str, json: bool) -> None:
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


def _mutants(first: int, seeds: int, processes: int, json: bool) -> int:
    from verification.simulation.runner import hunt_all

    typer.echo(f"planted bugs, at most {seeds} seeds each from {first} on", err=json)
    hunts: list[Hunt] = []
    for one in hunt_all(first, seeds, processes):
        hunts.append(one)
        found = f"{one.seeds:>4} seeds" if one.caught else "   escaped"
        violation = one.outcome.violation if one.outcome is not None else None
        by = "" if violation is None else f"  by {violation.check}"
        typer.echo(f"{found}  {one.name:<28}{by:<24}{one.what}", err=json)
    if json:
        import msgspec

        told = {"mutants": [{"name": h.name, "caught": h.caught, "seeds": h.seeds} for h in hunts]}
        typer.echo(msgspec.json.encode(told).decode())
    return 0 if all(one.caught for one in hunts) else 1
