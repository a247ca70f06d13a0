"""Lost writes, two owners, linearizability: planted violations are found, sound histories are let be."""

from __future__ import annotations

import itertools
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.tools.paths import ToolMissing, tool_path
from loadtests.protocol import Acted, RegisterWish
from loadtests.record import Kind, Record
from tests.verification import stories
from verification.checkers import linearizable, registers
from verification.checkers.registers import RegisterOp, lost_writes, operations, two_owners
from verification.history import History


def write(value, begin, end, *, host="mainpc", epoch=1, register="a/mainpc/r") -> RegisterOp:
    return RegisterOp(register, "a", begin, end, True, value, host, epoch if end else None, f"w{begin}")


def read(value, begin, end, *, host="mainpc", epoch=1, register="a/mainpc/r") -> RegisterOp:
    return RegisterOp(register, "a", begin, end, False, value, host, epoch, f"r{begin}")


LOST = [
    ([write(0, 0, 1), read(0, 2, 3)], 0),
    ([write(0, 0, 1), read(None, 2, 3)], 1),
    ([write(0, 0, 1), write(1, 2, 3), read(0, 4, 5)], 1),
    # It began before the acknowledgement: both answers are right.
    ([write(0, 0, 1), write(1, 2, 9), read(0, 4, 5)], 0),
    ([write(0, 0, 1), write(1, 2, 9), read(1, 4, 5)], 0),
    # An outcome that nobody knows may come to pass at any later time, but not before it was asked for.
    ([write(0, 0, 1), write(1, 2, None), write(2, 4, 5), read(1, 6, 7)], 0),
    ([write(0, 0, 1), read(None, 2, 3), write(1, 4, None)], 1),
    # Of another register.
    ([write(0, 0, 1), read(None, 2, 3, register="a/pc2/r")], 0),
    ([write(0, 0, 5), write(3, 6, 7), read(2, 8, 9), read(3, 8, 9)], 1),
]


@pytest.mark.parametrize(("ops", "count"), LOST)
def test_lost_writes(ops: list[RegisterOp], count: int) -> None:
    assert len(lost_writes(ops)) == count


OWNERS = [
    ([write(0, 0, 1), write(1, 2, 3, host="pc2", epoch=2)], 0),
    ([write(0, 0, 1), write(1, 2, 3, host="pc2", epoch=1)], 1),
    # The old owner answers a call that began after the new one had answered.
    ([write(0, 0, 1, epoch=2, host="pc2"), read(0, 2, 3, epoch=1)], 1),
    # They overlap: the old one may have acted first.
    ([write(0, 0, 5, epoch=2, host="pc2"), read(0, 2, 3, epoch=1)], 0),
    ([write(0, 0, 1, epoch=3), read(0, 2, 3, epoch=3), read(0, 4, 5, epoch=2, host="pc2")], 1),
    ([write(0, 0, None)], 0),
]


@pytest.mark.parametrize(("ops", "count"), OWNERS)
def test_two_owners(ops: list[RegisterOp], count: int) -> None:
    assert len(two_owners(ops)) == count


OP = st.builds(
    lambda wr, value, begin, length, known, epoch, host: RegisterOp(
        "a/mainpc/r",
        "a",
        begin,
        begin + length if known or not wr else None,
        wr,
        value,
        host,
        epoch if known or not wr else None,
        f"{wr}{begin}",
    ),
    st.booleans(),
    st.integers(0, 4),
    st.integers(0, 20),
    st.integers(1, 6),
    st.booleans(),
    st.integers(1, 3),
    st.sampled_from(("mainpc", "pc2")),
)


@given(st.lists(OP, max_size=12))
def test_lost_writes_against_the_definition(ops: list[RegisterOp]) -> None:
    naive = 0
    for one in ops:
        if one.write:
            continue
        owed = [w.value for w in ops if w.write and w.end_ns is not None and w.end_ns < one.begin_ns]
        unsure = [w for w in ops if w.write and w.end_ns is None and w.begin_ns < one.end_ns]
        below = bool(owed) and one.value < max(owed)
        naive += below and all(w.value != one.value for w in unsure)
    # Of several writes of one value with unknown outcome, the checker keeps one; a writer never repeats one.
    values = [op.value for op in ops if op.write]
    if len(values) == len(set(values)):
        assert len(lost_writes(ops)) == naive


@given(st.lists(OP, max_size=12))
def test_two_owners_against_the_definition(ops: list[RegisterOp]) -> None:
    acts = [op for op in ops if op.end_ns is not None and op.epoch is not None]
    shared = {op.epoch for op in acts for other in acts if op.epoch == other.epoch and op.host != other.host}
    back = [op for op in acts if any(o.end_ns <= op.begin_ns and o.epoch > op.epoch for o in acts)]
    assert len(two_owners(ops)) == len(shared) + len(back)


# Linearizability: Porcupine against a search of all orders.


