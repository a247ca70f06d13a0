"""What a scenario came to: shapes of `result.json`, and the same in words."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from reports.model import FaultTold, LookTold, Verdict

SCHEMA = "threenines.scenario-result/1"


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One run of one scenario.

    Pass: all that must hold held. Fail: something did not, or something is not as before. Inconclusive: the
    steady state, the load or the proof of a fault was missing.
    """

    scenario: str
    title: str
    rows: tuple[str, ...]
    expected: str
    verdict: Verdict
    why: tuple[str, ...] = ()
    faults: tuple[FaultTold, ...] = ()
    looks: tuple[LookTold, ...] = ()
    load: tuple[str, ...] = ()
    schema: str = SCHEMA
    seed: int = 0
    stack: str = ""
    commit: str | None = None
    commit_dirty: bool | None = None
    started: str = ""
    ended: str = ""
    machine: str = ""

    @property
    def simulated(self) -> bool:
        """Whether a stand-in took a fault's part."""
        return any(fault.simulated for fault in self.faults)


def worst(results: Sequence[Result]) -> Verdict:
    """Of several results: fail, else inconclusive, else pass. Without any: inconclusive."""
    verdicts = {result.verdict for result in results}
    order = (Verdict.FAIL, Verdict.INCONCLUSIVE)
    return next((one for one in order if one in verdicts), Verdict.PASS if verdicts else Verdict.INCONCLUSIVE)


def exit_status(verdict: Verdict) -> int:
    """0 pass, 1 fail, 2 not proven."""
    return {Verdict.PASS: 0, Verdict.FAIL: 1}.get(verdict, 2)


def markdown(result: Result) -> str:
    """`report.md` of a run."""
    simulated = " (simulated)" if result.simulated else ""
    lines = [
        f"# {result.scenario}: {result.verdict.value}{simulated}",
        "",
        f"{_cell(result.title)}. Rows: {', '.join(result.rows)}.",
        "",
        f"Expected beforehand: {_cell(result.expected)}",
        "",
        *(f"- {_cell(line)}" for line in result.why),
        *([""] if result.why else []),
        "| fault | proof that it took effect | lasted | all as before |",
        "|---|---|---|---|",
        *(
            f"| {_cell(f.fault)} | {'' if f.proved else '**not proved** '}{_cell(f.effect)} | "
            f"{f.lasted_s:.1f} s | {'yes' if f.restored else '**no** ' + _cell(f.trouble)} |"
            for f in result.faults
        ),
        "",
        "| when | what must hold | within | verdict | seen |",
        "|---|---|---|---|---|",
        *(
            f"| {look.phase} | {_cell(look.what)} | {look.within_s:g} s | {look.verdict.value} | "
            f"{_seen(look)} |"
            for look in result.looks
        ),
        "",
        *(f"- {_cell(line)}" for line in result.load),
        "",
        f"Stack {result.stack}, {result.started} to {result.ended}, commit {result.commit or 'unknown'}"
        f"{' with changes' if result.commit_dirty else ''}, seed {result.seed}. {result.machine}",
        "",
        f"Again: `threenines chaos run {result.scenario}`",
    ]
    return "\n".join(lines) + "\n"


def words(result: Result) -> str:
    """For a terminal."""
    lines = [f"{result.scenario}: {result.verdict.value}{' (simulated)' if result.simulated else ''}"]
    lines += [f"  {line}" for line in result.why]
    for fault in result.faults:
        proof = "took effect" if fault.proved else "NOT PROVED"
        back = "all as before" if fault.restored else "NOT AS BEFORE"
        lines.append(f"  fault   {fault.fault}: {proof} ({fault.effect}); {fault.lasted_s:.1f} s; {back}")
    lines += [
        f"  {look.phase:<7} {look.verdict.value:<12} {look.what}: {_seen(look)}" for look in result.looks
    ]
    lines += [f"  load    {line}" for line in result.load]
    return "\n".join(lines)


def _seen(look: LookTold) -> str:
    after = "" if look.after_s is None else f"after {max(0.0, look.after_s):.2f} s"
    return "; ".join(part for part in (after, _cell(look.seen)) if part)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
