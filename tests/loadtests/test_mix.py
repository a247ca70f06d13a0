"""Who calls whom with what."""

from __future__ import annotations

import random
from collections import Counter

import msgspec
import pytest

from loadtests.mix import Known, Mix
from loadtests.workload import Workload, WorkloadError, load_workload, shipped

FLEET = (
    Known("a", "core", ("ask",), "mainpc"),
    Known("b", "core", ("ask", "recall"), "pc2"),
    Known("b", "core", ("ask", "recall"), "mainpc", role="standby"),
    Known("c", "voice", ("recall",), "pc2"),
    Known("program", "legacy", (), "mainpc"),
)


def workload(*tasks: str, **more: object) -> Workload:
    head = {"name": "w", "per_s": 1, "users": 1, "timeout_s": 1, "tasks": [], **more}
    made = msgspec.yaml.decode("\n".join(f"- {task}" for task in tasks).encode())
    return msgspec.convert({**head, "tasks": made}, Workload)


def drawn(made: Workload, host: str = "mainpc", n: int = 300, seed: int = 1):
    mix = Mix(made, FLEET, host, random.Random(seed))
    return [mix.draw() for _ in range(n)]


ASK = "bodies: {ask: {text: x}}}"


@pytest.mark.parametrize(
    ("task", "agents"),
    [
        ("{operation: look-up, share: 1}", {"a", "b", "c", "program"}),
        ("{operation: look-up, share: 1, categories: [core]}", {"a", "b"}),
        ("{operation: look-up, share: 1, agents: [c, a]}", {"a", "c"}),
        ("{operation: look-up, share: 1, side: other}", {"b", "c"}),
        ("{operation: look-up, share: 1, side: same}", {"a", "program"}),
        ("{operation: call, share: 1, " + ASK, {"a", "b"}),
        ("{operation: call, share: 1, side: other, " + ASK, {"b"}),
        ("{operation: call, share: 1, bodies: {recall: {key: k}, ask: {text: x}}}", {"a", "b", "c"}),
    ],
)
def test_a_task_goes_to_the_agents_that_it_names(task, agents):
    assert {step.agent for step in drawn(workload(task))} == agents


def test_the_best_method_that_an_agent_has_is_taken():
    steps = drawn(workload("{operation: call, share: 1, bodies: {recall: {key: k}, ask: {text: x}}}"))
    assert {(step.agent, step.method) for step in steps} == {("a", "ask"), ("b", "recall"), ("c", "recall")}


def test_tasks_come_in_proportion_and_by_their_way():
    made = workload(
        "{operation: look-up, share: 3}",
        "{operation: call, share: 1, via: http, " + ASK,
        "{operation: look-up, share: 5, via: http, hosts: [pc2]}",
    )
    here, there = (Counter(step.f for step in drawn(made, host, 2000)) for host in ("mainpc", "pc2"))
    assert set(here) == {"load-lookup", "load-http-call"}
    assert here["load-lookup"] == pytest.approx(1500, abs=120)
    assert set(there) == {"load-lookup", "load-http-call", "load-http-lookup"}


def test_bodies_are_filled_and_sized():
    made = workload(
        "{operation: call, share: 1, agents: [a], size_bytes: {low: 10, high: 900, median: 60},"
        " bodies: {ask: {text: '{agent}/{n}/{pad}', depth: 2}}}"
    )
    steps = drawn(made)
    for turn, step in enumerate(steps, 1):
        agent, number, pad = step.body["text"].split("/", 2)
        assert (agent, int(number), len(pad)) == ("a", turn, step.size_bytes)
        assert step.body["depth"] == 2
    sizes = sorted(step.size_bytes for step in steps)
    assert sizes[0] >= 10
    assert sizes[-1] <= 900
    assert 40 < sizes[len(sizes) // 2] < 90


def test_popular_agents_are_asked_more():
    even = Counter(s.agent for s in drawn(workload("{operation: look-up, share: 1}"), n=2000))
    zipf = Counter(
        s.agent for s in drawn(workload("{operation: look-up, share: 1, popularity: zipf}"), n=2000)
    )
    assert max(even.values()) / min(even.values()) < 1.5
    assert [name for name, _ in zipf.most_common()] == ["a", "b", "c", "program"]
    assert zipf["a"] / zipf["b"] == pytest.approx(2.0, rel=0.3)


def test_a_seed_decides_all_and_what_follows_moves_nothing():
    made = workload("{operation: call, share: 1, repeat: 2, think_s: {low: 0.1, high: 0.4}, " + ASK)
    plain = drawn(made)
    mix = Mix(made, FLEET, "mainpc", random.Random(1))
    followed = []
    for _ in range(300):
        followed.append(mix.draw())
        after = mix.following(followed[-1])
        assert mix.repeats(followed[-1])
        assert len(after) == 2
        assert all(0.1 <= think_s <= 0.4 for think_s, _ in after)
        assert {step.turn for _, step in after} == {followed[-1].turn}
    assert followed == plain != drawn(made, seed=2)


@pytest.mark.parametrize(
    ("task", "what"),
    [
        ("{operation: look-up, share: 1, agents: [nobody]}", "task 1: the fleet has no agent nobody"),
        ("{operation: look-up, share: 1, categories: [none]}", "task 1: no agent fits"),
        ("{operation: call, share: 1, bodies: {sing: {}}}", "task 1: no agent fits"),
        ("{operation: look-up, share: 1, hosts: [pc2]}", "no task is for mainpc"),
    ],
)
def test_a_task_with_nobody_to_go_to_is_told(task, what):
    with pytest.raises(WorkloadError, match=what):
        drawn(workload(task))


def test_every_workload_that_is_shipped_can_be_drawn_from():
    methods = ("ask", "remember", "recall")
    fleet = [Known(f"agent-{n}", "core", methods, ("mainpc", "pc2")[n % 2]) for n in range(6)]
    names = shipped()
    assert {"reference", "ramp", "spike", "diurnal", "soak", "closed", "http-api"} <= set(names)
    for name in names:
        made = load_workload(name)
        assert made.name == name
        for host in ("mainpc", "pc2"):
            mix = Mix(made, fleet, host, random.Random(1))
            steps = [mix.draw() for _ in range(50)]
            assert all(len(msgspec.msgpack.encode(step.body)) < 16_000 for step in steps)
