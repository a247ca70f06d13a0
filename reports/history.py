"""Earlier runs: the one that a report stands beside, and what changed since then."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from reports.model import (
    REPORT_SCHEMA,
    Comparison,
    CriterionResult,
    Regression,
    Report,
    Run,
    RunState,
    Verdict,
)
from reports.store import RunError, schema_of


def reports_in(out: Path) -> Iterator[Report]:
    """Readable reports under `out`, newest start first. What is damaged is passed over."""
    found = []
    for path in out.glob("*/report.json"):
        if path.parent.is_symlink():
            continue
        try:
            report = msgspec.json.decode(path.read_bytes(), type=Report)
        except (OSError, msgspec.DecodeError, RecursionError):
            continue
        if report.schema == REPORT_SCHEMA:
            found.append(report)
    yield from sorted(found, key=lambda r: (r.run.started, r.run.id), reverse=True)


def read(folder: Path) -> Report:
    """The report of a rendered run. Raises `RunError` when there is none or it is damaged."""
    path = folder / "report.json"
    try:
        raw = path.read_bytes()
        found = schema_of(raw)
        if found not in {None, REPORT_SCHEMA}:
            raise RunError(
                str(path),
                f"is {found!r}; this version reads {REPORT_SCHEMA}",
                "use the version that wrote it",
            )
        return msgspec.json.decode(raw, type=Report)
    except FileNotFoundError:
        raise RunError(str(path), "is missing", f"render it with `threenines report {folder.name}`") from None
    except OSError as error:
        raise RunError(str(path), f"cannot be read ({error.strerror})", "look at the file's rights") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        mend = f"render it again with `threenines report {folder.name}`"
        raise RunError(str(path), f"is damaged ({error})", mend) from None


def previous(run: Run, out: Path) -> Report | None:
    """The report that `run` stands beside: of an earlier run of the same profile and environment.

    The last accepted one; where none was accepted, the newest that came to its end and counts. Synthetic runs
    are compared with synthetic runs only.
    """
    newest: Report | None = None
    for report in reports_in(out):
        if not _comparable(report.run, run):
            continue
        if report.verdict is Verdict.PASS:
            return report
        counts = report.verdict not in {Verdict.VOID, Verdict.NOT_MEASURED}
        if newest is None and counts and report.run.state is RunState.FINISHED:
            newest = report
    return newest


def _comparable(other: Run, run: Run) -> bool:
    same = (other.profile, other.environment, other.synthetic) == (
        run.profile,
        run.environment,
        run.synthetic,
    )
    return same and other.started < run.started and other.id != run.id


def compare(earlier: Report, now: Mapping[str, CriterionResult]) -> Comparison:
    """What passed in `earlier` and fails in `now` (by id), and what failed and passes."""
    before = {c.id: c for c in earlier.criteria}
    regressions = tuple(
        Regression(id=name, title=result.title)
        for name, result in now.items()
        if result.verdict is Verdict.FAIL and name in before and before[name].verdict is Verdict.PASS
    )
    mended = tuple(
        name
        for name, result in now.items()
        if result.verdict is Verdict.PASS and name in before and before[name].verdict is Verdict.FAIL
    )
    return Comparison(
        run=earlier.run.id,
        ended=earlier.run.ended,
        regressions=regressions,
        mended=mended,
        accepted=earlier.verdict is Verdict.PASS,
    )
