"""`threenines gate`: may this commit go out?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reports import store

if TYPE_CHECKING:
    from verification.gate import Decision

EXAMPLES = (
    "threenines gate --environment production",
    "threenines gate --environment staging --commit v1.2.0",
    "threenines gate --json | jq -r '.runs[].command'    what would decide it",
)


def gate(
    environment: Annotated[str, typer.Option(help="Where it is to go: whose policy decides.")] = "production",
    commit: Annotated[str, typer.Option(help="What is to be released.")] = "HEAD",
    policy: Annotated[
        Path | None, typer.Option(help="A policy of one's own instead.", show_default=False)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the decision for a script.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Where runs are kept, if not in reports/out.", show_default=False)
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(help="Folder of the trusted keys, if not the state directory's.", show_default=False),
    ] = None,
) -> None:
    """Decide from stored evidence whether a commit may be released.

    Runs of this machine and imported bundles count when they measured this commit, are fresh enough, and are
    untouched; their raw history is judged again. Exit status: 0 all that the policy asks for is proven, 1
    something failed, 2 something is not proven; then the shortest list of runs that would decide is told.
    """
    from datetime import UTC, datetime

    from threenines.commands.evidence import keys_folder
    from verification import evidence_keys, gate_sources, soak, soak_run
    from verification import gate as gates
    from verification.catalogue import load_catalogue
    from verification.policy import load_policy, read_policy

    catalogue = load_catalogue()
    asked = read_policy(policy, catalogue) if policy is not None else load_policy(environment, catalogue)
    released, now = gate_sources.resolve_commit(commit), datetime.now(UTC)
    home = (out if out is not None else store.default_out()).absolute()
    trust = evidence_keys.trusted(keys_folder(keys))
    sources, unread = gate_sources.read_sources(home, trust, catalogue, released)
    admitted, unfit = gates.admit(sources, asked, gate_sources.distance_to(released), now)
    judges = {soak.PROFILE: soak_run.judge_history}
    judged, edited = gate_sources.check_judged(
        admitted, lambda profile: judges.get(profile, gate_sources.judge_history)
    )
    decision = gates.decide(
        catalogue,
        asked,
        judged,
        (*unread, *unfit, *edited),
        released,
        now,
        extra={soak.PROFILE: soak.CRITERIA},
    )
    if json:
        import msgspec

        typer.echo(msgspec.json.format(msgspec.json.encode(decision), indent=2).decode())
    else:
        _show(decision)
    raise typer.Exit({"pass": 0, "fail": 1}.get(decision.verdict.value, 2))


def _show(decision: Decision) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from reports.figures import SIGNS
    from reports.model import Verdict
    from threenines.errors import one_line
    from verification.gate import NEVER, Standing

    console = Console(highlight=False)
    words = {Verdict.PASS: "release", Verdict.FAIL: "do not release", Verdict.INCONCLUSIVE: "not proven"}
    console.print(
        Text(
            f"{SIGNS[decision.verdict]} {words[decision.verdict]}: {decision.commit[:12]} to"
            f" {decision.environment}",
            style="bold",
        )
    )
    console.print(Text(one_line(decision.reason)), soft_wrap=True)
    console.print()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("category", "proven", "failed", "rows", "needed"):
        table.add_column(name, justify="left" if name == "category" else "right")
    for one in decision.categories:
        table.add_row(one.title, str(one.proven), str(one.failed), str(one.rows), f"{one.threshold:.0%}")
    console.print(table)
    for standing in (Standing.FAILED, Standing.UNDECIDED, Standing.MISSING):
        told = [one for one in decision.criteria if one.standing is standing]
        if told:
            console.print(f"\n{standing.value} ({len(told)})", style="bold")
        unseen = [known.id for known in told if known.reason == NEVER]
        if unseen:
            console.print(Text(f"  {', '.join(unseen)}: {NEVER}"), soft_wrap=True)
        for known in told:
            if known.reason == NEVER:
                continue
            run = f" [{known.run}, {known.age_days:.1f} d]" if known.run is not None else ""
            console.print(Text(one_line(f"  {known.id}: {known.reason}{run}")), soft_wrap=True)
    if decision.refused:
        console.print(f"\nruns that do not count ({len(decision.refused)})", style="bold")
    for refused in decision.refused:
        console.print(Text(one_line(f"  {refused.run}: {refused.reason}")), soft_wrap=True)
    if decision.runs:
        console.print("\nwhat would decide it", style="bold")
    for proposal in decision.runs:
        what = f"  {proposal.command}    {_time(proposal.expected_minutes)}: {', '.join(proposal.decides)}"
        console.print(Text(what), soft_wrap=True)
    if decision.undecidable:
        console.print(
            Text(f"\nno run of this version decides: {', '.join(decision.undecidable)}"), soft_wrap=True
        )


def _time(minutes: float) -> str:
    if minutes >= 2 * 24 * 60:
        return f"about {minutes / (24 * 60):.0f} days"
    return f"about {minutes / 60:.1f} h" if minutes >= 90 else f"about {minutes:.0f} min"
