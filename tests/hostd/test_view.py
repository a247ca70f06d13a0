"""What the host answers: others by etcd's word, itself by its own."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path

import pytest

from infra.topology import AgentSpec
from services.hostd.view import View
from services.registry.model import Entry, Instance, InstanceState
from services.registry.snapshot import SnapshotReader, SnapshotWriter

FRESH_FOR_MS = 1000


def instance(name: str, host: str, incarnation: int = 1, state: str = "up", since_ns: int = 0) -> Instance:
    return Instance(
        name=name, host=host, incarnation=incarnation, state=InstanceState(state), since_ns=since_ns
    )


def entry(*instances: Instance) -> Entry:
    return Entry(name=instances[0].name, instances=instances)


class Ground:
    def __init__(self, folder: Path) -> None:
        self.own: dict[str, Instance] = {}
        self.now_ns = 1_000_000_000_000
        self.path = folder / "discovery.snap"
        self.writer = SnapshotWriter(self.path, clock_ns=lambda: self.now_ns)
        self.view = View(
            "mainpc",
            self.writer,
            own=self.own.get,
            fresh_for_ms=FRESH_FOR_MS,
            now_ns=lambda: self.now_ns,
        )

    def become(self, name: str, state: str, incarnation: int = 1) -> None:
        self.own[name] = instance(name, "mainpc", incarnation, state)
        self.view.changed(name)


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return Ground(tmp_path)


async def published(ground: Ground, generation: int) -> None:
    async with asyncio.timeout(5):
        while ground.view.generation < generation:  # noqa: ASYNC110 - publishing has no event of its own
            await asyncio.sleep(0)


async def test_an_echo_cannot_bring_a_dead_agent_back(ground: Ground) -> None:
    ground.become("alpha", "up")
    ground.become("alpha", "down")
    await published(ground, 1)
    echo = {"alpha": entry(instance("alpha", "mainpc", 1, "up"), instance("alpha", "pc2", 4, "up"))}
    ground.view.told({}, echo, None, 7)
    await published(ground, 2)
    states = {(one.host, one.state) for one in ground.view.of("alpha")}
    assert states == {("mainpc", InstanceState.DOWN), ("pc2", InstanceState.UP)}
    assert [one.host for one in ground.view.resolve("alpha").instances] == ["pc2"]


async def test_an_old_record_of_this_host_without_an_agent_is_no_answer(ground: Ground) -> None:
    ground.view.told({}, {"ghost": entry(instance("ghost", "mainpc"))}, None, 3)
    await published(ground, 1)
    with pytest.raises(KeyError):
        ground.view.resolve("ghost")


async def test_a_local_change_is_in_the_snapshot_before_etcd_hears_of_it(ground: Ground) -> None:
    ground.become("alpha", "up")
    await published(ground, 1)
    reader = SnapshotReader(ground.path, host="mainpc")
    assert len(reader.resolve("alpha").instances) == 1
    ground.become("alpha", "unhealthy")
    await published(ground, 2)
    assert reader.resolve("alpha").instances == ()
    reader.close()


async def test_only_changed_names_are_looked_at_again(ground: Ground) -> None:
    entries = {name: entry(instance(name, "pc2")) for name in ("a", "b")}
    ground.view.told({}, entries, None, 1)
    await published(ground, 1)
    ground.view.told({}, {"a": entry(instance("a", "pc2", 2))}, ("a", "b"), 2)
    await published(ground, 2)
    assert [one.incarnation for one in ground.view.of("a")] == [2]
    assert ground.view.of("b") == ()


async def test_freshness_is_confirmed_doubted_and_runs_out(ground: Ground) -> None:
    ground.become("alpha", "up")
    ground.view.told({}, {}, (), 1)
    await published(ground, 1)
    assert ground.view.stale
    ground.view.confirm()
    assert not ground.view.stale
    ground.now_ns += (FRESH_FOR_MS + 1) * 1_000_000
    assert ground.view.stale
    ground.view.confirm()
    assert not ground.view.resolve("alpha").stale
    ground.view.doubt()
    assert ground.view.resolve("alpha").stale


async def test_a_defined_agent_that_nobody_runs_is_known_and_has_no_instance(ground: Ground) -> None:
    spec = AgentSpec(name="alpha", home="pc2", category="c", handler="m:A")
    ground.view.told({"alpha": spec}, {}, None, 1)
    assert ground.view.resolve("alpha").instances == ()
    await published(ground, 1)
    with closing(SnapshotReader(ground.path)) as reader:
        assert reader.resolve("alpha").instances == (), "clients on this host know it as well"
        ground.view.told({"alpha": spec}, {"alpha": entry(instance("alpha", "pc2"))}, ("alpha",), 2)
        await published(ground, 2)
        assert len(reader.resolve("alpha").instances) == 1
        ground.view.told({"alpha": spec}, {}, ("alpha",), 3)
        await published(ground, 3)
        assert reader.resolve("alpha").instances == (), "its host is gone, it is not"
        ground.view.told({}, {}, (), 4)
        await published(ground, 4)
        with pytest.raises(KeyError):
            reader.resolve("alpha")


async def test_waiting_for_a_change(ground: Ground) -> None:
    waiting = asyncio.create_task(ground.view.wait_for(lambda: bool(ground.view.of("alpha")), 5))
    await asyncio.sleep(0)
    ground.become("alpha", "up")
    await waiting
    with pytest.raises(TimeoutError):
        await ground.view.wait_for(lambda: False, 0.01)


async def test_what_is_waited_for_may_hold_without_a_publication(ground: Ground) -> None:
    holds = False
    waiting = asyncio.create_task(ground.view.wait_for(lambda: holds, 5))
    await asyncio.sleep(0)
    ground.view.wake()
    await asyncio.sleep(0)
    assert not waiting.done()
    holds = True
    ground.view.wake()
    await waiting
    assert ground.view.generation == 0
