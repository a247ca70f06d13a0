"""A night of scenarios within a time budget: the least known first, and on where it was stopped.

`nightly.jsonl` beside the runs holds a line for each scenario that began and one for each that ended; a line
that was cut in the middle is passed over. What is next follows from it alone.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from chaos.scenario import Scenario, ScenarioError
from reports.model import Verdict
from verification.deployment import Deployment
from verification.judge import write_file
from verification.progress import Progress
from verification.scenario_run import Wish, run_scenario, worst

JOURNAL = "nightly.jsonl"
DEFAULT_BUDGET_S = 90 * 60.0


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the journal. `verdict` None: it began. `night` names the night that it belongs to."""

    night: str
    scenario: str
    at: str
    verdict: Verdict | None = None
    run: str = ""
    why: tuple[str, ...] = ()


def read_lines(path: Path) -> tuple[Line, ...]:
    """The whole lines of a journal, none when there is no such file. Raises ScenarioError."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise ScenarioError(str(path), f"cannot be read ({error.strerror})", "mend that file") from None
    lines = []
    for text in raw.split(b"\n"):
        try:
            lines.append(msgspec.json.decode(text, type=Line))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
    return tuple(lines)


def order(scenarios: Sequence[Scenario], lines: Sequence[Line]) -> tuple[Scenario, ...]:
    """Most informative first: never ended, then not passed last time, then the longest unseen.

    Among those never run, the one with most rows that no ended run has exercised.
    """
    last: dict[str, tuple[int, Verdict]] = {}
    for number, line in enumerate(lines):
        if line.verdict is not None:
            last[line.scenario] = (number, line.verdict)
    seen = {row for one in scenarios if one.name in last for row in one.rows}

    def rank(one: Scenario) -> tuple[int, int, str]:
        if one.name not in last:
            return 0, -len(set(one.rows) - seen), one.name
        number, verdict = last[one.name]
        return (2 if verdict is Verdict.PASS else 1), number, one.name

    return tuple(sorted(scenarios, key=rank))


def unfinished(lines: Sequence[Line]) -> str | None:
    """The night that was cut short, None when the last one came to its end."""
    return lines[-1].night if lines and lines[-1].scenario else None


def run_night(
    scenarios: Sequence[Scenario],
    out: Path,
    budget_s: float,
    deployment: Callable[[], Deployment],
    progress: Progress,
    stop: threading.Event,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Path, Verdict]:
    """Runs what fits into the budget; answers with the night's report and the worst verdict.

    A scenario whose time does not fit any more is left for the next night and named in the report; such a
    night is inconclusive. One that breaks the harness is inconclusive, and the night goes on.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / JOURNAL
    lines = read_lines(path)
    night = unfinished(lines) or _fresh(_now(), {line.night for line in lines})
    done = {line.scenario for line in lines if line.night == night and line.verdict is not None}
    left: list[str] = []
    begin = clock()
    for scenario in order([one for one in scenarios if one.name not in done], lines):
        if stop.is_set() or clock() - begin + scenario.about_s > budget_s:
            left.append(scenario.name)
            continue
        _append(path, Line(night=night, scenario=scenario.name, at=_now()))
        told = _told(scenario, night, Wish(out=out), deployment, progress, stop)
        if stop.is_set():
            left.append(scenario.name)
        else:
            _append(path, told)
    if not stop.is_set():
        _append(path, Line(night=night, scenario="", at=_now()))
    return _report(out, night, read_lines(path), left)


def _fresh(name: str, taken: set[str]) -> str:
    return (
        name
        if name not in taken
        else next(f"{name}-{n}" for n in range(2, 10_000) if f"{name}-{n}" not in taken)
    )


def _told(
    scenario: Scenario,
    night: str,
    wish: Wish,
    deployment: Callable[[], Deployment],
    progress: Progress,
    stop: threading.Event,
) -> Line:
    try:
        folder, results = run_scenario(scenario, wish, deployment(), progress, stop)
    except Exception as error:  # the harness broke on this one: told in the report, not hidden by it
        broke = (f"the harness broke: {' '.join(str(error).split())[:300] or type(error).__name__}",)
        return Line(night=night, scenario=scenario.name, at=_now(), verdict=Verdict.INCONCLUSIVE, why=broke)
    why = tuple(line for result in results for line in result.why)
    verdict = worst(results)
    return Line(night=night, scenario=scenario.name, at=_now(), verdict=verdict, run=folder.name, why=why)


def _report(out: Path, night: str, lines: Sequence[Line], left: Sequence[str]) -> tuple[Path, Verdict]:
    ended = [line for line in lines if line.night == night and line.verdict is not None]
    verdicts = {line.verdict for line in ended}
    if Verdict.FAIL in verdicts:
        verdict = Verdict.FAIL
    else:
        verdict = Verdict.PASS if verdicts == {Verdict.PASS} and not left else Verdict.INCONCLUSIVE
    text = [
        f"# Night of {night}: {verdict.value}",
        "",
        f"{len(ended)} scenarios ended; {len(left)} are left for the next night{': ' if left else '.'}"
        + ", ".join(left),
        "",
        "| scenario | verdict | why |",
        "|---|---|---|",
    ]
    for line in ended:
        name = f"[{line.scenario}]({line.run}/report.md)" if line.run else line.scenario
        why = "; ".join(line.why).replace("|", "\\|")
        text.append(f"| {name} | {line.verdict.value if line.verdict else ''} | {why} |")
    path = out / f"nightly-{night.replace(':', '')}.md"
    write_file(path, ("\n".join(text) + "\n").encode())
    return path, verdict


def _append(path: Path, line: Line) -> None:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":
            os.write(handle, b"\n")  # cut off in the middle of a line
        os.write(handle, msgspec.json.encode(line) + b"\n")
        os.fsync(handle)
    finally:
        os.close(handle)


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
