"""The fence: what was published is read, what cannot be read allows nothing; state and calls behind it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.topology import AgentSpec
from services.agent.channel import Channel, open_unix
from services.agent.client import Client
from services.agent.connection import Scratch
from services.agent.errors import CallError, Code
from services.agent.fence import Allowance, FenceError, FenceReader, FenceWriter, boottime_ns
from services.agent.line import PLACES, Patience
from services.agent.sdk import Agent, method
from services.agent.server import AgentServer
from services.agent.standing import Promote, Standing, StandingAnswer
from services.agent.store import CHANGED, StateContent, StateRead, StateWrite, StoreState
from services.agent.wire import pack, unpack_as
from tests.agent.kit import FakeView, instance, run_folder, until

SOON = 60_000_000_000


def allow(**more: object) -> Allowance:
    return Allowance(deadline_ns=boottime_ns() + SOON, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("allowance", "epoch"),
    [
        (Allowance(deadline_ns=11, serving={"h": 3}), 3),
        (Allowance(deadline_ns=10, serving={"h": 3}), None),  # at the deadline: over
        (Allowance(deadline_ns=11, serving={"other": 3}), None),
        (Allowance(deadline_ns=11, serving={"h": 3, "h/a": 4}), 4),
        (Allowance(deadline_ns=11, serving={"h": 3, "h/b": 4}), 3),
        (Allowance(deadline_ns=11, serving={"h/a": 4}), 4),
        (Allowance(deadline_ns=11, serving={"h": 3}, withheld=frozenset({"h/a"})), None),
        (Allowance(), None),
    ],
)
def test_what_an_allowance_allows(allowance: Allowance, epoch: int | None) -> None:
    assert allowance.epoch_of("h", "a", 10) == epoch


def test_readers_see_what_was_published_last_also_by_an_earlier_life(tmp_path: Path) -> None:
    path = tmp_path / "fence"
    reader = FenceReader(path)
    assert reader.epoch("h", "a") is None, "no file: nobody may act"
    first = FenceWriter(path)
    assert reader.read() == Allowance()
    for epoch in (1, 2, 3):
        first.publish(allow(serving={"h": epoch}))
        assert reader.epoch("h", "a") == epoch
    first.close()
    second = FenceWriter(path)
    assert reader.epoch("h", "a") == 3, "in force until its deadline"
    second.publish(Allowance())
    assert reader.epoch("h", "a") is None
    os.unlink(path)
    third = FenceWriter(path)
    third.publish(allow(serving={"h": 9}))
    assert reader.epoch("h", "a") == 9, "another file has taken its place"


def test_too_many_units_are_refused_and_the_last_allowance_stays(tmp_path: Path) -> None:
    writer = FenceWriter(tmp_path / "fence")
    writer.publish(allow(serving={"h": 1}))
    with pytest.raises(FenceError):
        writer.publish(allow(serving={f"h/{number:060}": 1 for number in range(1000)}))
    assert FenceReader(tmp_path / "fence").epoch("h", "a") == 1


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, 63 + (64 << 10)), bit=st.integers(0, 7), cut=st.booleans())
def test_damage_allows_nothing_that_was_not_allowed(
    tmp_path_factory: pytest.TempPathFactory, at: int, bit: int, cut: bool
) -> None:
    path = tmp_path_factory.mktemp("f") / "fence"
    writer = FenceWriter(path)
    writer.publish(allow(serving={"h": 1}))
    writer.publish(allow(serving={"h": 2}))
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1 << bit
    path.write_bytes(bytes(raw[:at]) if cut else bytes(raw))
    assert FenceReader(path).epoch("h", "a") in (None, 2)


def test_a_reader_beside_a_hammering_writer_sees_whole_allowances(tmp_path: Path) -> None:
    writer = FenceWriter(tmp_path / "fence")
    reader = FenceReader(tmp_path / "fence")
    done = threading.Event()

    def hammer() -> None:
        for epoch in range(1, 3001):
            writer.publish(allow(serving={f"h{n}": epoch for n in range(epoch % 20 + 1)}))
        done.set()

    thread = threading.Thread(target=hammer)
    thread.start()
    seen = 0
    while not done.is_set():
        try:
            epochs = set(reader.read().serving.values())
        except FenceError:
            continue  # five times in a row the writer was faster: refused, never wrong
        assert len(epochs) <= 1
        now = max(epochs, default=0)
        assert now >= seen
        seen = now
    thread.join()
    assert reader.read().serving["h0"] == 3000


class FakeBacking:
    """etcd behind hostd, with outcomes to order."""

    def __init__(self) -> None:
        self.reads = 0
        self.items: dict[str, tuple[bytes, int]] = {}
        self.late: list[StateWrite] = []
        self.revision = 1
        self.outcomes: list[str] = []

    async def write(self, write: StateWrite) -> int:
        await asyncio.sleep(0)  # others have their turn while it is under way
        outcome = self.outcomes.pop(0) if self.outcomes else "ok"
        if outcome == "late":
            self.late.append(write)
            raise CallError(Code.INDETERMINATE, "x")
        if outcome in ("ok", "lost-answer") and not self.perform(write):
            raise CallError(CHANGED, "x")
        if outcome == "ok":
            return self.revision
        raise CallError({"lost-answer": "indeterminate", "lost": "indeterminate"}.get(outcome, outcome), "x")

    def perform(self, write: StateWrite) -> bool:
        if any(self.items.get(key, (b"", 0))[1] != revision for key, revision in write.replaces.items()):
            return False
        self.revision += 1
        self.items |= {key: (value, self.revision) for key, value in write.puts.items()}
        for key in write.deletes:
            self.items.pop(key, None)
        return True

    async def read(self, read: StateRead) -> StateContent:
        self.reads += 1
        return StateContent(self.revision, tuple((key, *item) for key, item in self.items.items()))


class Ground:
    """A state over a fake store."""

    def __init__(self, max_items: int = 3) -> None:
        self.backing = FakeBacking()
        self.acting = True
        self.touched = 0
        self.state = StoreState("a", 1, self.backing, self.check, self.touch, max_items)

    def check(self) -> int:
        if not self.acting:
            raise CallError(Code.FENCED, "not primary")
        return 7

    def touch(self) -> None:
        self.touched += 1


async def test_state_is_what_the_store_acknowledged() -> None:
    ground = Ground()
    state = ground.state
    for number in range(4):
        await state.put(f"k{number}", number)
    assert await state.keys() == ["k1", "k2", "k3"], "the least recently used one went"
    assert sorted(ground.backing.items) == ["k1", "k2", "k3"], "in the store as well"
    assert await state.delete("k1")
    assert not await state.delete("k1")
    await state.get("k2")
    another = StoreState("a", 2, ground.backing, ground.check, ground.touch)
    await another.load()
    assert [await another.get(key) for key in ("k1", "k2", "k3")] == [None, 2, 3]


@pytest.mark.parametrize(
    ("outcome", "stands", "definite"),
    [
        ("fenced", "old", True),
        ("unavailable", "old", True),
        ("lost-answer", "new", False),
        ("lost", "old", False),
        ("deadline", "old", False),
    ],
)
async def test_after_a_write_without_an_answer_the_store_is_asked_what_stands(
    outcome: str, stands: str, definite: bool
) -> None:
    ground = Ground()
    await ground.state.put("k", "old")
    touched = ground.touched
    ground.backing.outcomes = [outcome]
    with pytest.raises(CallError) as caught:
        await ground.state.put("k", "new")
    assert caught.value.definite is definite
    assert (ground.touched > touched) is not definite
    assert await ground.state.get("k") == stands


async def test_a_state_that_is_handed_over_is_not_asked_for() -> None:
    ground = Ground()
    await ground.state.put("k", "old")
    another = StoreState("a", 2, ground.backing, ground.check, ground.touch)
    before = ground.backing.reads
    assert await another.load(await ground.backing.read(StateRead("a", 2))) == ground.backing.revision
    assert await another.get("k") == "old"
    await another.put("k", "new")
    assert ground.backing.reads == before + 1, "only the one of this test"


async def test_a_state_older_than_what_was_loaded_before_is_not_taken() -> None:
    ground = Ground()
    await ground.state.put("k", "old")
    stale = await ground.backing.read(StateRead("a", 1))
    await ground.state.put("k", "new")
    await ground.state.load()
    assert await ground.state.load(stale) == ground.backing.revision > stale.revision
    assert await ground.state.get("k") == "new"


async def test_readers_wait_for_a_write_and_do_not_ask_the_store() -> None:
    ground = Ground()
    await ground.state.put("k", "old")
    before = ground.backing.reads
    _, *found = await asyncio.gather(ground.state.put("k", "new"), *(ground.state.get("k") for _ in range(5)))
    assert found == ["new"] * 5
    assert ground.backing.reads == before


async def test_a_write_that_comes_through_late_undoes_no_newer_one() -> None:
    ground = Ground()
    await ground.state.put("k", "first")
    ground.backing.outcomes = ["late"]
    with pytest.raises(CallError):
        await ground.state.put("k", "late")
    await ground.state.put("k", "newer")
    assert not ground.backing.perform(ground.backing.late.pop())
    assert await ground.state.get("k") == "newer"

    ground.backing.outcomes = ["late"]
    with pytest.raises(CallError):
        await ground.state.put("k", "late again")
    assert await ground.state.get("k") == "newer"  # loaded before it came through
    assert ground.backing.perform(ground.backing.late.pop())
    await ground.state.put("k", "newest")  # refused once, then against what stands there
    assert await ground.state.get("k") == "newest"


async def test_who_may_not_act_reads_and_writes_nothing() -> None:
    ground = Ground()
    await ground.state.put("k", 1)
    ground.acting = False
    for attempt in (ground.state.get("k"), ground.state.put("k", 2), ground.state.delete("k")):
        with pytest.raises(CallError) as caught:
            await attempt
        assert caught.value.code == Code.FENCED
    assert ground.backing.items["k"][0] == msgspec.msgpack.encode(1)


class Ledger(Agent):
    """Has effects, and can be held between two of them."""

    def __init__(self, spec: AgentSpec) -> None:
        super().__init__(spec)
        self.go = asyncio.Event()
        self.half = asyncio.Event()
        self.begun = asyncio.Event()

    @method()
    async def twice(self) -> int:
        await self.state.put("first", 1)
        self.half.set()
        await self.go.wait()
        await self.state.put("second", 1)
        return 2

    @method()
    async def late(self) -> int:
        self.begun.set()
        await self.go.wait()
        await self.state.put("only", 1)
        return 1

    @method()
    async def read(self) -> int:
        return 5


class Stage:
    """An agent's server with a fence of its own."""

    def __init__(self, folder: Path, path: Path | None = None, patience: Patience | None = None) -> None:
        self.fence = FenceWriter(folder / "fence")
        spec = AgentSpec(name="a", home="h", standby="g", category="t", handler="x:Y")
        self.backing = FakeBacking()
        reader = FenceReader(folder / "fence")
        self.standing = Standing(spec, 1, reader, self.backing)  # type: ignore[arg-type]
        self.agent = Ledger(spec)
        self.agent.state = self.standing.state
        path = path or folder / "a.sock"
        self.server = AgentServer(self.agent, path, standing=self.standing, patience=patience)
        self.folder = folder


