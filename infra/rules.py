"""What a fleet must keep to beyond its shape: names, places, dependencies, ports, sizes. Pure."""

from __future__ import annotations

import difflib
import graphlib
import re
from collections.abc import Iterable, Iterator

from infra.document import show
from infra.topology import (
    NAME_PATTERN,
    AgentSpec,
    Fleet,
    HealthKind,
    HostRole,
    Port,
    ProxiedPort,
)

MAX_HOSTS = 64
MAX_AGENTS = 100_000
MAX_DESCRIPTION_CHARACTERS = 500
MAX_CYCLES = 10

_NAME = re.compile(NAME_PATTERN)
_HANDLER = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_NAME_MEND = "use a-z, 0-9 and -, beginning with a letter, at most 63 characters"

Place = tuple[str | int, ...]
Finding = tuple[Place, str, str]
"""Where (("agents", position, key)), what, mend."""


def check_fleet(
    fleet: Fleet,
    mentioned_hosts: frozenset[str],
    mentioned_agents: frozenset[str],
    *,
    complete: bool = True,
) -> Iterator[Finding]:
    """Everything wrong with a well-shaped fleet.

    `complete`: whether no entry had to be left out of it because it was malformed.

    `mentioned_*`: names that stand in the manifest although their entries are malformed; pointing to one
    of them is no second problem.
    """
    if not _NAME.fullmatch(fleet.name):
        yield ("name",), f"is {show(fleet.name)}, which is no name", _NAME_MEND
    yield from _hosts(fleet, complete=complete)
    yield from _names("agents", [agent.name for agent in fleet.agents])
    if not fleet.agents and complete:
        yield ("agents",), "is empty", "describe at least one agent"
    if len(fleet.agents) > MAX_AGENTS:
        yield ("agents",), f"has more than {MAX_AGENTS} entries", "split the fleet"
        return
    roles = {host.name: host.role for host in fleet.hosts}
    names = frozenset(agent.name for agent in fleet.agents) | mentioned_agents
    for index, agent in enumerate(fleet.agents):
        for keys, what, mend in (
            *_placement(agent, roles, mentioned_hosts),
            *_dependencies(agent, names),
            *_program(agent),
            *_health(agent),
            *_amounts(agent),
            *_words(agent),
        ):
            yield ("agents", index, *keys), what, mend
    yield from _cycles(fleet.agents)
    yield from _ports(fleet)


def _hosts(fleet: Fleet, *, complete: bool) -> Iterator[Finding]:
    yield from _names("hosts", [host.name for host in fleet.hosts])
    if complete and not any(host.role is HostRole.WORKER for host in fleet.hosts):
        yield ("hosts",), "has no worker", "give at least one host the role worker"
    if len(fleet.hosts) > MAX_HOSTS:
        yield ("hosts",), f"has more than {MAX_HOSTS} entries", "split the fleet"


def _names(key: str, names: list[str]) -> Iterator[Finding]:
    seen: set[str] = set()
    for index, name in enumerate(names):
        if not _NAME.fullmatch(name):
            yield (key, index, "name"), f"is {show(name)}, which is no name", _NAME_MEND
        if name in seen:
            yield (key, index, "name"), f"{show(name)} is taken already", "give each its own name"
        seen.add(name)


def _placement(agent: AgentSpec, roles: dict[str, HostRole], mentioned: frozenset[str]) -> Iterator[Finding]:
    workers = [name for name, role in roles.items() if role is HostRole.WORKER]
    for key, host in (("home", agent.home), ("standby", agent.standby)):
        if host is None or (host in mentioned and host not in roles):
            continue
        if host not in roles:
            yield (key,), f"there is no host {show(host)}", _suggest(host, workers)
        elif roles[host] is not HostRole.WORKER:
            yield (key,), f"{host} is a witness, which runs no agents", _suggest("", workers)
    if agent.standby is not None and agent.standby == agent.home:
        yield ("standby",), f"is the home {show(agent.home)} itself", "name another host, or leave it out"


