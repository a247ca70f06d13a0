"""Who gets no CPU, and who hangs."""

from __future__ import annotations

import pytest

from services.control.starvation import MS, Excuse, Sample, StarvationPolicy, miss, starved

POLICY = StarvationPolicy()
T0 = 10**12
BEFORE = Sample(T0, False, 7_000 * MS, 300 * MS)


def later(*, runnable: bool, ran_ms: int, waited_ms: int, after_ms: int = 150) -> Sample:
    return Sample(
        BEFORE.time_ns + after_ms * MS,
        runnable,
        BEFORE.ran_ns + ran_ms * MS,
        BEFORE.waited_ns + waited_ms * MS,
    )


@pytest.mark.parametrize(
    ("what", "now", "wanted"),
    [
        ("stopped, or waits for a lock", later(runnable=False, ran_ms=0, waited_ms=0), False),
        ("waits for the disk", later(runnable=False, ran_ms=1, waited_ms=2), False),
        ("waits for its turn right now", later(runnable=True, ran_ms=0, waited_ms=0), True),
        ("had a short turn and waits again", later(runnable=True, ran_ms=6, waited_ms=80), True),
        ("waited for most of the time", later(runnable=False, ran_ms=3, waited_ms=120), True),
        ("waited for a quarter of the time", later(runnable=False, ran_ms=3, waited_ms=38), True),
        ("waited for less than that", later(runnable=False, ran_ms=3, waited_ms=37), False),
        ("spins", later(runnable=True, ran_ms=149, waited_ms=0), False),
        ("spins on half a CPU", later(runnable=True, ran_ms=75, waited_ms=75), False),
        ("is looked at for too long", later(runnable=True, ran_ms=0, waited_ms=0, after_ms=1_001), False),
        ("is looked at twice in one instant", later(runnable=True, ran_ms=0, waited_ms=0, after_ms=0), False),
        ("is another process", later(runnable=True, ran_ms=-5_000, waited_ms=0), False),
    ],
)
def test_a_process_that(what: str, now: Sample, wanted: bool) -> None:
    assert starved(BEFORE, now, POLICY) is wanted


def test_a_miss_with_consequences_waits_for_a_second_look() -> None:
    excuse, excused = miss(Excuse(), BEFORE, last_miss=True, policy=POLICY)
    assert excused
    excuse, excused = miss(excuse, later(runnable=False, ran_ms=0, waited_ms=0), True, POLICY)
    assert not excused


def test_the_first_of_two_misses_counts_and_the_second_is_judged() -> None:
    excuse, excused = miss(Excuse(), BEFORE, last_miss=False, policy=POLICY)
    assert not excused
    assert miss(excuse, later(runnable=True, ran_ms=1, waited_ms=0), True, POLICY)[1]
    assert not miss(excuse, later(runnable=False, ran_ms=1, waited_ms=0), True, POLICY)[1]


def test_nothing_is_excused_of_a_process_that_cannot_be_looked_at() -> None:
    assert miss(Excuse(BEFORE, T0), None, True, POLICY) == (Excuse(), False)


def test_a_starved_process_is_excused_for_so_long_and_no_longer() -> None:
    excuse, excused = miss(Excuse(), BEFORE, last_miss=False, policy=POLICY)
    excused_ms = []
    for after_ms in range(150, 7_000, 150):
        excuse, excused = miss(
            excuse, later(runnable=True, ran_ms=0, waited_ms=0, after_ms=after_ms), True, POLICY
        )
        if excused:
            excused_ms.append(after_ms)
    assert excused_ms == list(range(150, 5_150, 150))