async def code_of(call: Callable[[], object]) -> str:
    try:
        await call()  # type: ignore[misc]
    except CallError as error:
        return error.code
    return "ok"


@asynccontextmanager
async def on_stage(patience: Patience | None = None) -> AsyncIterator[tuple[Stage, Channel]]:
    """An agent that serves, and a channel to it; its callers are on a host whose agents may move."""
    with run_folder() as folder:
        (folder / "agents").mkdir()
        stage = Stage(folder, folder / "agents" / "a.sock", patience)
        stage.fence.publish(allow(serving={"h": 4}))
        await stage.server.start()
        channel = await open_unix(stage.server.path, Scratch(), timeout_s=5)
        await channel.request("a", "_promote", pack(Promote(4)), timeout_s=5)
        yield stage, channel
        stage.agent.go.set()
        channel.close()
        await stage.server.stop()


async def test_after_a_switch_over_nobody_is_refused_neither_held_back_nor_new() -> None:
    """More come than find a place at once; those who were not held back meet them."""
    view = FakeView()
    view.put(instance("a", host="h"))
    async with (
        on_stage(Patience(burst_s=600.0)) as (stage, channel),
        Client(stage.folder, "h", open_view=view) as old,
        Client(stage.folder, "h", open_view=view) as new,
    ):
        server, usual = stage.server, stage.agent.concurrency
        await channel.request("a", "_quiesce", pack(None), timeout_s=5)
        held = [
            asyncio.create_task(code_of(lambda: old.call("a", "late", timeout_s=600.0)))
            for _ in range(3 * usual)
        ]
        await until(lambda: server.metrics.calls("late", Code.DRAINING) >= 3 * usual)
        await channel.request("a", "_resume", pack(None), timeout_s=5)
        await until(lambda: len(server._calls) + len(server._line) == 3 * usual)
        stage.standing.served_since -= 600.0  # and they are not done for long
        come = [
            asyncio.create_task(code_of(lambda: new.call("a", "late", timeout_s=600.0))) for _ in range(usual)
        ]
        await until(lambda: len(server._calls) + len(server._line) == 4 * usual)
        assert len(server._calls) == usual, "no more at once than at other times"
        stage.agent.go.set()
        assert set(await asyncio.gather(*held, *come)) == {"ok"}
        assert server.metrics.calls("late", Code.OVERLOADED) == 0