def explained(ops: list[RegisterOp]) -> bool:
    """Tries every order of every choice of the operations whose outcome nobody knows."""
    certain = [op for op in ops if op.end_ns is not None]
    unsure = [op for op in ops if op.end_ns is None]
    for size in range(len(unsure) + 1):
        for happened in itertools.combinations(unsure, size):
            for order in itertools.permutations([*certain, *happened]):
                if _fits(order):
                    return True
    return False


def _fits(order: tuple[RegisterOp, ...]) -> bool:
    value: int | None = None
    for at, op in enumerate(order):
        if any(later.end_ns is not None and later.end_ns < op.begin_ns for later in order[at + 1 :]):
            return False
        if op.write:
            value = op.value
        elif op.value != value:
            return False
    return True


@pytest.fixture(scope="module")
def porcupine():
    try:
        tool = str(tool_path("porcupine"))
    except ToolMissing as missing:
        pytest.skip(str(missing))
    return lambda lines: linearizable._run(tool, lines)


def small(chance: random.Random) -> list[RegisterOp]:
    ops, value = [], 0
    for number in range(chance.randint(1, 5)):
        begin = chance.randint(0, 12) * 2
        end = begin + chance.randint(0, 4) * 2 + 1
        if chance.random() < 0.5:
            known = chance.random() < 0.7
            ops.append(write(value, begin, end if known else None, register=""))
            value += 1
        else:
            ops.append(read(chance.choice([None, *range(value + 1)]), begin, end, register=""))
        ops[-1] = msgspec.structs.replace(ops[-1], process=str(number))
    return ops


def test_porcupine_agrees_with_a_search_of_all_orders(porcupine) -> None:
    chance = random.Random(4)
    histories = [small(chance) for _ in range(300)]
    named = [
        msgspec.structs.replace(op, register=f"h{at:03d}") for at, ops in enumerate(histories) for op in ops
    ]
    found = linearizable.judged(stories.plan(), named, porcupine)
    told = {trial.label: trial.kept for trial in found.trials}
    wanted = {f"h{at:03d}": explained(ops) for at, ops in enumerate(histories)}
    assert told == wanted
    assert 30 < sum(wanted.values()) < 270, "the histories must be of both kinds"


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_what_loses_an_acknowledged_write_is_not_explained(seed: int) -> None:
    """Of one writer, whose writes do not overlap."""
    ops = small(random.Random(seed))
    writes = [op for op in ops if op.write]
    in_turn = all(b.begin_ns > (a.end_ns or a.begin_ns) for a, b in itertools.pairwise(writes))
    if in_turn and lost_writes(ops):
        assert not explained(ops)


def test_an_answer_that_does_not_fit_is_an_error_and_a_missing_one_is_void() -> None:
    ops = [write(0, 0, 1)]
    with pytest.raises(linearizable.LinearizableError):
        linearizable.judged(stories.plan(), ops, lambda _: b"nonsense")
    found = linearizable.judged(stories.plan(), ops, lambda _: b"")
    assert found.voids
    assert not found.trials


def test_without_the_tool_it_is_void_and_says_what_to_run(monkeypatch) -> None:
    def missing(name: str):
        raise ToolMissing(name)

    monkeypatch.setattr(linearizable, "tool_path", missing)
    found = linearizable.census(stories.plan(), History.of_records([]))
    assert "make setup" in found.voids[0].reason


# From records to operations.


def pair(process: str, f: str, key: str, begin: int, end: int, kind: Kind, wish=None, told=None):
    begun = Record(process=process, type=Kind.INVOKE, f=f, key=key, time_ns=begin, host="pc2")
    ended = Record(process=process, type=kind, f=f, key=key, time_ns=end, host="pc2")
    encode = msgspec.json.encode
    return [
        msgspec.structs.replace(begun, value=msgspec.Raw(encode(RegisterWish(value=wish)))),
        msgspec.structs.replace(ended, value=msgspec.Raw(encode(told))),
    ]


def test_operations_are_those_that_may_have_been_performed() -> None:
    acted = Acted(value=7, host="pc2", epoch=3, incarnation=1)
    records = [
        *pair("w.0", "write", "a/pc2/r", 0, 10, Kind.OK, wish=7, told=acted),
        *pair("w.0", "write", "a/pc2/r", 20, 30, Kind.FAIL, wish=8),
        *pair("w.0", "write", "a/pc2/r", 40, 50, Kind.INFO, wish=9),
        *pair("r.0", "read", "a/pc2/r", 60, 70, Kind.OK, told=acted),
        *pair("r.1", "read", "a/pc2/r", 80, 90, Kind.FAIL),
    ]
    found = operations(History.of_records(records))
    assert [(op.write, op.value, op.end_ns, op.epoch) for op in found] == [
        (True, 7, 10, 3),
        (True, 9, None, None),
        (False, 7, 70, 3),
    ]
    told = registers.writes(stories.plan(), History.of_records(records))
    assert told.counts[0][1].total == 1
    assert told.counts[0][1].failed == 0
    assert registers.owners(stories.plan(), History.of_records([])).counts == ()
