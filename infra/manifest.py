"""Reads a fleet's manifest: from a file to a valid `Fleet`, or to every problem that it has.

Three steps: the document with its lines (`infra.document`), the shape (this module: each key of each
struct, converted field by field so that one slip hides no other), the rules (`infra.rules`).
"""

from __future__ import annotations

import difflib
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import msgspec.structs

from infra.document import Mapping, Node, Scalar, Sequence, read_document, show
from infra.rules import check_fleet
from infra.topology import SCHEMA, AgentSpec, Fleet, HealthCheck, HostSpec, ModelSpec, Problem, TopologyError

MAX_PROBLEMS = 100

_NESTED: dict[tuple[type[msgspec.Struct], str], type[msgspec.Struct]] = {
    (AgentSpec, "health"): HealthCheck,
    (AgentSpec, "model"): ModelSpec,
}
_TELLING = frozenset({"handler", "command", "port", "health"})
"""Fields whose default would mean another kind of agent."""
_KINDS = {
    "int": "a whole number",
    "str": "text",
    "float": "a number",
    "bool": "true or false",
    "null": "nothing",
    "array": "a list",
    "object": "a mapping",
}

Path_ = tuple[str | int, ...]


def read_manifest(path: Path) -> Fleet:
    """The fleet that the file describes.

    Raises ManifestUnreadable when its bytes cannot be had, TopologyError with every problem otherwise.
    """
    return build_fleet(read_document(path), str(path))


def build_fleet(document: Mapping, name: str) -> Fleet:
    """The fleet that a document describes; `name` stands in the messages. Raises TopologyError."""
    reader = _Reader(name)
    fleet = reader.fleet(document)
    if fleet is None or reader.problems:
        raise TopologyError(_bounded(reader.problems))
    return fleet


def _bounded(problems: list[Problem]) -> tuple[Problem, ...]:
    problems = sorted(problems, key=_line_of)
    if len(problems) <= MAX_PROBLEMS:
        return tuple(problems)
    rest = len(problems) - MAX_PROBLEMS
    last = problems[MAX_PROBLEMS - 1].where
    more = Problem(last, f"{rest} more problems were found after this one", "mend these first")
    return (*problems[:MAX_PROBLEMS], more)


def _line_of(problem: Problem) -> int:
    line = problem.where.split(" ", 1)[0].rpartition(":")[2]
    return int(line) if line.isdigit() else 0


