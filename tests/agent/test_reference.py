"""The reference agents: what they answer, and that no call runs through the whole fleet."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.topology import load_fleet
from services.agent.client import Client
from services.agent.errors import CallError, Code
from services.agent.reference import MAX_DEPTH
from services.agent.sdk import load_agent
from services.agent.server import AgentServer
from tests.agent.kit import FakeView, instance, run_folder, spec

NAMES = {
    "leaf": ("MemoryAgent", ()),
    "middle": ("ReasoningAgent", ("leaf",)),
    "top": ("ReferenceAgent", ("middle", "leaf")),
    "loner": ("MonitorAgent", ("leaf", "nobody")),
    "learner": ("LearningAgent", ()),
    "eyes": ("VisionAgent", ()),
    "tools": ("ToolAgent", ()),
    "tongue": ("TranslationAgent", ()),
    "voice": ("SpeechAgent", ()),
    "mind": ("ModelAgent", ()),
}


@dataclass
class Crowd:
    client: Client
    servers: dict[str, AgentServer]

    async def call(self, name: str, method: str, body: object = None) -> object:
        return await self.client.call(name, method, body)


@pytest.fixture
async def crowd() -> AsyncIterator[Crowd]:
    view = FakeView()
    async with AsyncExitStack() as stack:
        run = stack.enter_context(run_folder())
        servers = {}
        for name, (cls, depends_on) in NAMES.items():
            made = spec(name, depends_on=depends_on, settings={"work_us": 1, "fan_out": 2})
            agent = load_agent(f"services.agent.reference:{cls}")(made, incarnation=1)
            client = Client(run, "mainpc", open_view=view)
            agent.connect(client)
            stack.push_async_callback(client.close)
            server = AgentServer(agent, run / "agents" / f"{name}.sock")
            await server.start()
            stack.push_async_callback(server.stop)
            servers[name] = server
            view.put(instance(name))
        client = await stack.enter_async_context(Client(run, "mainpc", open_view=view))
        yield Crowd(client, servers)


@pytest.mark.parametrize(
    ("depth", "chain"),
    [(0, ["top"]), (1, ["top", "middle", "leaf"]), (2, ["top", "middle", "leaf", "leaf"])],
)
async def test_a_question_goes_as_deep_as_asked(crowd: Crowd, depth: int, chain: list[str]) -> None:
    answer = await crowd.call("top", "ask", {"text": "hello", "depth": depth})
    assert answer["chain"] == chain  # type: ignore[index]
    assert answer["missing"] == []  # type: ignore[index]


async def test_depth_is_bounded_whatever_is_asked(crowd: Crowd) -> None:
    answer = await crowd.call("top", "ask", {"text": "hello", "depth": 10**9})
    assert len(answer["chain"]) <= 2**MAX_DEPTH  # type: ignore[index]


async def test_a_missing_helper_is_named(crowd: Crowd) -> None:
    answer = await crowd.call("loner", "ask", {"text": "hello", "depth": 1})
    assert (answer["chain"], answer["missing"]) == (["loner", "leaf"], ["nobody"])  # type: ignore[index]
    assert await crowd.call("loner", "watch") == {"up": ["leaf"], "down": ["nobody"]}


async def test_memory(crowd: Crowd) -> None:
    await crowd.call("leaf", "remember", {"key": "train", "value": "platform 4"})
    assert await crowd.call("leaf", "recall", {"key": "train"}) == {"key": "train", "value": "platform 4"}
    assert await crowd.call("leaf", "recall", {"key": "bus"}) == {"key": "bus", "value": None}
    assert await crowd.call("leaf", "search", {"prefix": "tr"}) == {"keys": ["train"]}
    stats = await crowd.call("leaf", "stats")
    assert stats["handled"]["recall"] == 2  # type: ignore[index]
    with pytest.raises(CallError) as caught:
        await crowd.call("leaf", "remember", {"key": "", "value": "x"})
    assert caught.value.code == Code.BAD_REQUEST


async def test_memory_is_bounded(crowd: Crowd) -> None:
    for number in range(1100):
        await crowd.call("leaf", "remember", {"key": f"k{number}", "value": "v"})
    assert len(crowd.servers["leaf"].agent.state) == 1024
    assert (await crowd.call("leaf", "recall", {"key": "k0"}))["value"] is None  # type: ignore[index]
    assert (await crowd.call("leaf", "recall", {"key": "k1099"}))["value"] == "v"  # type: ignore[index]


SKILLS = [
    ("middle", "plan", {"text": "wake up; wash then eat"}, {"steps": ["wake up", "wash", "eat"]}),
    ("tools", "use", {"tool": "count", "text": "a b c"}, "3"),
    ("tools", "use", {"tool": "upper", "text": "abc"}, "ABC"),
    ("tongue", "translate", {"text": "train", "language": "de"}, "[de] train"),
    ("eyes", "look", {"width": 2, "height": 1, "pixels": b"\x00\xff"}, {"brightness": 127.5, "edges": 0.5}),
]


@pytest.mark.parametrize(("name", "method", "body", "expected"), SKILLS)
async def test_skills(crowd: Crowd, name: str, method: str, body: object, expected: object) -> None:
    for _ in range(2):  # idempotent: the second answer is the first
        answer = await crowd.call(name, method, body)
        assert (answer["text"] if isinstance(expected, str) else answer) == expected  # type: ignore[index]


async def test_learning_matches_the_textbook(crowd: Crowd) -> None:
    values = [1.0, 4.0, 7.0, 7.0]
    answer: object = None
    for value in values:
        answer = await crowd.call("learner", "learn", {"label": "x", "value": value})
    mean = sum(values) / 4
    assert answer == {
        "label": "x",
        "count": 4,
        "mean": pytest.approx(mean),
        "variance": pytest.approx(sum((value - mean) ** 2 for value in values) / 4),
    }


async def test_a_model_says_the_same_twice(crowd: Crowd) -> None:
    first = await crowd.call("mind", "generate", {"text": "to be or not"})
    assert first == await crowd.call("mind", "generate", {"text": "to be or not"})
    assert len(first["text"].split()) == 16  # type: ignore[index]


BAD = [
    ("tools", "use", {"tool": "hammer", "text": "x"}),
    ("eyes", "look", {"width": 3, "height": 3, "pixels": b"12"}),
    ("eyes", "look", {"width": -1, "height": -2, "pixels": b"12"}),
    ("top", "ask", {"text": "x" * 20_000}),
]


@pytest.mark.parametrize(("name", "method", "body"), BAD)
async def test_bad_requests(crowd: Crowd, name: str, method: str, body: object) -> None:
    with pytest.raises(CallError) as caught:
        await crowd.call(name, method, body)
    assert caught.value.code == Code.BAD_REQUEST


def test_every_handler_of_the_reference_fleet_can_be_loaded() -> None:
    fleet = load_fleet(Path(__file__).parents[2] / "fleet.yaml")
    handlers = {agent.handler for agent in fleet.agents if agent.handler}
    assert len(handlers) >= 5
    for handler in handlers:
        assert {"ask", "remember", "recall", "stats"} <= set(vars(load_agent(handler))["_methods"])
