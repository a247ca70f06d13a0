"""A stored run's scenarios are judged anew from their raw records; what is damaged there passes nothing."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from chaos.fault import Proof
from chaos.journal import Entry
from chaos.scenario import Scenario, Step, cells, read_scenario
from chaos.scenario_play import Played
from chaos.session import Outcome
from loadtests.record import encode_line
from reports.model import Run, ScenarioResult, Verdict, encode
from tests.loadtests.test_load_judged import load
from tests.verification.stories import plan
from tests.verification.test_night_log import history, session, turn
from tests.verification.test_scenario_judge import SCENARIO as ONE
from verification import gate_sources
from verification.judge import judge_run
from verification.night_log import ALL_DONE
from verification.night_plan import planned_scenario
from verification.scenario_folder import judge_folder
from verification.scenario_result import Result

RANDOM = read_scenario(
    b"""
name: drawn
title: drawn
rows: [RL-3]
expected: it is replaced, and nobody notices
load: null
random: {seed: 1, count: 2, faults: [process-kill]}
after: [{look: served, within_s: 5}]
""",
    "drawn",
)
DESIGN = read_scenario(
    b"""
name: square
title: square
rows: [RL-3]
expected: it is replaced, and nobody notices
load: null
design:
  workloads: [reference, payloads]
  rows: {calm: [], kill: [{fault: process-kill, with: {target: agent/a}, for_s: 10}]}
  columns: {still: [], loud: [{fault: process-freeze, with: {target: agent/b}, for_s: 10}]}
