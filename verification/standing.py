"""What each criterion stands at today, from the reports of earlier runs: the newest word that still counts.

Evidence grows old: after `fresh_for_days` of its criterion it says nothing about today, and what it proved
counts as not measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec

from reports.model import Evidence, Report, Verdict
from verification.catalogue import CatalogueEntry


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """The newest verdict about a criterion. `age_days` is that of its evidence, `run` the run that judged."""

    verdict: Verdict
    evidence: Evidence
    run: str
    age_days: float
    fresh: bool

    @property
    def counts(self) -> Verdict:
        """What it counts as today."""
        return self.verdict if self.fresh else Verdict.NOT_MEASURED


def standing(entry: CatalogueEntry, reports: Iterable[Report], now: datetime) -> Standing | None:
    """Where a criterion stands; None when no report has measured it. `reports`: newest first.

    A report without a readable end, or from the future (a clock went back), is passed over.
    """
    for report in reports:
        ended = _instant(report.run.ended)
        if ended is None or ended > now:
            continue
        for told in report.criteria:
            if told.id == entry.id and told.verdict is not Verdict.NOT_MEASURED:
                age_days = (now - ended).total_seconds() / 86_400.0 + (told.age_days or 0.0)
                return Standing(
                    verdict=told.verdict,
                    evidence=told.evidence,
                    run=report.run.id,
                    age_days=age_days,
                    fresh=entry.fresh_for_days is None or age_days <= entry.fresh_for_days,
                )
    return None


def _instant(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
