"""A YAML document as a tree that knows its lines: bounded, without aliases, tags or surprises.

Reads the parser's events instead of composing recursively, because the C composer of PyYAML overflows the
stack on deep nesting. Plain scalars follow YAML 1.2's core schema (`yes` and `12:30` are text), so that a
manifest means the same to every reader.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from infra.topology import ManifestUnreadable, Problem, TopologyError

MAX_BYTES = 16 << 20
MAX_DEPTH = 16
MAX_NODES = 2_000_000
MAX_SCALAR_CHARACTERS = 64 << 10

_INTEGER = re.compile(r"[-+]?[0-9]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)\Z|\.(nan|NaN|NAN)\Z")
_WORDS: dict[str, bool | None] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True,
    "false": False, "False": False, "FALSE": False,
}  # fmt: skip


@dataclass(slots=True)
class Scalar:
    """A leaf: text, whole number, number, truth value or nothing."""

    value: str | int | float | bool | None
    line: int


@dataclass(slots=True)
class Sequence:
    """A list."""

    line: int
    items: list[Node] = field(default_factory=list)


@dataclass(slots=True)
class Mapping:
    """Keys in their order, each with the line it stands on."""

    line: int
    entries: dict[str, Node] = field(default_factory=dict)
    key_lines: dict[str, int] = field(default_factory=dict)


Node = Scalar | Sequence | Mapping


def show(value: object) -> str:
    """A value as it may stand in a message: quoted, one line, at most some 60 characters."""
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= 60 else text[:57] + "…" + text[0]


def read_document(path: Path, max_bytes: int = MAX_BYTES) -> Mapping:
    """The mapping that the file holds.

    Raises ManifestUnreadable when its bytes cannot be had, TopologyError when they are not one bounded
    YAML mapping with unique text keys.
    """
    return parse_document(_read(path, max_bytes), str(path))


def parse_document(data: bytes, name: str) -> Mapping:
    """As `read_document`, for bytes that are here already; `name` stands in the messages."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _wrong(name, line, "is not UTF-8 text", "save the file as UTF-8") from None
    try:
        root = _Composer(name).compose(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = "is not YAML: " + " ".join(str(error.problem or error.context or "unreadable").split())
        raise _wrong(name, mark.line + 1 if mark else 1, what, "mend the syntax") from None
    except yaml.YAMLError as error:
        what = f"is not YAML: {' '.join(str(error).split())[:120]}"
        raise _wrong(name, 1, what, "remove what is not printable text") from None
    except (ValueError, RecursionError, OverflowError) as error:
        raise _wrong(name, 1, f"cannot be parsed: {type(error).__name__}", "mend the syntax") from None
    if root is None or (isinstance(root, Scalar) and root.value is None):
        raise _wrong(name, 1, "is empty", "describe a fleet: schema, name, hosts, agents")
    if not isinstance(root, Mapping):
        kind = "a list" if isinstance(root, Sequence) else "a single value"
        raise _wrong(name, root.line, f"holds {kind}", "begin with a mapping: schema, name, hosts, agents")
    return root


def _read(path: Path, max_bytes: int) -> bytes:
    where = str(path)
    try:
        if path.is_dir():
            raise _unreadable(where, "is a folder", "name the manifest's file")
        if path.exists() and not path.is_file():
            raise _unreadable(where, "is not a regular file", "name the manifest's file")
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except FileNotFoundError:
        raise _unreadable(where, "there is no such file", "give the path of a manifest") from None
    except OSError as error:
        raise _unreadable(where, f"cannot be read: {error.strerror}", "check the file") from None
    except ValueError:
        raise _unreadable(show(where), "is not a path", "give the path of a manifest") from None
    if len(data) > max_bytes:
        raise _wrong(where, 1, f"is larger than {max_bytes >> 20} MiB", "split the fleet into several")
    return data


def _wrong(name: str, line: int, what: str, mend: str) -> TopologyError:
    return TopologyError((Problem(f"{name}:{line}", what, mend),))


def _unreadable(name: str, what: str, mend: str) -> ManifestUnreadable:
    return ManifestUnreadable((Problem(name, what, mend),))


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


class _Composer:
    """Builds the tree from parser events with a stack of its own."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._stack: list[Sequence | Mapping] = []
        self._keys: list[tuple[str, int] | None] = []
        self._duplicates: list[Problem] = []
        self._root: Node | None = None
        self._nodes = 0

    def compose(self, text: str) -> Node | None:
        documents = 0
        loader = yaml.CSafeLoader(text)
        try:
            while loader.check_event():
                event = loader.get_event()
                assert event is not None  # check_event said that there is one
                if isinstance(event, yaml.DocumentStartEvent):
                    documents += 1
                    if documents > 1:
                        raise self._stop(event, "a second document begins", "keep one fleet to a file")
                else:
                    self._take(event)
        finally:
            loader.dispose()
        if self._duplicates:
            raise TopologyError(tuple(self._duplicates))
        return self._root

    def _take(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.AliasEvent):
            raise self._stop(event, f"uses the alias *{str(event.anchor)[:40]}", "write the values out")
        if isinstance(event, yaml.NodeEvent):
            tag = getattr(event, "tag", None)
            if tag is not None and not (tag == "!" and isinstance(event, yaml.ScalarEvent)):
                raise self._stop(event, f"uses the tag {show(tag)}", "leave the tag out")
            if event.anchor is not None:
                raise self._stop(
                    event, f"defines the anchor &{str(event.anchor)[:40]}", "leave the anchor out"
                )
            self._nodes += 1
            if self._nodes > MAX_NODES:
                raise self._stop(event, f"has more than {MAX_NODES} values", "split the fleet")
        line = _line(event)
        if isinstance(event, yaml.ScalarEvent):
            self._scalar(event, line)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._open(event, Sequence(line))
        elif isinstance(event, yaml.MappingStartEvent):
            self._open(event, Mapping(line))
        elif isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
            self._stack.pop()
            self._keys.pop()

    def _open(self, event: yaml.Event, node: Sequence | Mapping) -> None:
        if len(self._stack) >= MAX_DEPTH:
            raise self._stop(event, f"is nested deeper than {MAX_DEPTH} levels", "flatten it")
        self._add(event, node)
        self._stack.append(node)
        self._keys.append(None)

    def _scalar(self, event: yaml.ScalarEvent, line: int) -> None:
        if len(event.value) > MAX_SCALAR_CHARACTERS:
            raise self._stop(
                event, f"holds a text of more than {MAX_SCALAR_CHARACTERS} characters", "shorten it"
            )
        if self._awaits_key():
            self._keys[-1] = (event.value, line)
            return
        self._add(event, Scalar(self._resolve(event), line))

    def _awaits_key(self) -> bool:
        return bool(self._stack) and isinstance(self._stack[-1], Mapping) and self._keys[-1] is None

    def _add(self, event: yaml.Event, node: Node) -> None:
        if not self._stack:
            self._root = node
            return
        parent = self._stack[-1]
        if isinstance(parent, Sequence):
            parent.items.append(node)
            return
        key = self._keys[-1]
        if key is None:
            raise self._stop(event, "has a key that is not text", "use plain words as keys")
        self._keys[-1] = None
        name, line = key
        if name in parent.entries:
            if len(self._duplicates) < 100:
                first = parent.key_lines[name]
                self._duplicates.append(
                    Problem(
                        f"{self._name}:{line}",
                        f"the key {show(name)} stands here for the second time (first on line {first})",
                        "keep one of them",
                    )
                )
            return
        parent.entries[name] = node
        parent.key_lines[name] = line

    def _resolve(self, event: yaml.ScalarEvent) -> str | int | float | bool | None:
        text: str = event.value
        if not event.implicit[0] or event.style in ("'", '"', "|", ">"):
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INTEGER.match(text):
            if len(text) > 20 or abs(int(text)) >= 1 << 63:
                raise self._stop(event, f"{show(text)} is too large a number", "use at most 63 bits")
            return int(text)
        if _FLOAT.match(text):
            number = float(text)
            if math.isinf(number):
                raise self._stop(event, f"{show(text)} is too large a number", "use a smaller one")
            return number
        if _NOT_FINITE.match(text):
            raise self._stop(event, f"{text} is no number that can be used", "use a finite number")
        return text

    def _stop(self, event: yaml.Event, what: str, mend: str) -> TopologyError:
        return _wrong(self._name, _line(event), what, mend)
