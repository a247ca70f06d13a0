"""Fleets of any size for tests, benches and the scale simulation: believable proportions, fixed by a seed."""

from __future__ import annotations

import random
from typing import TypeVar

import msgspec

from infra.topology import (
    AgentSpec,
    Criticality,
    Fleet,
    HealthCheck,
    HealthKind,
    HostRole,
    HostSpec,
    ModelSpec,
)

T = TypeVar("T")

_HANDLERS = "services.agent.reference"
_CATEGORIES: tuple[tuple[str, str], ...] = (
    ("core", "ReferenceAgent"),
    ("memory", "MemoryAgent"),
    ("reasoning", "ReasoningAgent"),
    ("speech", "SpeechAgent"),
    ("vision", "VisionAgent"),
    ("translation", "TranslationAgent"),
    ("tools", "ToolAgent"),
    ("learning", "LearningAgent"),
    ("monitoring", "MonitorAgent"),
)
_BASES = ("assistant-8b", "assistant-3b", "speech-encoder", "text-embedder")
_AGENTS_PER_COMMAND = 77
_FIRST_COMMAND_PORT = 10_000
_COMMAND_PORTS = 50_000


def synthetic_fleet(agents: int, seed: int = 0, *, commands: bool = True) -> Fleet:
    """A valid fleet of that many agents: 54 of 77 on mainpc, 15 of 77 with a model, one of 77 a command.

    The first agents of a larger fleet are not those of a smaller one; the same arguments give the same
    fleet. `commands=False` leaves command agents out. Raises ValueError below one agent.
    """
    if agents < 1:
        raise ValueError("a fleet has at least one agent")
    rng = random.Random(seed)
    homes = _spread(agents, 54 / 77, rng, ("mainpc", "pc2"))
    models = _spread(agents, 15 / 77, rng, (True, False))
    specs: list[AgentSpec] = []
    width = len(str(agents - 1))
    for index in range(agents):
        category, handler = _CATEGORIES[index % len(_CATEGORIES)]
        home = homes[index]
        common = AgentSpec(
            name=f"{category}-{index:0{width}d}",
            home=home,
            standby="pc2" if home == "mainpc" else "mainpc",
            criticality=_criticality(rng),
            category=category,
            depends_on=_dependencies(specs, rng),
            tags={"team": category, "shard": f"s{index % 7}"},
            memory_mb=32,
            description=f"Synthetic agent {index} of {agents}.",
        )
        specs.append(_with_program(common, index, handler, models[index], commands=commands, rng=rng))
    return Fleet(
        name=f"synthetic-{agents}",
        hosts=(
            HostSpec(name="mainpc"),
            HostSpec(name="pc2"),
            HostSpec(name="witness", role=HostRole.WITNESS),
        ),
        agents=tuple(specs),
    )


def manifest_of(fleet: Fleet) -> bytes:
    """The manifest that `load_fleet` reads as `fleet` (YAML)."""
    return msgspec.yaml.encode(fleet)


def _spread(count: int, share: float, rng: random.Random, values: tuple[T, T]) -> list[T]:
    first = round(count * share)
    chosen = [values[0]] * first + [values[1]] * (count - first)
    rng.shuffle(chosen)
    return chosen


def _criticality(rng: random.Random) -> Criticality:
    return rng.choices(tuple(Criticality), weights=(25, 31, 21))[0]


def _dependencies(earlier: list[AgentSpec], rng: random.Random) -> tuple[str, ...]:
    """Up to three agents described before: circles are impossible by construction."""
    wanted = min(len(earlier), rng.choices((0, 1, 2, 3), weights=(2, 4, 3, 1))[0])
    return tuple(spec.name for spec in rng.sample(earlier, wanted))


def _with_program(
    common: AgentSpec, index: int, handler: str, model: bool, *, commands: bool, rng: random.Random
) -> AgentSpec:
    replace = msgspec.structs.replace
    ordinal, place = divmod(index, _AGENTS_PER_COMMAND)
    if commands and place == _AGENTS_PER_COMMAND - 1 and ordinal < _COMMAND_PORTS:
        return replace(
            common,
            command=("python", "-m", "services.agent.examples.http_echo"),
            port=_FIRST_COMMAND_PORT + ordinal,
            health=HealthCheck(kind=HealthKind.HTTP, interval_ms=500, timeout_ms=400),
        )
    if model:
        base = rng.choice(_BASES)
        spec = ModelSpec(
            name=f"{base}-v{index % 5}", vram_mb=rng.randrange(64, 4096), base=base, tokenizer="bpe-32k"
        )
        return replace(common, handler=f"{_HANDLERS}:ModelAgent", model=spec)
    return replace(common, handler=f"{_HANDLERS}:{handler}")
