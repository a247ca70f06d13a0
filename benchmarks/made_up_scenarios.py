"""A scenario's folder as a run of it leaves it, made up: every fault took effect, every look held."""

from __future__ import annotations

from pathlib import Path

import msgspec

from benchmarks.made_up_records import Files, load_seconds
from chaos.fault import Measure, Proof
from chaos.journal import Entry
from chaos.scenario import Scenario, Step, cells
from chaos.scenario_looks import AnyLook, LoadHolds
from chaos.scenario_play import LOOK_EVERY_S, Played
from chaos.session import Outcome
from loadtests.workload import load_workload
from verification.scenario_folder import JOURNAL, PLANNED, PLAYED, PLAYED_AS, judge_folder
from verification.scenario_result import Result

S = 1_000_000_000
DRAWN = Step(fault="process-kill", with_={"target": "agent/clock-service"})
LASTS_S = 8.0


def write_scenario(
    folder: Path, scenario: Scenario, hosts: tuple[str, ...], at_ns: int
) -> tuple[tuple[Result, ...], int]:
    """Its results and how many nanoseconds it took; `folder` is new."""
    folder.mkdir(parents=True)
    (folder / PLANNED).write_bytes(msgspec.yaml.encode(scenario))
    parts, results, begin_ns = cells(scenario), [], at_ns
    for part in parts:
        place = folder if len(parts) == 1 else folder / part.name
        place.mkdir(exist_ok=True)
        at_ns = _write_cell(place, part, hosts, at_ns) + S
        results.append(judge_folder(place))
    return tuple(results), at_ns - begin_ns


def _write_cell(place: Path, scenario: Scenario, hosts: tuple[str, ...], begin_ns: int) -> int:
    """Answers with the instant of its end."""
    if scenario.random is not None:
        steps = tuple(
            msgspec.structs.replace(DRAWN, at_s=LASTS_S * number) for number in range(scenario.random.count)
        )
        scenario = msgspec.structs.replace(scenario, steps=steps)
    (place / PLAYED_AS).write_bytes(msgspec.yaml.encode(scenario))
    first_ns = begin_ns + int((scenario.calm_s + 1) * S)
    healed_ns = first_ns + int(scenario.lasts_s * S) + S
    slowest_s = max((look.within_s for look in scenario.after), default=0.0)
    end_ns = healed_ns + int((scenario.calm_s + slowest_s + 4) * S)
    entries = [_entry("phase", begin_ns, text="before"), _entry("phase", first_ns, text="during")]
    outcomes = []
    for number, step in enumerate(scenario.steps, 1):
        trial, at = f"made-up-{number}", first_ns + int(step.at_s * S)
        undone = at + int(step.for_s * S)
        entries += [
            _entry("planned", at, trial=trial, fault=step.fault),
            _entry("injected", at + S // 50, trial=trial, fault=step.fault),
            _entry("effect", at + S // 20, trial=trial, holds=True, measures=(("gone", 1.0, ""),)),
            _entry("healing", undone, trial=trial),
            _entry("healed", undone + S // 5, trial=trial),
            _entry("restored", undone + S // 4, trial=trial, holds=True),
        ]
        effect = Proof(True, (Measure("gone", 1.0),))
        outcomes.append(
            Outcome(
                trial=trial,
                fault=f"{step.fault} {' '.join(f'{k}={v}' for k, v in step.with_.items())}".rstrip(),
                effect=effect,
                restored=(effect,),
                healed=True,
                inject_ms=20.0,
                heal_ms=50.0,
                lasted_s=step.for_s,
            )
        )
    entries.append(_entry("phase", healed_ns, text="after"))
    for phase, looks, since, until in (
        ("before", scenario.before, begin_ns, first_ns),
        ("during", scenario.during, first_ns, healed_ns - S),
        ("after", scenario.after, healed_ns, end_ns),
    ):
        entries += _looked(phase, looks, since, until)
    entries = [*sorted(entries, key=lambda one: one.time_ns), _entry("phase", end_ns, text="end")]
    (place / JOURNAL).write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in entries))
    (place / PLAYED).write_bytes(msgspec.json.encode(Played(outcomes=tuple(outcomes))))
    if scenario.load is not None:
        files = Files(place / "history")
        for host in scenario.load.hosts or hosts:
            load_seconds(files, f"load-{host}", host, begin_ns, end_ns, load_workload(scenario.load.workload))
        files.flush()
    return end_ns


def _looked(phase: str, looks: tuple[AnyLook, ...], since_ns: int, until_ns: int) -> list[Entry]:
    measures = (("took", 12.5, "ms"), ("agents served", 77.0, ""), ("at least", 77.0, ""))
    return [
        _entry("look", at, trial=f"{phase}/{number}", holds=True, measures=measures)
        for number, look in enumerate(looks)
        if not isinstance(look, LoadHolds)
        for at in range(since_ns + S // 10, until_ns, int(LOOK_EVERY_S * S))
    ]


def _entry(event: str, time_ns: int, **more: object) -> Entry:
    return msgspec.convert(
        {"event": event, "time_ns": time_ns, "at": "2026-01-31T01:00:00.000+00:00", **more}, Entry
    )