async def test_more_than_the_line_takes_come_again() -> None:
    view = FakeView()
    view.put(instance("a", host="h"))
    async with on_stage() as (stage, channel), Client(stage.folder, "h", open_view=view) as client:
        everybody = (PLACES + 2) * stage.agent.concurrency
        await channel.request("a", "_quiesce", pack(None), timeout_s=5)
        held = [
            asyncio.create_task(code_of(lambda: client.call("a", "late", timeout_s=600.0)))
            for _ in range(everybody)
        ]
        await until(lambda: stage.server.metrics.calls("late", Code.DRAINING) >= everybody)
        await channel.request("a", "_resume", pack(None), timeout_s=5)
        await until(lambda: stage.server.metrics.calls("late", Code.OVERLOADED) >= stage.agent.concurrency)
        stage.agent.go.set()
        assert set(await asyncio.gather(*held)) == {"ok"}


@pytest.mark.parametrize(("order", "code"), [("_quiesce", "draining"), ("_demote", "fenced")])
async def test_who_is_handed_over_holds_back_instead_of_being_overloaded(order: str, code: str) -> None:
    """With every place taken, and a line: what comes, and what waits, is for who serves next."""
    async with on_stage(Patience(burst_s=600.0)) as (stage, channel):
        server, usual = stage.server, stage.agent.concurrency

        def late() -> asyncio.Task[str]:
            return asyncio.create_task(
                code_of(lambda: channel.request("a", "late", pack(None), timeout_s=600.0))
            )

        running = [late() for _ in range(usual)]
        await until(lambda: len(server._calls) == usual)
        waiting = [late() for _ in range(7)]
        await until(lambda: len(server._line) == 7)
        told = asyncio.create_task(channel.request("a", order, pack(None), timeout_s=600.0))
        assert await asyncio.gather(*waiting) == [code] * 7
        assert await late() == code
        assert len(server._calls) == usual
        stage.agent.go.set()
        await told
        assert set(await asyncio.gather(*running)) == {"ok" if order == "_quiesce" else "fenced"}