during: [{look: served, within_s: 3}]
after: [{look: served, within_s: 5}]
""",
    "square",
)
LOOKS = [("during", 12.0, True), ("during", 14.0, True), ("after", 22.0, True)]


def entry(event: str, time_s: float, **more: object) -> Entry:
    return Entry(event=event, time_ns=int(time_s * 1e9), at="", **more)  # type: ignore[arg-type]


def looked(phase: str, time_s: float, holds: bool) -> Entry:
    return entry("look", time_s, trial=f"{phase}/0", holds=holds, measures=(("took", 100.0, "ms"),))


def play(home: Path, scenario: Scenario, looks: list[tuple[str, float, bool]] = LOOKS) -> None:
    """The raw records of a scenario whose faults took effect from 10.5 s and were undone at 21 s."""
    home.mkdir(parents=True, exist_ok=True)
    entries, outcomes = [entry("phase", 10, text="during")], []
    for number, step in enumerate(scenario.steps, 1):
        trial = str(number)
        entries += [
            entry("planned", 10, trial=trial, fault=step.fault),
            entry("injected", 10.4, trial=trial),
            entry("effect", 10.5, trial=trial, holds=True),
            entry("healing", 20, trial=trial),
            entry("healed", 21, trial=trial),
            entry("restored", 21.1, trial=trial, holds=True),
        ]
        outcomes.append(
            Outcome(
                trial=trial,
                fault=step.fault,
                effect=Proof(True),
                restored=(Proof(True),),
                healed=True,
                inject_ms=1,
                heal_ms=1,
                lasted_s=10,
            )
        )
    entries += [entry("phase", 21, text="after"), *(looked(*one) for one in looks)]
    entries = [*sorted(entries, key=lambda one: one.time_ns), entry("phase", 30, text="end")]
    (home / "journal.jsonl").write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in entries))
    (home / "played.json").write_bytes(msgspec.json.encode(Played(outcomes=tuple(outcomes))))
    (home / "scenario.yaml").write_bytes(msgspec.yaml.encode(scenario))
    if scenario.load is not None:
        (home / "history").mkdir(exist_ok=True)
        (home / "history" / "load-pc2.jsonl").write_bytes(b"".join(map(encode_line, load())))


def night(
    tmp_path: Path,
    scenario: Scenario = ONE,
    told: tuple[Result, ...] | None = None,
    folder: str = "scenarios/0-mine",
) -> Path:
    """A run with that one scenario; what the night told of it is a pass unless said otherwise."""
    run_plan = msgspec.structs.replace(plan(), criteria=(), scenarios=(planned_scenario(scenario),))
    results = told or (Result(scenario="mine", title="", rows=(), expected="", verdict=Verdict.PASS),)
    turns = turn("night-1", 1, 9, piece=scenario.name, done=True, results=results, folder=folder)
    encoded = run_plan.encode()
    (tmp_path / "history").mkdir(parents=True)
    (tmp_path / "plan.json").write_bytes(encoded)
    run = Run(
        id=tmp_path.name,
        started="2026-01-31T12:00:00Z",
        profile="nightly",
        environment="local",
        seed=7,
        plan_sha256=hashlib.sha256(encoded).hexdigest(),
    )
    (tmp_path / "run.json").write_bytes(encode(run))
    records = [*session("night", 0, 10, ALL_DONE), *turns]
    assert history(records).operations
    (tmp_path / "history" / "night.jsonl").write_bytes(b"".join(map(encode_line, records)))
    return tmp_path


def again(folder: Path) -> tuple[ScenarioResult, str]:
    """What the judge says of the scenario now, and where it differs from the night."""
    verdicts = judge_run(folder)
    (found,) = verdicts.scenarios
    return found, "; ".join(f"{one.what}: {one.why}" for one in verdicts.deviations)


def test_raw_records_are_judged_and_not_what_the_night_told(tmp_path):
    folder = night(tmp_path)
    play(folder / "scenarios/0-mine", ONE)
    found, deviations = again(folder)
    assert (found.verdict, found.folder, deviations) == (Verdict.PASS, "scenarios/0-mine", "")
    assert found.looks[0].looks == 2, "the looks are those of the journal: the night told none"
    assert found.faults[0].proved
    play(folder / "scenarios/0-mine", ONE, [*LOOKS[:2], ("during", 15.0, False), LOOKS[2]])
    found, deviations = again(folder)
    assert found.verdict is Verdict.FAIL
    assert found.why[0].startswith("during: ")
    assert "mine is fail; the night told pass" in deviations


def test_the_same_records_give_the_same_bytes_and_the_gate_says_the_same(tmp_path):
    folder = night(tmp_path)
    play(folder / "scenarios/0-mine", ONE)
    verdicts = judge_run(folder)
    before = (folder / "verdicts.json").read_bytes()
    for name in ("played.json", "journal.jsonl", "scenario.yaml"):  # another date of a file is no other file
        (folder / "scenarios/0-mine" / name).touch()
    assert judge_run(folder) == verdicts
    assert (folder / "verdicts.json").read_bytes() == before
    assert gate_sources.judge_history(folder) == verdicts


def test_a_run_without_raw_records_opens_and_says_so(tmp_path):
    folder = night(tmp_path)
    for make in (lambda: None, (folder / "scenarios/0-mine").mkdir):
        (folder / "scenarios").mkdir(exist_ok=True)
        make()
        found, deviations = again(folder)
        assert found.verdict is Verdict.PASS
        assert "scenarios that were not judged again: mine: their raw records are not" in deviations


def replaced(name: str, old: bytes, new: bytes) -> Callable[[Path], None]:
    def change(home: Path) -> None:
        before = (home / name).read_bytes()
        assert old in before
        (home / name).write_bytes(before.replace(old, new, 1))

    return change


def without(name: str, part: bytes) -> Callable[[Path], None]:
    def change(home: Path) -> None:
        lines = (home / name).read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if part not in line]
        assert len(kept) < len(lines)
        (home / name).write_bytes(b"".join(kept))

    return change


def cut(name: str, n: int) -> Callable[[Path], None]:
    return lambda home: (home / name).write_bytes((home / name).read_bytes()[:-n]) and None


def broken_load(home: Path) -> None:
    (home / "history").mkdir()
    (home / "history" / "load-pc2.jsonl").write_bytes(b"{}\n")


TAKES_MINUS = replaced("journal.jsonl", b'["took",100.0,', b'["took",-9e9,')


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (cut("played.json", 5), "played.json: is damaged"),
        (lambda home: (home / "played.json").unlink(), "played.json: cannot be read"),
        (lambda home: (home / "journal.jsonl").unlink(), "journal.jsonl: cannot be read"),
        (cut("journal.jsonl", 5), "journal.jsonl: is cut short"),
        (without("journal.jsonl", b'"text":"end"'), "journal.jsonl: lacks its end"),
        (without("journal.jsonl", b'"effect"'), "played.json and journal.jsonl differ on process-kill"),
        (without("journal.jsonl", b'"restored"'), "played.json and journal.jsonl differ"),
        (replaced("played.json", b'"healed":true', b'"healed":false'), "differ on process-kill"),
        (
            lambda home: (home / "played.json").write_bytes(msgspec.json.encode(Played())),
            "says nothing of trial 1",
        ),
        (replaced("played.json", b'"lasted_s":10', b'"lasted_s":-1'), "lasted a time that cannot be"),
        (replaced("journal.jsonl", b'"time_ns":12000000000', b'"time_ns":1'), "journal.jsonl:5: its clock"),
        (TAKES_MINUS, "took a time that cannot be"),
        (replaced("journal.jsonl", b"[", b'["took",NaN,"ms"],['), "is no entry of a journal"),
        (replaced("journal.jsonl", b'"during/0"', b'"later/0"'), "a look of no phase"),
        (replaced("scenario.yaml", b"within_s: 3.0", b"within_s: 300.0"), "another scenario than the one"),
        (replaced("scenario.yaml", b"name: mine", b"name: [mine"), "another scenario than the one"),
        (
            broken_load,
            "history/load-pc2.jsonl:1: not a record of history",
        ),
    ],
)
def test_what_is_damaged_or_tells_two_stories_is_inconclusive(tmp_path, change, why):
    folder = night(tmp_path)
    play(folder / "scenarios/0-mine", ONE)
    change(folder / "scenarios/0-mine")
    found, deviations = again(folder)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert why in found.why[0]
    assert str(tmp_path) not in found.why[0], "the same bytes wherever the folder lies"
    assert "mine is inconclusive; the night told pass" in deviations


def test_records_outside_of_the_run_do_not_count(tmp_path):
    play(tmp_path / "elsewhere", ONE)
    found, _ = again(night(tmp_path / "run", folder="../elsewhere"))
    assert (found.verdict, found.looks) == (Verdict.INCONCLUSIVE, ())
    assert "not in the run" in found.why[0]
    told = (Result(scenario="../elsewhere", title="", rows=(), expected="", verdict=Verdict.PASS),) * 2
    found, _ = again(night(tmp_path / "other", told=told))
    assert (found.verdict, found.why) == (Verdict.INCONCLUSIVE, ("it names a cell that can be none",))


def test_random_faults_are_those_that_were_drawn(tmp_path):
    step = Step(fault="process-kill", with_={"target": "agent/a"}, for_s=10)
    folder = night(
        tmp_path, RANDOM, (Result(scenario="drawn", title="", rows=(), expected="", verdict=Verdict.PASS),)
    )
    home = folder / "scenarios/0-mine"
    drawn = msgspec.structs.replace(RANDOM, random=None, steps=(step, step))
    play(home, drawn)
    (home / "planned.yaml").write_bytes(msgspec.yaml.encode(RANDOM))
    assert again(folder)[0].verdict is Verdict.PASS
    play(home, msgspec.structs.replace(drawn, steps=(step,)))
    found, _ = again(folder)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.why == ("what was played in scenarios/0-mine is not the scenario that was planned",)
    play(home, msgspec.structs.replace(drawn, after=()))
    assert "not the scenario" in again(folder)[0].why[0]


def test_every_cell_of_a_design_is_judged(tmp_path):
    parts = cells(DESIGN)
    told = tuple(
        Result(scenario=one.name, title="", rows=(), expected="", verdict=Verdict.PASS) for one in parts
    )
    folder = night(tmp_path, DESIGN, told)
    home = folder / "scenarios/0-mine"
    home.mkdir(parents=True)
    (home / "planned.yaml").write_bytes(msgspec.yaml.encode(DESIGN))
    for one in parts:
        play(home / one.name, one)
        assert judge_folder(home / one.name).why == ()
    found, _ = again(folder)
    assert (found.verdict, len(found.faults)) == (Verdict.PASS, 4)
    play(home / parts[3].name, parts[3], [*LOOKS[:2], ("during", 15.0, False), LOOKS[2]])
    assert again(folder)[0].verdict is Verdict.FAIL
    shutil.rmtree(home / parts[3].name)
    found, _ = again(folder)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert f"{parts[3].name}/scenario.yaml: cannot be read" in found.why[0]
