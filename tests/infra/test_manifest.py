# ruff: noqa: E501 - tables with a row a line
"""The manifest loader: every mistake is named with its line, and no bytes bring anything but a problem."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck as Hypo
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.document import MAX_DEPTH, parse_document
from infra.manifest import MAX_PROBLEMS, build_fleet
from infra.synthetic import manifest_of, synthetic_fleet
from infra.topology import (
    Criticality,
    Fleet,
    HealthKind,
    HostRole,
    ManifestUnreadable,
    Problem,
    TopologyError,
    load_fleet,
)

ROOT = Path(__file__).resolve().parents[2]

HEAD = """\
schema: threenines.fleet/1
name: tiny
hosts:
  - {name: mainpc}
  - {name: pc2}
  - {name: witness, role: witness}
agents:
"""
GOOD = "  - {name: a, home: mainpc, category: core, handler: 'm:C'}\n"


def parse(text: str | bytes) -> Fleet:
    data = text.encode() if isinstance(text, str) else text
    return build_fleet(parse_document(data, "f.yaml"), "f.yaml")


def problems(text: str | bytes) -> tuple[Problem, ...]:
    with pytest.raises(TopologyError) as caught:
        parse(text)
    assert caught.value.problems
    return caught.value.problems


def test_smallest_manifest_takes_the_defaults() -> None:
    fleet = parse(HEAD + GOOD)
    (agent,) = fleet.agents
    assert agent.criticality is Criticality.STANDARD
    assert agent.health.kind is HealthKind.SDK
    assert agent.standby is None
    assert fleet.host("witness").role is HostRole.WITNESS
    assert [host.name for host in fleet.workers] == ["mainpc", "pc2"]


def test_reference_fleet() -> None:
    fleet = load_fleet(ROOT / "fleet.yaml")
    agents = fleet.agents
    assert len(agents) == 77
    assert sum(agent.home == "mainpc" for agent in agents) == 54
    assert sum(agent.home == "pc2" for agent in agents) == 23
    assert sum(agent.model is not None for agent in agents) == 15
    assert {agent.criticality for agent in agents} == set(Criticality)
    assert all(agent.standby not in (None, agent.home) for agent in agents)
    assert any(agent.command for agent in agents)
    assert {agent.category for agent in agents} >= {
        "speech", "vision", "memory", "reasoning", "tools", "translation", "learning", "monitoring",
    }  # fmt: skip
    assert all(agent.description for agent in agents)


# what is written under `agents:` (or the whole text), the place, a part of what is said, a part of the mend
WRONG = [
    ("unknown key", GOOD + "    # x\n  - {name: b, hme: pc2, category: c, handler: 'm:C'}\n",
     "f.yaml:10 agents[b]", "unknown key 'hme'", "did you mean home?"),
    ("missing key", "  - {home: mainpc, category: c, handler: 'm:C'}\n",
     "f.yaml:8 agents[0]", "lacks name", "add name"),
    ("duplicate agent", GOOD + GOOD, "f.yaml:9 agents[a].name", "taken already", "own name"),
    ("bad name", GOOD.replace("name: a", "name: A_b"), "f.yaml:8 agents[A_b].name", "no name", "a-z"),
    ("long name", GOOD.replace("name: a", f"name: {'a' * 64}"), "f.yaml:8 agents", "no name", "63"),
    ("nowhere", GOOD.replace("mainpc", "mainpx"), "f.yaml:8 agents[a].home", "no host 'mainpx'", "mainpc?"),
    ("witness", GOOD.replace("mainpc", "witness"), "f.yaml:8 agents[a].home", "witness", "mainpc, pc2"),
    ("standby witness", GOOD.replace("home:", "standby: witness, home:"),
     "f.yaml:8 agents[a].standby", "witness", "known are"),
    ("standby home", GOOD.replace("home:", "standby: mainpc, home:"),
     "f.yaml:8 agents[a].standby", "is the home", "another host"),
    ("dangling", GOOD.replace("home:", "depends_on: [b], home:"),
     "f.yaml:8 agents[a].depends_on[0]", "no agent 'b'", "known are a"),
    ("self", GOOD.replace("home:", "depends_on: [a], home:"),
     "f.yaml:8 agents[a].depends_on[0]", "itself", "remove"),
    ("twice", GOOD + GOOD.replace("name: a", "name: b, depends_on: [a, a]"),
     "f.yaml:9 agents[b].depends_on[1]", "already", "remove"),
    ("cycle", "".join(GOOD.replace("name: a", f"name: {a}, depends_on: [{b}]") for a, b in ("ab", "bc", "ca")),
     "f.yaml:8 agents[a].depends_on", "a → b → c → a", "remove one"),
    ("both programs", GOOD.replace("handler:", "command: [x], port: 9999, handler:"),
     "f.yaml:8 agents[a].command", "beside a handler", "keep one"),
    ("no program", GOOD.replace(", handler: 'm:C'", ""), "f.yaml:8 agents[a]", "neither", "add handler"),
    ("bad handler", GOOD.replace("m:C", "m.C"), "f.yaml:8 agents[a].handler", "'m.C'", "module.path:Class"),
    ("command without port", GOOD.replace("handler: 'm:C'", "command: [x], health: {kind: tcp}"),
     "f.yaml:8 agents[a]", "without a port", "add port"),
    ("empty command", GOOD.replace("handler: 'm:C'", "command: [], port: 9999, health: {kind: tcp}"),
     "f.yaml:8 agents[a].command", "no program", "list"),
    ("command by socket", GOOD.replace("handler: 'm:C'", "command: [x], port: 9999"),
     "f.yaml:8 agents[a].health", "own socket", "http or tcp"),
    ("handler with port", GOOD.replace("handler:", "port: 9999, handler:"),
     "f.yaml:8 agents[a].port", "Unix socket", "leave port out"),
    ("handler by http", GOOD.replace("handler:", "health: {kind: http}, handler:"),
     "f.yaml:8 agents[a].health.kind", "http for a handler", "leave it out"),
    ("base port", GOOD.replace("handler: 'm:C'", "command: [x], port: 6379, health: {kind: tcp}"),
     "f.yaml:8 agents[a].port", "redis", "free port"),
    ("proxied port", GOOD.replace("handler: 'm:C'", "command: [x], port: 7722, health: {kind: tcp}"),
     "f.yaml:8 agents[a].port", "proxied way to 'witness'", "free port"),
    ("no port", GOOD.replace("handler: 'm:C'", "command: [x], port: 70000, health: {kind: tcp}"),
     "f.yaml:8 agents[a].port", "70000", "1024 to 65535"),
    ("port clash on the standby", GOOD.replace("handler: 'm:C'", "command: [x], port: 9999, health: {kind: tcp}")
     + GOOD.replace("name: a, home: mainpc", "name: b, home: pc2, standby: mainpc").replace(
         "handler: 'm:C'", "command: [x], port: 9999, health: {kind: tcp}"),
     "f.yaml:9 agents[b].port", "taken on 'mainpc' by 'a'", "free port"),
    ("negative memory", GOOD.replace("home:", "memory_mb: -1, home:"),
     "f.yaml:8 agents[a].memory_mb", "-1", "above 0"),
    ("negative model", GOOD.replace("home:", "model: {name: q, vram_mb: -5}, home:"),
     "f.yaml:8 agents[a].model.vram_mb", "-5", "above 0"),
    ("zero interval", GOOD.replace("home:", "health: {interval_ms: 0}, home:"),
     "f.yaml:8 agents[a].health.interval_ms", "0", "from 10"),
    ("text for a number", GOOD.replace("home:", "memory_mb: '64', home:"),
     "f.yaml:8 agents[a].memory_mb", "'64' where a whole number", "without quotes"),
    ("number for text", GOOD.replace("category: core", "category: 5"),
     "f.yaml:8 agents[a].category", "5 where text", "in quotes"),
    ("unknown word", GOOD.replace("home:", "criticality: high, home:"),
     "f.yaml:8 agents[a].criticality", "'high'", "critical or standard or utility"),
    ("list in settings", GOOD.replace("home:", "settings: {x: [1]}, home:"),
     "f.yaml:8 agents[a].settings.x", "a list", "{key: value}"),
    ("number as a tag", GOOD.replace("home:", "tags: {x: 1}, home:"),
     "f.yaml:8 agents[a].tags.x", "1 where text", "{key: value}"),
    ("control character", GOOD.replace("home:", 'description: "a\\eb", home:'),
     "f.yaml:8 agents[a].description", "control", "one line"),
    ("no agents", "  []\n", "f.yaml:7 agents", "empty", "at least one"),
    ("agent that is no mapping", GOOD + "  - 5\n", "f.yaml:9 agents[1]", "not a mapping", "- name"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "where", "what", "mend"), [row[1:] for row in WRONG], ids=[r[0] for r in WRONG]
)
def test_wrong_agent(text: str, where: str, what: str, mend: str) -> None:
    found = problems(HEAD + text)
    assert len(found) == 1, [str(problem) for problem in found]
    (problem,) = found
    assert problem.where.startswith(where)
    assert what in problem.what
    assert mend in problem.mend


WRONG_WHOLE = [
    ("empty", "", "f.yaml:1", "is empty"),
    ("comment only", "# nothing\n", "f.yaml:1", "is empty"),
    ("list", "[1, 2]", "f.yaml:1", "holds a list"),
    ("text", "hello", "f.yaml:1", "single value"),
    ("two documents", "a: 1\n---\nb: 2\n", "f.yaml:2", "second document"),
    ("twice the same key", HEAD + GOOD + "name: again\n", "f.yaml:9", "second time (first on line 2)"),
    ("broken", "a: [1,\n", "f.yaml:", "not YAML"),
    ("alias", "a: &x [1]\nb: *x\n", "f.yaml:1", "anchor &x"),
    ("tag", "a: !!python/object/apply:os.system [ls]\n", "f.yaml:1", "tag"),
    ("key that is no text", "? [a]\n: b\n", "f.yaml:1", "not text"),
    ("not UTF-8", b"schema: x\nname: \xff\xfe\n", "f.yaml:2", "not UTF-8"),
    ("huge number", "a: 99999999999999999999999\n", "f.yaml:1", "too large"),
    ("infinite", "a: .inf\n", "f.yaml:1", "no number"),
    ("other schema", HEAD.replace("fleet/1", "fleet/9") + GOOD, "f.yaml:1 schema", "threenines.fleet/9"),
    ("no schema", HEAD.partition("\n")[2] + GOOD, "f.yaml:1", "lacks schema"),
    ("no hosts", "schema: threenines.fleet/1\nname: x\nhosts: []\nagents: []\n", "f.yaml:3 hosts", "no worker"),
    ("hosts are no list", HEAD.replace("hosts:\n  - {name: mainpc}\n", "hosts: x\nb:\n") + GOOD, "f.yaml:3 hosts",
     "not a list"),
    ("host twice", HEAD.replace("name: pc2", "name: mainpc") + GOOD, "f.yaml:5 hosts[mainpc].name", "taken"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "where", "what"), [r[1:] for r in WRONG_WHOLE], ids=[r[0] for r in WRONG_WHOLE]
)
def test_wrong_document(text: str | bytes, where: str, what: str) -> None:
    first = problems(text)[0]
    assert first.where.startswith(where)
    assert what in first.what


def test_all_problems_come_at_once_in_the_order_of_lines() -> None:
    text = (
        HEAD
        + GOOD.replace("mainpc", "nope").replace("m:C", "??")
        + GOOD.replace("home:", "memory_mb: -1, home:")
    )
    found = problems(text)
    assert [problem.where for problem in found] == [
        "f.yaml:8 agents[a].home",
        "f.yaml:8 agents[a].handler",
        "f.yaml:9 agents[a].name",
        "f.yaml:9 agents[a].memory_mb",
    ]


def test_one_slip_is_told_once() -> None:
    """A malformed agent or host is no second problem for those that point to it."""
    text = HEAD.replace("{name: pc2}", "{name: pc2, role: 5}") + GOOD.replace("memory", "x")
    text += "  - {name: b, home: pc2, category: c, handler: 5}\n"
    text += "  - {name: c, home: pc2, category: c, handler: 'm:C', depends_on: [b]}\n"
    assert [problem.where for problem in problems(text)] == [
        "f.yaml:5 hosts[pc2].role",
        "f.yaml:9 agents[b].handler",
    ]


def test_every_cycle_is_told() -> None:
    pairs = ("ab", "ba", "cd", "dc")
    text = HEAD + "".join(GOOD.replace("name: a", f"name: {a}, depends_on: [{b}]") for a, b in pairs)
    told = {problem.what for problem in problems(text)}
    assert told == {"is circular: a → b → a", "is circular: c → d → c"}


def test_problems_are_bounded() -> None:
    found = problems(HEAD + GOOD.replace("mainpc", "nope") * (MAX_PROBLEMS * 2))
    assert len(found) == MAX_PROBLEMS + 1
    assert "more problems" in found[-1].what


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_deep_nesting_is_refused(opening: str) -> None:
    (problem,) = problems(opening * 100_000)
    assert f"deeper than {MAX_DEPTH}" in problem.what


def test_words_of_yaml_1_1_are_text() -> None:
    text = HEAD + GOOD.replace("home:", "tags: {a: yes, b: 12:30, c: on}, home:")
    assert parse(text).agents[0].tags == {"a": "yes", "b": "12:30", "c": "on"}


def test_unreadable_files(tmp_path: Path) -> None:
    closed = tmp_path / "fifo"
    os.mkfifo(closed)
    assert stat.S_ISFIFO(closed.stat().st_mode)
    for path, what in (
        (tmp_path, "is a folder"),
        (tmp_path / "none.yaml", "no such file"),
        (closed, "not a regular file"),
        (Path("a\0b"), "not a path"),
        (tmp_path / ("x" * 300), "cannot be read"),
    ):
        with pytest.raises(ManifestUnreadable) as caught:
            load_fleet(path)
        assert what in caught.value.problems[0].what


def test_oversize_file_is_refused_without_being_parsed(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    with path.open("wb") as file:
        file.truncate((16 << 20) + 1)  # sparse
    with pytest.raises(TopologyError, match="larger than 16 MiB"):
        load_fleet(path)


@pytest.mark.parametrize("size", [1, 5, 77, 1000])
def test_synthetic_fleets_validate(size: int, tmp_path: Path) -> None:
    fleet = synthetic_fleet(size, seed=3)
    path = tmp_path / "f.yaml"
    path.write_bytes(manifest_of(fleet))
    assert load_fleet(path) == fleet
    assert len(fleet.agents) == size
    assert synthetic_fleet(size, seed=3) == fleet


def test_synthetic_fleet_has_the_reference_proportions() -> None:
    fleet = synthetic_fleet(77)
    assert sum(agent.home == "mainpc" for agent in fleet.agents) == 54
    assert sum(agent.home == "pc2" for agent in fleet.agents) == 23
    assert sum(agent.model is not None or agent.command is not None for agent in fleet.agents) in (15, 16)


@pytest.mark.slow
def test_ten_thousand_agents_validate() -> None:
    fleet = synthetic_fleet(10_000)
    assert parse(manifest_of(fleet)) == fleet


# Fuzzing: whatever the bytes, a fleet or a TopologyError.

FRAGMENTS = st.sampled_from(
    [
        "schema: threenines.fleet/1\n", "name: x\n", "hosts:\n", "agents:\n", "  - {name: mainpc}\n",
        "  - name: a\n", "    home: mainpc\n", "    handler: m:C\n", "    category: core\n", "    depends_on: [a]\n",
        "    health: {kind: http}\n", "    port: 80\n", "    settings: {a: 1.5}\n", "{", "}", "[", "]", "&a ", "*a",
        "- ", "? ", ": ", "!!int ", "'", '"', "|\n", ">\n", "%YAML 1.1\n", "---\n", "...\n", "<<: ", "\t", "\0",
        "\ufeff", "é", "\U0001f600", "~", "null", ".nan", "-9223372036854775808", "1e999", "\r", "\u2028", "#",
    ]
)  # fmt: skip


def survives(data: bytes) -> None:
    try:
        fleet = parse(data)
    except TopologyError as error:
        found = error.problems
    else:
        assert parse(manifest_of(fleet)) == fleet
        return
    assert 0 < len(found) <= MAX_PROBLEMS + 1
    assert all(len(str(problem)) < 2000 for problem in found)
    assert all(str(problem).isprintable() for problem in found)


@given(st.binary(max_size=400))
def test_any_bytes(data: bytes) -> None:
    survives(data)


@given(st.lists(FRAGMENTS, max_size=30))
@settings(suppress_health_check=[Hypo.too_slow])
def test_any_pieces(pieces: list[str]) -> None:
    survives("".join(pieces).encode("utf-8", "surrogatepass"))


REFERENCE = (ROOT / "fleet.yaml").read_bytes()[:6000]


@given(st.integers(0, len(REFERENCE) - 1), st.integers(0, 255), st.integers(0, 40), st.binary(max_size=8))
@settings(deadline=None)
def test_damaged_manifests(at: int, byte: int, cut: int, inserted: bytes) -> None:
    survives(REFERENCE[:at] + bytes([byte]) + inserted + REFERENCE[at + cut :])


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda child: st.lists(child, max_size=4) | st.dictionaries(st.text(max_size=8), child, max_size=4),
    max_leaves=12,
)
AGENTISH = st.dictionaries(
    st.sampled_from(
        ["name", "home", "standby", "criticality", "category", "depends_on", "handler", "command", "port", "health",
         "tags", "model", "memory_mb", "settings", "description", "zz"]
    ),
    JSONISH | st.sampled_from(["a", "b", "mainpc", "m:C"]) | st.lists(st.sampled_from(["a", "b"]), max_size=3),
)  # fmt: skip


@given(st.lists(AGENTISH, max_size=4))
@settings(suppress_health_check=[Hypo.too_slow], deadline=None)
def test_well_formed_yaml_of_any_shape(agents: list[dict[str, object]]) -> None:
    document = {
        "schema": "threenines.fleet/1",
        "name": "x",
        "hosts": [{"name": "mainpc"}],
        "agents": agents,
    }
    survives(msgspec.json.encode(document))