async def test_who_loses_the_right_to_act_while_some_wait_begins_none_of_them() -> None:
    async with on_stage(Patience(burst_s=600.0)) as (stage, channel):
        calls = [
            asyncio.create_task(code_of(lambda: channel.request("a", "late", pack(None), timeout_s=600.0)))
            for _ in range(stage.agent.concurrency + 7)
        ]
        await until(lambda: len(stage.server._line) == 7)
        stage.fence.publish(Allowance())
        stage.agent.go.set()
        assert set(await asyncio.gather(*calls)) == {"fenced"}
        assert stage.backing.items == {}


async def test_a_server_serves_at_the_epoch_it_was_promoted_to_and_no_longer() -> None:
    with run_folder() as folder:
        await serve_at_epochs(folder)


async def serve_at_epochs(folder: Path) -> None:
    stage = Stage(folder)
    await stage.server.start()
    channel = await open_unix(folder / "a.sock", Scratch(), timeout_s=5)

    async def ask(name: str, body: object = None) -> object:
        return await channel.request("a", name, pack(body), timeout_s=5)

    async def told(name: str, body: object = None) -> StandingAnswer:
        return unpack_as(await channel.request("a", name, pack(body), timeout_s=5), StandingAnswer)

    assert await code_of(lambda: ask("read")) == "fenced", "a standby"
    stage.fence.publish(allow(serving={"h": 4}))
    assert await code_of(lambda: ask("read")) == "fenced", "allowed, and its state is not loaded"
    assert await told("_promote", Promote(4)) == StandingAnswer(4, True, 1)
    assert await code_of(lambda: ask("read")) == "ok"

    stage.fence.publish(allow(serving={"h": 5}))
    assert await code_of(lambda: ask("read")) == "fenced", "another epoch: what it loaded may be old"
    await told("_promote", Promote(5))
    between = asyncio.create_task(code_of(lambda: ask("twice")))
    before = asyncio.create_task(code_of(lambda: ask("late")))
    await stage.agent.half.wait()
    await stage.agent.begun.wait()
    stage.fence.publish(Allowance())
    stage.agent.go.set()
    assert await between == "indeterminate", "half of it was done"
    assert await before == "fenced", "nothing of it was done"

    stage.fence.publish(allow(serving={"h": 5}))
    stage.agent.go.clear()
    stage.agent.begun.clear()
    running = asyncio.create_task(code_of(lambda: ask("late")))
    await stage.agent.begun.wait()
    quiesced = asyncio.create_task(told("_quiesce"))
    while await code_of(lambda: ask("read")) != "draining":
        pass  # the order is still on its way
    assert not quiesced.done()
    stage.agent.go.set()
    assert await running == "ok"
    assert (await quiesced).epoch == 5
    await told("_resume")
    assert await code_of(lambda: ask("read")) == "ok"
    assert (await told("_demote")).epoch == 0
    assert await code_of(lambda: ask("read")) == "fenced"
    channel.close()
    await stage.server.stop()
