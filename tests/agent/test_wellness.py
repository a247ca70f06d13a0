"""When an agent that answers pings calls itself failing, and what says nothing about it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.agent.channel import Channel, open_unix
from services.agent.connection import Scratch
from services.agent.errors import CallError
from services.agent.sdk import Agent, method
from services.agent.server import AgentServer
from services.agent.wellness import FORGOTTEN_S, LATE_LOOP_S, LEAST_TIME_S, ROW, Wellness, elsewhere
from services.agent.wire import NIL, pack, unpack
from tests.agent.kit import run_folder, spec

Story = Callable[[Wellness], None]


def bad(times: int, at_s: float = 1.0) -> Story:
    return lambda one: [one.bad(at_s) for _ in range(times)] and None


def late(
    times: int,
    *,
    behind_s: float = 0.0,
    given_s: float = 1.0,
    waited_s: float = 0.0,
    elsewhere: bool = False,
) -> Story:
    def happens(one: Wellness) -> None:
        for _ in range(times):
            one.late(1.0 + behind_s, 1.0, given_s, waited_s=waited_s, elsewhere=elsewhere)

    return happens


@pytest.mark.parametrize(
    ("story", "at_s", "failing"),
    [
        ([], 1.0, False),
        ([bad(ROW - 1)], 1.0, False),
        ([bad(ROW)], 1.0, True),
        ([bad(ROW), Wellness.good], 1.0, False),
        ([bad(ROW - 1), Wellness.good, bad(ROW - 1)], 1.0, False),
        ([bad(ROW)], 1.0 + FORGOTTEN_S, True),
        ([bad(ROW)], 1.1 + FORGOTTEN_S, False),
        ([bad(ROW - 1), bad(1, 1.1 + FORGOTTEN_S)], 1.1 + FORGOTTEN_S, False),
        ([late(ROW)], 1.0, True),
        ([late(ROW, elsewhere=True)], 1.0, False),
        ([late(ROW, behind_s=LATE_LOOP_S)], 1.0, False),
        ([late(ROW, given_s=LEAST_TIME_S / 2)], 1.0, False),
        ([late(ROW, waited_s=1.0)], 1.0, True),
        ([late(ROW, waited_s=1.1)], 1.0, False),  # a crowd
        ([late(ROW - 1), bad(1)], 1.0, True),
    ],
)
def test_a_row_of_bad_calls(story: list[Story], at_s: float, failing: bool) -> None:
    one = Wellness()
    for happens in story:
        happens(one)
    assert one.failing(at_s) is failing


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 3))))
def test_against_the_definition(calls: list[tuple[bool, float]]) -> None:
    one, now_s, row = Wellness(), 10.0, []
    for good, pause_s in calls:
        now_s += pause_s
        if good:
            one.good()
            row = []
        else:
            one.bad(now_s)
            row = [*row, now_s] if row and now_s - row[-1] <= FORGOTTEN_S else [now_s]
    assert one.failing(now_s) is (len(row) >= ROW and now_s - row[-1] <= FORGOTTEN_S)


class Fragile(Agent):
    """Fails in the ways that callers know."""

    @method()
    async def work(self, how: str) -> str:
        match how:
            case "raises":
                raise RuntimeError("broken")
            case "sleeps":
                await asyncio.sleep(60)
            case "asks":
                await self.call("other", "work", None)
            case "stores":
                with elsewhere():
                    await asyncio.sleep(60)
        return how


class Deaf:
    """A way to others on which nothing ever comes back."""

    async def call(self, agent: str, method: str, body: object = None, *, timeout_s: float = 5.0) -> object:
        await asyncio.sleep(60)
        return None

    async def close(self) -> None:
        pass


async def state(channel: Channel) -> str:
    answer = unpack(await channel.request("worker", "_ping", NIL, timeout_s=5))
    assert isinstance(answer, dict)
    return str(answer["state"])


async def ask(channel: Channel, how: str) -> None:
    with contextlib.suppress(CallError):
        await channel.request("worker", "work", pack(how), timeout_s=5 if how == "raises" else 0.15)


@pytest.mark.parametrize(
    ("how", "claims"),
    [("raises", "failing"), ("sleeps", "failing"), ("asks", "up"), ("stores", "up"), ("well", "up")],
)
async def test_what_a_ping_says_after_a_row_of_calls(how: str, claims: str) -> None:
    with run_folder() as run:
        agent = Fragile(spec(), incarnation=1)
        server = AgentServer(agent, run / "worker.sock", drain_limit_s=0.1)
        agent.connect(Deaf())
        await server.start()
        channel = await open_unix(server.path, Scratch(), timeout_s=5)
        try:
            await asyncio.gather(*(ask(channel, how) for _ in range(ROW)))
            # The server notices a deadline when its own timer fires, a moment after the caller may give up.
            async with asyncio.timeout(5):
                while claims == "failing" and await state(channel) != claims:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert await state(channel) == claims
            await ask(channel, "well")
            assert await state(channel) == "up"
        finally:
            channel.close()
            await server.stop()
