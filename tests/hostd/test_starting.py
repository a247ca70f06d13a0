"""Who starts first, and how many at once."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.hostd.starting import Rank, StartGate

SERVES, STANDS_BY = False, True


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def played(ranks: list[Rank]) -> list[int]:
    """The order in which agents of these ranks get their turn, one serving and one standing by at once."""

    async def play() -> list[int]:
        gate, order = StartGate(serving_at_once=1, standby_at_once=1), list[int]()

        async def start(number: int) -> None:
            async with gate.turn(lambda: ranks[number]):
                order.append(number)
                await asyncio.sleep(0)

        await asyncio.gather(*(start(number) for number in range(len(ranks))))
        return order

    return asyncio.run(play())


@pytest.mark.parametrize(
    ("ranks", "order"),
    [
        ([], []),
        ([Rank(STANDS_BY, 0), Rank(SERVES, 2)], [0, 1]),  # each kind has room of its own
        ([Rank(SERVES, 2), Rank(SERVES, 2), Rank(SERVES, 0)], [0, 2, 1]),
        ([Rank(SERVES, 2), Rank(STANDS_BY, 0), Rank(SERVES, 1)], [0, 1, 2]),
        ([Rank(STANDS_BY, 1), Rank(STANDS_BY, 1), Rank(SERVES, 1)], [0, 2, 1]),
    ],
)
def test_those_that_serve_go_first_then_the_urgent_then_the_first_come(
    ranks: list[Rank], order: list[int]
) -> None:
    assert played(ranks) == order


def test_a_standby_that_is_to_serve_now_overtakes_the_others() -> None:
    async def play() -> list[int]:
        gate, order, ranks = StartGate(1, 1), list[int](), {n: Rank(STANDS_BY, n) for n in range(4)}
        first_is_up = asyncio.Event()

        async def start(number: int) -> None:
            async with gate.turn(lambda: ranks[number]):
                order.append(number)
                if number == 0:
                    await first_is_up.wait()

        tasks = [asyncio.create_task(start(number)) for number in range(4)]
        await settle()
        assert order == [0]
        ranks[3] = Rank(SERVES, 3)
        gate.look()
        await settle()
        assert order == [0, 3]
        first_is_up.set()
        await asyncio.gather(*tasks)
        return order

    assert asyncio.run(play()) == [0, 3, 1, 2]


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 2)), max_size=12),
    st.sets(st.integers(0, 11)),
    st.integers(1, 3),
    st.integers(1, 3),
)
def test_never_more_at_once_than_allowed_and_all_come_to_their_turn(
    ranks: list[tuple[bool, int]], cancelled: set[int], serving: int, standby: int
) -> None:
    async def play() -> None:
        gate = StartGate(serving, standby)
        busy = {SERVES: 0, STANDS_BY: 0}
        done: set[int] = set()

        async def start(number: int) -> None:
            kind = ranks[number][0]
            async with gate.turn(lambda: Rank(*ranks[number])):
                busy[kind] += 1
                assert busy[SERVES] <= serving
                assert busy[STANDS_BY] <= standby
                try:
                    await asyncio.sleep(0)
                finally:
                    busy[kind] -= 1
                done.add(number)

        tasks = [asyncio.create_task(start(number)) for number in range(len(ranks))]
        await asyncio.sleep(0)
        for number in cancelled & set(range(len(ranks))):
            tasks[number].cancel()
        async with asyncio.timeout(10):
            await asyncio.gather(*tasks, return_exceptions=True)
        assert done >= set(range(len(ranks))) - cancelled

    asyncio.run(play())
