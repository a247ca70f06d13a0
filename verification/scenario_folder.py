"""A scenario's folder read again: from its raw records alone to its result, for runs judged anew.

Read with suspicion: what is damaged, cut, tells two stories or is not the scenario that the plan had proves
nothing. A folder without raw records (the run is older, or came here without them) says nothing at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from chaos.errors import ChaosError
from chaos.journal import Entry
from chaos.scenario import Scenario, ScenarioError, cells, load_scenario
from chaos.scenario_play import Phase, Played
from reports.model import PlannedScenario
from verification.history import History, HistoryError
from verification.scenario_judge import judge
from verification.scenario_result import Result

PLANNED, PLAYED_AS, PLAYED, JOURNAL = "planned.yaml", "scenario.yaml", "played.json", "journal.jsonl"
"""As it was planned; as it was played (faults drawn, one cell of a design); what came of it; all events."""
RAW = (PLAYED_AS, PLAYED, JOURNAL)
MEND = "restore it, or run the scenario again"
BACK_NS = 10_000_000_000
"""Threads write the journal, on machines that starve: a line may stand behind one that is so much later."""
T = TypeVar("T", Scenario, Played)

_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")


@dataclass(frozen=True)
class Again:
    """A scenario judged anew: a result for each cell of its design, or why that cannot be done."""

    results: tuple[Result, ...] = ()
    why: str = ""


def judged_again(
    run_folder: Path, planned: PlannedScenario, folder: str | None, names: Sequence[str]
) -> Again | None:
    """What the raw records say of a scenario of a run; None where there are none.

    `folder`: where the run says that they are; `names`: of the cells that it told.
    """
    if folder is None:
        return None
    place = run_folder / folder
    if not place.resolve().is_relative_to(run_folder.resolve()):
        return Again(why=f"its raw records are said to be in {folder}, which is not in the run")
    if not all(_NAME.fullmatch(name) for name in names):
        return Again(why="it names a cell that can be none")
    homes = [place] if len(names) == 1 else [place / name for name in names]
    if not any((home / name).exists() for home in homes for name in RAW):
        return None
    try:
        whole = _planned(place, planned)
        results = tuple(judge_folder(home) for home in homes)
        played = tuple(_read(home / PLAYED_AS, Scenario) for home in homes)
    except (ChaosError, HistoryError) as error:
        where = error.where.removeprefix(f"{run_folder}/")
        return Again(why=f"its raw records cannot be judged: {where}: {error.what}")
    if not _plays(whole, played):
        return Again(why=f"what was played in {folder} is not the scenario that was planned")
    return Again(results=results)


def judge_folder(folder: Path) -> Result:
    """Judges a stored run of one scenario from its folder alone. Raises ScenarioError, HistoryError."""
    scenario = _read(folder / PLAYED_AS, Scenario)
    played = _read(folder / PLAYED, Played)
    entries = tuple(_entries(folder / JOURNAL))
    _agree(played, entries, folder)
    return judge(scenario, played, entries, History.read(folder))


def _planned(place: Path, planned: PlannedScenario) -> Scenario:
    """The scenario as its plan has it: stored, else as this version ships it. Raises ScenarioError."""
    for name in (PLANNED, PLAYED_AS):
        with contextlib.suppress(FileNotFoundError):
            if hashlib.sha256((place / name).read_bytes()).hexdigest() == planned.sha256:
                return _read(place / name, Scenario)
    with contextlib.suppress(ScenarioError):
        shipped = load_scenario(planned.name)
        if hashlib.sha256(msgspec.yaml.encode(shipped)).hexdigest() == planned.sha256:
            return shipped
    raise ScenarioError(str(place), "holds another scenario than the one that was planned", MEND)


def _plays(whole: Scenario, played: Sequence[Scenario]) -> bool:
    """Whether these are the cells of that scenario, its random faults drawn."""
    wanted = cells(whole)
    if whole.random is not None:
        if any(len(one.steps) != whole.random.count for one in played):
            return False
        played = [msgspec.structs.replace(one, steps=whole.steps, random=whole.random) for one in played]
    return sorted(map(msgspec.json.encode, played)) == sorted(map(msgspec.json.encode, wanted))


def _read(path: Path, kind: type[T]) -> T:
    try:
        raw = path.read_bytes()
        if path.suffix == ".yaml":
            return msgspec.yaml.decode(raw, type=kind)
        return msgspec.json.decode(raw, type=kind)
    except OSError as error:
        raise ScenarioError(str(path), f"cannot be read ({error.strerror})", MEND) from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ScenarioError(str(path), f"is damaged ({' '.join(str(error).split())[:200]})", MEND) from None


def _entries(path: Path) -> Iterator[Entry]:
    """The journal's lines, each whole. Raises ScenarioError."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ScenarioError(str(path), f"cannot be read ({error.strerror})", MEND) from None
    if lines.pop():
        raise ScenarioError(str(path), "is cut short", MEND)
    last_ns = 0
    for number, line in enumerate(lines, 1):
        try:
            entry = msgspec.json.decode(line, type=Entry)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ScenarioError(f"{path}:{number}", f"is no entry of a journal ({error})", MEND) from None
        if entry.time_ns < last_ns - BACK_NS:
            raise ScenarioError(f"{path}:{number}", "its clock went back", MEND)
        if any(not _can_be(value) for name, value, _ in entry.measures if name == "took"):
            raise ScenarioError(f"{path}:{number}", "took a time that cannot be", MEND)
        last_ns = max(last_ns, entry.time_ns)
        yield entry


def _can_be(took: object) -> bool:
    return isinstance(took, (int, float)) and math.isfinite(took) and took >= 0


def _agree(played: Played, entries: Sequence[Entry], folder: Path) -> None:
    """That what came of the faults is what the journal says of them. Raises ScenarioError."""
    told: dict[str, dict[str, list[bool | None]]] = {}
    for entry in entries:
        told.setdefault(entry.trial, {}).setdefault(entry.event, []).append(entry.holds)
    came_to_an_end = any((entry.event, entry.text) == ("phase", "end") for entry in entries)
    if not (came_to_an_end or played.unsteady or played.stopped):
        raise ScenarioError(str(folder / JOURNAL), "lacks its end", MEND)
    for one in played.outcomes:
        events: Mapping[str, list[bool | None]] = told.get(one.trial, {})
        proved = events.get("effect", [None])[-1] is True
        back = [proof.holds for proof in one.restored] == events.get("restored", [])
        if one.effect.holds != proved or one.healed != ("healed" in events) or not back:
            raise ScenarioError(str(folder), f"{PLAYED} and {JOURNAL} differ on {one.fault}", MEND)
        if not _can_be(one.lasted_s):
            raise ScenarioError(str(folder / PLAYED), f"{one.fault} lasted a time that cannot be", MEND)
    begun = {trial for trial, events in told.items() if "planned" in events}
    missing = begun - {one.trial for one in played.outcomes}
    if missing and not (played.stopped or played.refused):
        raise ScenarioError(str(folder / PLAYED), f"says nothing of trial {min(missing)}", MEND)
    seen = {trial.partition("/")[0] for trial, events in told.items() if "look" in events}
    if not seen <= {phase.value for phase in Phase}:
        raise ScenarioError(str(folder / JOURNAL), "has a look of no phase", MEND)