def _suggest(name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    near = difflib.get_close_matches(name[:64], known, n=1, cutoff=0.6) if name else []
    if near:
        return f"did you mean {near[0]}?"
    if not known:
        return "describe it first"
    return "known are " + ", ".join(known[:5]) + (", …" if len(known) > 5 else "")


def _dependencies(agent: AgentSpec, names: frozenset[str]) -> Iterator[Finding]:
    seen: set[str] = set()
    for index, name in enumerate(agent.depends_on):
        place = ("depends_on", index)
        if name == agent.name:
            yield place, "an agent depends on itself", "remove it"
        elif name not in names:
            # Close matches over a whole fleet are dear: only when it is small enough to read.
            known = names if len(names) <= 2000 else ()
            yield place, f"there is no agent {show(name)}", _suggest(name, known)
        if name in seen:
            yield place, f"{show(name)} stands in the list already", "remove it"
        seen.add(name)


def _cycles(agents: tuple[AgentSpec, ...]) -> Iterator[Finding]:
    """Circular dependencies, each spelt out once; at most MAX_CYCLES."""
    index = {agent.name: position for position, agent in enumerate(agents)}
    edges = {
        agent.name: {name for name in agent.depends_on if name in index and name != agent.name}
        for agent in agents
    }
    for _ in range(MAX_CYCLES):
        try:
            graphlib.TopologicalSorter(edges).prepare()
        except graphlib.CycleError as error:
            # graphlib lists a cycle against the arrows, first node repeated at the end.
            cycle: list[str] = list(reversed(error.args[1]))
            first = cycle.index(min(cycle))
            cycle = [*cycle[first:-1], *cycle[:first], cycle[first]]
            path = " → ".join(cycle if len(cycle) <= 12 else [*cycle[:6], "…", *cycle[-5:]])
            yield (
                ("agents", index[cycle[0]], "depends_on"),
                f"is circular: {path}",
                "remove one of these dependencies",
            )
            edges[cycle[0]].discard(cycle[1])
        else:
            return


def _program(agent: AgentSpec) -> Iterator[Finding]:
    if agent.handler is not None and agent.command is not None:
        yield (
            ("command",),
            "stands beside a handler",
            "keep one: a handler is our class, a command any program",
        )
    if agent.handler is None and agent.command is None:
        yield (), "has neither handler nor command", "add handler: module:Class, or command with port"
    if agent.handler is not None and not _HANDLER.fullmatch(agent.handler):
        yield ("handler",), f"is {show(agent.handler)}", "write module.path:Class"
    if agent.command is None:
        if agent.port is not None:
            yield ("port",), "is given for a handler, which listens on a Unix socket", "leave port out"
        return
    if not agent.command or not agent.command[0]:
        yield ("command",), "names no program", 'write a list: ["program", "argument", …]'
    for index, word in enumerate(agent.command):
        if "\0" in word:
            yield ("command", index), "holds a NUL character", "remove it"
    if agent.port is None:
        yield (), "has a command without a port", "add port: the program is given it as PORT"


def _health(agent: AgentSpec) -> Iterator[Finding]:
    health = agent.health
    if agent.command is not None and agent.handler is None and health.kind is HealthKind.SDK:
        yield (
            ("health",),
            "a command cannot answer on the agents' own socket",
            "set health.kind to http or tcp",
        )
    if agent.handler is not None and agent.command is None and health.kind is not HealthKind.SDK:
        yield (
            ("health", "kind"),
            f"is {health.kind} for a handler, which is asked over its socket",
            "leave it out",
        )
    path = health.path
    if not path.startswith("/") or not path.isprintable() or not path.isascii() or " " in path:
        yield ("health", "path"), f"is {show(path)}", "write a path like /health"
    for key, value, least, most in (
        ("interval_ms", health.interval_ms, 10, 3_600_000),
        ("timeout_ms", health.timeout_ms, 1, 3_600_000),
        ("unhealthy_after", health.unhealthy_after, 1, 1000),
    ):
        if not least <= value <= most:
            yield ("health", key), f"is {value}", f"give a number from {least} to {most}"


def _amounts(agent: AgentSpec) -> Iterator[Finding]:
    if agent.port is not None and not 1 <= agent.port <= 65535:
        yield ("port",), f"is {agent.port}, which is no port", "give a number from 1024 to 65535"
    if agent.memory_mb is not None and not 0 < agent.memory_mb <= 1 << 24:
        yield ("memory_mb",), f"is {agent.memory_mb}", "give a number of megabytes above 0"
    if agent.model is not None and not 0 < agent.model.vram_mb <= 1 << 24:
        yield ("model", "vram_mb"), f"is {agent.model.vram_mb}", "give a number of megabytes above 0"


def _words(agent: AgentSpec) -> Iterator[Finding]:
    if not _NAME.fullmatch(agent.category):
        yield ("category",), f"is {show(agent.category)}, which is no name", _NAME_MEND
    for key, value in agent.tags.items():
        if not _NAME.fullmatch(key):
            yield ("tags",), f"has the key {show(key)}, which is no name", _NAME_MEND
        elif not value or len(value) > 128 or not value.isprintable():
            yield ("tags", key), f"is {show(value)}", "give 1 to 128 printable characters"
    for key in agent.settings:
        if not key or len(key) > 128 or not key.isprintable():
            yield ("settings",), f"has the key {show(key)}", "give 1 to 128 printable characters"
    if agent.model is not None:
        for key, word in (
            ("name", agent.model.name),
            ("base", agent.model.base),
            ("tokenizer", agent.model.tokenizer),
        ):
            if word is not None and (not word or len(word) > 128 or not word.isprintable()):
                yield ("model", key), f"is {show(word)}", "give 1 to 128 printable characters"
    text = agent.description
    if len(text) > MAX_DESCRIPTION_CHARACTERS or not (text == "" or text.isprintable()):
        yield (
            ("description",),
            "is too long or holds control characters",
            f"give one line of at most {MAX_DESCRIPTION_CHARACTERS} characters",
        )


def _ports(fleet: Fleet) -> Iterator[Finding]:
    taken = {int(port): port.name.lower().replace("_", " ") for port in Port}
    for index, host in enumerate(fleet.hosts[:MAX_HOSTS]):
        for service in ProxiedPort:
            taken.setdefault(service + index, f"proxied way to {show(host.name)}")
    owners: dict[tuple[str, int], str] = {}
    for index, agent in enumerate(fleet.agents):
        if agent.port is None or agent.command is None:
            continue
        place: Place = ("agents", index, "port")
        if agent.port in taken:
            yield place, f"{agent.port} belongs to the {taken[agent.port]} of every host", "use a free port"
            continue
        for name in dict.fromkeys((agent.home, agent.standby)):
            if name is None:
                continue
            owner = owners.setdefault((name, agent.port), agent.name)
            if owner != agent.name:
                yield place, f"{agent.port} is taken on {show(name)} by {show(owner)}", "use a free port"
                break