class _Reader:
    """Collects problems while it turns nodes into structs."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lines: dict[Path_, int] = {}
        self._labels: dict[Path_, str] = {}
        self.problems: list[Problem] = []

    def fleet(self, document: Mapping) -> Fleet | None:
        """The fleet, or None when its very shape is wrong; `problems` says what is."""
        known = self._known_entries(document, Fleet, ())
        schema = known.get("schema")
        if isinstance(schema, Scalar) and schema.value != SCHEMA:
            self._report(("schema",), f"is {show(schema.value)}", f"write {SCHEMA}")
            if isinstance(schema.value, str):
                return None  # a manifest of another generation: its other keys mean something else
        name = self._field(Fleet, "name", known, ()) if "name" in known else None
        hosts = self._list(HostSpec, "hosts", known)
        agents = self._list(AgentSpec, "agents", known)
        if name is None or hosts is None or agents is None:
            return None
        host_at = {position: path for position, (path, _) in enumerate(hosts)}
        agent_at = {position: path for position, (path, _) in enumerate(agents)}
        fleet = Fleet(
            name=name,
            hosts=tuple(host for _, host in hosts),
            agents=tuple(agent for _, agent in agents),
        )
        named = self._named(known.get("hosts")), self._named(known.get("agents"))
        for path, what, mend in check_fleet(fleet, *named, complete=not self.problems):
            self._report(self._place(path, host_at, agent_at), what, mend)
        return fleet

    @staticmethod
    def _place(path: Path_, hosts: dict[int, Path_], agents: dict[int, Path_]) -> Path_:
        """A position in the fleet as a position in the document, which may hold malformed entries too."""
        if len(path) < 2:
            return path
        return (*(hosts if path[0] == "hosts" else agents)[int(path[1])], *path[2:])

    def _list(
        self, kind: type[msgspec.Struct], key: str, known: dict[str, Node]
    ) -> list[tuple[Path_, Any]] | None:
        """The structs of a list that could be built, each with its place; None when there is no list."""
        node = known.get(key)
        if node is None:
            return None
        if not isinstance(node, Sequence):
            self._report((key,), "is not a list", f"write each of the {key} as a list item, after a dash")
            return None
        built = []
        for index, item in enumerate(node.items):
            path: Path_ = (key, index)
            self._lines[path] = item.line
            if isinstance(item, Mapping):
                label = item.entries.get("name")
                if isinstance(label, Scalar) and isinstance(label.value, str) and label.value.isprintable():
                    self._labels[path] = label.value[:63]
                struct = self._struct(kind, item, path)
                if struct is not None:
                    built.append((path, struct))
            else:
                self._report(path, "is not a mapping", "begin with - name: …")
        return built

    @staticmethod
    def _named(node: Node | None) -> frozenset[str]:
        """Every name that the list mentions, well described or not: so that one slip is told once."""
        names = set()
        for item in node.items if isinstance(node, Sequence) else ():
            name = item.entries.get("name") if isinstance(item, Mapping) else None
            if isinstance(name, Scalar) and isinstance(name.value, str):
                names.add(name.value)
        return frozenset(names)

    def _struct(self, kind: type[msgspec.Struct], node: Mapping, path: Path_) -> Any:
        """The struct, with defaults for what was wrong in it; None when that would mislead the rules."""
        known = self._known_entries(node, kind, path)
        values = {}
        for name, child in known.items():
            nested = _NESTED.get((kind, name))
            before = len(self.problems)
            if nested is not None and isinstance(child, Mapping):
                value = self._struct(nested, child, (*path, name))
            else:
                value = self._field(kind, name, known, path)
            if len(self.problems) == before:
                values[name] = value
        needed = {f.name for f in _fields(kind).values() if f.required} | (_TELLING & known.keys())
        return kind(**values) if needed <= values.keys() else None

    def _known_entries(self, node: Mapping, kind: type[msgspec.Struct], path: Path_) -> dict[str, Node]:
        """The entries whose keys the struct has; what is unknown or missing is reported."""
        fields = _fields(kind)
        known: dict[str, Node] = {}
        meant: set[str] = set()
        for key, child in node.entries.items():
            self._lines[(*path, key)] = node.key_lines[key]
            if key in fields:
                known[key] = child
                continue
            near = difflib.get_close_matches(key[:64], fields, n=1, cutoff=0.6)
            meant.update(near)
            mend = f"did you mean {near[0]}?" if near else "known are " + ", ".join(sorted(fields))
            self._report(path, f"has the unknown key {show(key)}", mend, line=node.key_lines[key])
        for name, field in fields.items():
            if name not in known and name not in meant and (field.required or name == "schema"):
                example = f"schema: {SCHEMA}" if name == "schema" else name
                self._report(path, f"lacks {name}", f"add {example}", line=node.line)
        return known

    def _field(self, kind: type[msgspec.Struct], name: str, known: dict[str, Node], path: Path_) -> Any:
        wanted = _fields(kind)[name].type
        place = (*path, name)
        value = self._plain(known[name], place)
        try:
            return msgspec.convert(value, wanted)
        except msgspec.ValidationError as error:
            what, inner = self._explain(str(error), value)
            self._report((*place, *inner), what, _mend(wanted))
            return None

    def _plain(self, node: Node, path: Path_) -> Any:
        self._lines.setdefault(path, node.line)
        if isinstance(node, Scalar):
            return node.value
        if isinstance(node, Sequence):
            return [self._plain(item, (*path, index)) for index, item in enumerate(node.items)]
        self._lines.update({(*path, key): line for key, line in node.key_lines.items()})
        return {key: self._plain(child, (*path, key)) for key, child in node.entries.items()}

    @staticmethod
    def _explain(message: str, value: object) -> tuple[str, Path_]:
        """msgspec's sentence in ours, and the list index or key that it points to."""
        text, _, place = message.partition(" - at `$")
        inner: Path_ = ()
        index = place.removeprefix("[").partition("]")[0]
        if isinstance(value, list) and index.isdigit() and int(index) < len(value):
            inner, value = (int(index),), value[int(index)]
        elif isinstance(value, dict):
            inner, value = _first_wrong(value)
        if text.startswith("Expected"):
            wanted = text.removeprefix("Expected `").partition("`")[0].split(" | ")
            kinds = " or ".join(_KINDS.get(kind, kind) for kind in wanted if kind != "null")
            if len(wanted) > 2:
                kinds = "a single value"
            return f"is {_describe(value)} where {kinds} belongs", inner
        if text.startswith("Invalid enum value"):
            return f"is {show(value)}, which means nothing here", inner
        return f"is {_describe(value)}: {text[:120]}", inner

    def _report(self, path: Path_, what: str, mend: str, line: int | None = None) -> None:
        place = path
        while place and place not in self._lines:
            place = place[:-1]
        number = line if line is not None else self._lines.get(place, 1)
        where = f"{self._name}:{number}"
        label = self._spell(path)
        self.problems.append(Problem(f"{where} {label}" if label else where, what, mend))

    def _spell(self, path: Path_) -> str:
        text = ""
        for depth, part in enumerate(path):
            if isinstance(part, int):
                text += f"[{self._labels.get(path[: depth + 1], part)}]"
            else:
                word = part if part.isprintable() and len(part) <= 64 else show(part)
                text += f".{word}" if text else word
        return text


@cache
def _fields(kind: type[msgspec.Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    return {field.name: field for field in msgspec.structs.fields(kind)}


def _mend(wanted: Any) -> str:
    if isinstance(wanted, type) and issubclass(wanted, Enum):
        return "write " + " or ".join(str(word.value) for word in wanted)
    text = str(wanted)
    if "tuple" in text:
        return "write a list of texts: [one, two]"
    if "dict" in text:
        return "write a mapping: {key: value}"
    if "int" in text:
        return "write a whole number without quotes"
    return "write text; in quotes where it looks like a number"


def _first_wrong(value: dict[str, Any]) -> tuple[Path_, Any]:
    """The first entry of a flat mapping (tags, settings) that is no plain value."""
    for key, item in value.items():
        if item is None or isinstance(item, (list, dict)):
            return (key,), item
    for key, item in value.items():
        if not isinstance(item, str):
            return (key,), item
    return (), value


def _describe(value: object) -> str:
    if value is None:
        return "empty"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "a mapping"
    return show(value)
