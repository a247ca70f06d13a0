"""Scenarios for people and scripts: the list, one in words, and the table in the docs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import msgspec

from chaos.scenario import Scenario, every_step, load_scenario, needs, shipped

BEGIN, END = "<!-- scenarios: python -m chaos.scenario_listing docs/scenarios.md -->", "<!-- /scenarios -->"


class ScenarioView(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario in a list."""

    name: str
    title: str
    rows: tuple[str, ...]
    faults: tuple[str, ...]
    about_s: float
    expected: str
    needs: tuple[str, ...] = ()
    """What the substrate has to be able to do."""


def scenario_views() -> tuple[ScenarioView, ...]:
    """Every scenario that comes with the product, by name."""
    return tuple(view_of(load_scenario(name)) for name in shipped())


def view_of(scenario: Scenario) -> ScenarioView:
    """One of them."""
    return ScenarioView(
        name=scenario.name,
        title=scenario.title,
        rows=scenario.rows,
        faults=_faults(scenario),
        about_s=round(scenario.about_s),
        expected=" ".join(scenario.expected.split()),
        needs=tuple(sorted(needs(scenario))),
    )


def shown(scenario: Scenario) -> str:
    """A scenario in words."""
    view = view_of(scenario)
    lines = [
        f"{view.name}: {view.title}",
        "",
        f"expected  {view.expected}",
        f"rows      {', '.join(view.rows)}",
    ]
    if view.needs:
        lines.append(f"needs     a substrate with {', '.join(view.needs)}")
    if scenario.load is not None:
        on = f" on {', '.join(scenario.load.hosts)}" if scenario.load.hosts else " on every worker"
        lines.append(f"load      {scenario.load.workload}{on}")
    lines += [f"fault     at {s.at_s:g} s for {s.for_s:g} s: {s.make()}" for s in scenario.steps]
    if not scenario.steps:
        lines += [f"fault     {one}" for one in view.faults]
    for phase, looks in (("before", scenario.before), ("during", scenario.during), ("after", scenario.after)):
        lines += [f"{phase:<9} {look} (within {look.within_s:g} s)" for look in looks]
    return "\n".join((*lines, f"takes     about {view.about_s:g} s", "", f"threenines chaos run {view.name}"))


def shown_json(scenario: Scenario) -> str:
    """The same for a script."""
    return json.dumps(msgspec.to_builtins(scenario), indent=2)


def table() -> str:
    """Every scenario as a Markdown table."""
    rows = []
    for v in scenario_views():
        faults = ", ".join(f"`{fault}`" for fault in v.faults)
        rows.append(f"| `{v.name}` | {v.title} | {faults} | {', '.join(v.rows)} | {v.expected} |")
    return "\n".join(
        ("| scenario | what happens | faults | rows | expected |", "|---|---|---|---|---|", *rows)
    )


def _faults(scenario: Scenario) -> tuple[str, ...]:
    if scenario.random is not None:
        return tuple(f"{scenario.random.count} of {one}" for one in scenario.random.faults) or ("any",)
    return tuple(dict.fromkeys(step.fault for step in every_step(scenario)))


def write_table(path: Path) -> None:
    """Puts the present table between the marks of a page."""
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    write_table(Path(sys.argv[1]))
