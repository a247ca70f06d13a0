"""The answer in words: what the report says first, in HTML, Markdown and JUnit alike."""

from __future__ import annotations

from dataclasses import dataclass

from reports import figures, grading
from reports.model import Criterion, Report, Verdict

_URGENCY = {
    Verdict.FAIL: 0,
    Verdict.VOID: 1,
    Verdict.INCONCLUSIVE: 2,
    Verdict.NOT_MEASURED: 3,
    Verdict.PASS: 4,
}


@dataclass(frozen=True)
class Answer:
    """`headline` is the gate's verdict; `release` answers *can we release?* for the whole catalogue."""

    headline: str
    detail: str
    release: str
    release_detail: str


def answer(report: Report) -> Answer:
    """The first words of a report."""
    match report.release.verdict:
        case Verdict.PASS:
            release = "Yes"
        case Verdict.FAIL:
            release = "No"
        case _:
            release = "Not proven"
    return Answer(_headline(report), sentence(report.reason), release, sentence(report.release.reason))


def _headline(report: Report) -> str:
    gate = f"The {report.run.profile} gate"
    match report.verdict:
        case Verdict.PASS:
            return f"{gate} passes"
        case Verdict.FAIL:
            return f"{gate} fails"
        case Verdict.INCONCLUSIVE:
            return f"{gate} is undecided"
        case Verdict.VOID:
            return "This run does not count"
        case Verdict.NOT_MEASURED:
            return "Nothing was measured"


def scope(report: Report) -> str:
    """What the gate's verdict and grade speak about; stands wherever they stand."""
    coverage = report.coverage
    plan = (
        f"The plan covers {coverage.planned} of the {figures.plural(coverage.rows, 'row')} of the catalogue."
    )
    if report.verdict is Verdict.PASS:
        return plan
    planned = figures.plural(coverage.criteria_planned, "planned criterion", "planned criteria")
    return f"{coverage.criteria_passed} of {planned} passed. {plan}"


def to_do(report: Report) -> tuple[Criterion, ...]:
    """Planned criteria that did not pass, and whatever else failed; the most urgent first."""
    wanted = [
        c
        for c in report.criteria
        if (c.planned and not grading.passes(c)) or (not c.planned and c.verdict is Verdict.FAIL)
    ]
    return tuple(sorted(wanted, key=lambda c: (not c.planned, _URGENCY[c.verdict])))


def why(criterion: Criterion) -> str:
    """Why its verdict is what it is, in a sentence."""
    text = criterion.reason or f"{figures.WORDS[criterion.verdict].lower()}; no reason was given"
    if criterion.verdict is Verdict.INCONCLUSIVE and criterion.trials_to_decide:
        text += f"; about {figures.plural(criterion.trials_to_decide, 'more trial')} would decide"
    return sentence(text)


def measured(report: Report) -> tuple[Criterion, ...]:
    """Criteria with a certificate: whatever was planned or has evidence."""
    return tuple(c for c in report.criteria if c.planned or c.verdict is not Verdict.NOT_MEASURED)


def unmeasured(report: Report) -> tuple[Criterion, ...]:
    """The rest, listed plainly."""
    return tuple(c for c in report.criteria if not c.planned and c.verdict is Verdict.NOT_MEASURED)


def title_of(report: Report) -> str:
    return (
        f"{figures.WORDS[report.verdict]}: {report.run.profile} on {report.run.environment}, {report.run.id}"
    )


def sentence(text: str) -> str:
    """With a capital at its start and a full stop; `p99 …` and names such as `RL-3 …` keep their case."""
    text = text.strip()
    if not text:
        return text
    plain = text.split(maxsplit=1)[0].isalpha()
    first = text[:1].upper() + text[1:] if plain else text
    return first if first.endswith((".", "!", "?")) else first + "."
