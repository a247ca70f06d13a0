"""The pure parts of the comparison with the peers: tables, then Hypothesis against naive oracles."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.peers.analysis import lost_writes, serve_again_ns, split_writes
from benchmarks.peers.records import Operation


def op(
    server: str, invoked: int, ended: int, ok: bool | None = True, client: str = "a", n: int = 0
) -> Operation:
    return Operation(client=client, n=n, invoked_ns=invoked, ended_ns=ended, ok=ok, server=server)


@pytest.mark.parametrize(
    ("operations", "count"),
    [
        ([], 0),
        ([op("x", 0, 1), op("x", 2, 3)], 0),
        ([op("x", 0, 1), op("y", 2, 3), op("y", 4, 5)], 0),  # one follows the other
        ([op("x", 0, 1), op("y", 2, 3), op("x", 4, 5)], 1),  # y between two of x
        ([op("x", 0, 1), op("y", 2, 3), op("x", 4, 5), op("y", 6, 7)], 2),
        ([op("x", 0, 2), op("y", 1, 3), op("x", 2, 4)], 0),  # all overlap: could be one after the other
        ([op("x", 0, 1), op("y", 2, 3, ok=None), op("x", 4, 5)], 0),  # not acknowledged
        ([op("x", 0, 1), op("y", 50, 51), op("x", 101, 102)], 0),  # there and back, slowly
    ],
)
def test_split_writes(operations: list[Operation], count: int) -> None:
    assert split_writes(operations, window_ns=100) == count


def naive_split(operations: list[Operation], window_ns: int) -> int:
    acks = [one for one in operations if one.ok]
    return sum(
        any(
            before.server == after.server != one.server
            and before.ended_ns < one.invoked_ns
            and one.ended_ns < after.invoked_ns
            and after.ended_ns - before.invoked_ns <= window_ns
            for before in acks
            for after in acks
        )
        for one in acks
    )


operations = st.lists(
    st.builds(
        lambda server, start, length, ok: op(server, start, start + length, ok),
        st.sampled_from("xyz"),
        st.integers(0, 60),
        st.integers(0, 12),
        st.sampled_from([True, True, True, None, False]),
    ),
    max_size=14,
)


@settings(deadline=None)
@given(operations, st.integers(0, 60))
def test_split_writes_is_what_the_definition_says(some: list[Operation], window_ns: int) -> None:
    assert split_writes(some, window_ns) == naive_split(some, window_ns)


def test_served_again_counts_from_the_fault_and_to_the_slowest_client() -> None:
    history = [
        op("x", 90, 95, client="a"),
        op("x", 101, 104, client="a"),  # began before the fault had taken effect
        op("y", 150, 160, client="a"),
        op("y", 130, 140, ok=None, client="b"),
        op("y", 170, 190, client="b"),
        op("y", 111, 112, client="on-the-lost-host"),
    ]
    assert serve_again_ns(history, ("a", "b"), fault_ns=100, effective_ns=110) == 90
    assert serve_again_ns(history, ("a", "b", "c"), fault_ns=100, effective_ns=110) is None
    assert serve_again_ns(history, (), fault_ns=100, effective_ns=110) is None
    assert serve_again_ns(history, ("a", "b"), fault_ns=100, effective_ns=171) is None


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9), st.sampled_from([True, False, None]))),
    st.dictionaries(st.sampled_from("ab"), st.sets(st.integers(0, 9))),
)
def test_lost_is_acknowledged_and_gone(
    done: list[tuple[str, int, bool | None]], kept: dict[str, set[int]]
) -> None:
    history = [op("x", 0, 1, ok, client, n) for client, n, ok in done]
    naive = {(client, n) for client, n, ok in done if ok and n not in kept.get(client, set())}
    assert lost_writes(history, kept) == len(naive)
