"""Faults and outcomes in words and as JSON, for the command line and the docs."""

from __future__ import annotations

import json
import sys
from itertools import groupby
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec

from chaos.fault import Fault, catalogue, kind_of
from chaos.parameters import unit_of
from chaos.session import Outcome

BEGIN, END = "<!-- faults: python -m chaos.presentation docs/chaos.md -->", "<!-- /faults -->"
GROUPS = ("link", "process", "host", "resource", "gpu", "dependency")


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """One parameter of a fault, for people."""

    name: str
    type: str
    unit: str
    default: Any
    required: bool
    least: float | None
    most: float | None
    description: str


class FaultView(msgspec.Struct, frozen=True, kw_only=True):
    """One fault, for people."""

    name: str
    group: str
    summary: str
    parameters: tuple[Parameter, ...] = ()
    needs: tuple[str, ...] = ()
    """What the substrate has to be able to do."""


def fault_views() -> tuple[FaultView, ...]:
    """Every fault, by group and name."""
    views = [view_of(kind) for kind in catalogue().values()]
    return tuple(sorted(views, key=lambda view: (GROUPS.index(view.group), view.name)))


def view_of(kind: type[Fault]) -> FaultView:
    """One fault's description, from its type."""
    hints = get_type_hints(kind, include_extras=True)
    parameters = []
    for field in msgspec.structs.fields(kind):
        hint, meta = hints[field.name], None
        if get_origin(hint) is Annotated:
            hint, meta, *_ = get_args(hint)
        parameters.append(
            Parameter(
                name=field.name,
                type=_type_name(hint),
                unit=unit_of(field.name),
                default=None if field.required else msgspec.to_builtins(field.default),
                required=field.required,
                least=getattr(meta, "ge", None),
                most=getattr(meta, "le", None),
                description=getattr(meta, "description", None) or "",
            )
        )
    return FaultView(
        name=kind.name,
        group=kind.group,
        summary=kind.summary,
        parameters=tuple(parameters),
        needs=tuple(sorted(kind.needs)),
    )


def listing() -> str:
    """The faults as a table."""
    lines = []
    for group, views in groupby(fault_views(), key=lambda view: view.group):
        lines += [f"{group}", *(f"  {view.name:<22} {view.summary}" for view in views)]
    from chaos.scenario_listing import scenario_views

    lines += [
        "scenario",
        *(f"  {one.name:<22} {one.title} ({', '.join(one.rows)})" for one in scenario_views()),
    ]
    return "\n".join(lines)


def listing_json() -> str:
    """`{"faults": [{"name", …}], "scenarios": [{"name", "rows", …}]}`."""
    from chaos.scenario_listing import scenario_views

    scenarios = msgspec.to_builtins(scenario_views())
    return json.dumps({"faults": msgspec.to_builtins(fault_views()), "scenarios": scenarios}, indent=2)


def shown(name: str) -> str:
    """One fault in words. Raises BadFault."""
    kind = kind_of(name)
    view = view_of(kind)
    lines = [f"{view.name}: {view.summary}", "", "parameters"]
    for one in view.parameters:
        given = "needed" if one.required else f"default {one.default if one.default is not None else 'none'}"
        bounds = "" if one.least is None else f", {one.least:g} to {one.most:g}" if one.most else ""
        lines.append(f"  {one.name:<14} {one.type:<24} {one.description} ({given}{bounds})")
    if view.needs:
        lines += ["", f"needs: a substrate with {', '.join(view.needs)}"]
    proof = " ".join((kind.effect.__doc__ or "").split())
    if proof and kind.effect is not Fault.effect:
        lines += ["", f"proof: {proof}"]
    needed = " ".join(f"{one.name}={one.name.upper()}" for one in view.parameters if one.required)
    lines += ["", f"threenines chaos run {view.name} {needed} --duration 10s"]
    return "\n".join(lines)


def shown_json(name: str) -> str:
    """One fault for a script. Raises BadFault."""
    return json.dumps(msgspec.to_builtins(view_of(kind_of(name))), indent=2)


def table() -> str:
    """The faults as a Markdown table, for the docs."""
    rows = [
        f"| `{view.name}` {' '.join(f'`{one.name}`' for one in view.parameters)} | {view.summary} |"
        for view in fault_views()
    ]
    return "\n".join(("| fault and its parameters | what it does |", "|---|---|", *rows))


def outcome(found: Outcome) -> str:
    """What came of a fault, in words."""
    simulated = " (simulated)" if found.effect.simulated else ""
    effect = "took effect" if found.effect.holds else "NOT PROVED, so the trial is void"
    lines = [
        f"injected  in {found.inject_ms:.0f} ms, {effect}{simulated}: {found.effect}",
        f"healed    after {found.lasted_s:.1f} s in {found.heal_ms:.0f} ms"
        if found.healed
        else f"NOT HEALED after {found.lasted_s:.1f} s: {found.trouble}",
    ]
    proofs = dict.fromkeys((proof.holds, str(proof)) for proof in found.restored)
    lines += [f"{'restored ' if holds else 'NOT AS BEFORE'} {words}" for holds, words in proofs]
    if found.trouble and found.healed:
        lines.append(f"trouble   {found.trouble}")
    return "\n".join(lines)


def outcome_json(found: Outcome) -> str:
    """The same for a script."""
    return json.dumps({**msgspec.to_builtins(found), "void": found.void, "whole": found.whole}, indent=2)


def _type_name(hint: Any) -> str:
    """A parameter's type as a person writes its values."""
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_type_name(one) for one in get_args(hint) if one is not type(None))
    if isinstance(hint, type) and issubclass(hint, str) and hint is not str:
        return " | ".join(hint)  # type: ignore[arg-type]  # an enum of words
    return {"str": "text", "int": "whole number", "float": "number"}.get(hint.__name__, str(hint))


def write_table(path: Path) -> None:
    """Puts the present table between the marks in a page."""
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    write_table(Path(sys.argv[1]))
