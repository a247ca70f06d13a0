"""A program that has just been started is asked often, so that it serves as soon as it can."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from infra.topology import HealthCheck, HealthKind
from services.hostd.health import START_POLL_S, PollCheck

INTERVAL_MS = 1000


class Clock(asyncio.SelectorEventLoop):
    """A loop in which waiting takes no time."""

    def __init__(self) -> None:
        super().__init__()
        self.passed_s = 0.0

    def time(self) -> float:
        return self.passed_s

    def _run_once(self) -> None:
        scheduled = cast(Any, self)._scheduled
        if not cast(Any, self)._ready and scheduled:
            self.passed_s = max(self.passed_s, scheduled[0].when())
        super()._run_once()  # type: ignore[misc]


class Heard:
    """What the watcher was told, and when."""

    def __init__(self) -> None:
        self.well_s: list[float] = []
        self.missed_s: list[float] = []

    def pong(self, incarnation: int, state: str, late: bool) -> None:
        self.well_s.append(asyncio.get_running_loop().time())

    def miss(self) -> None:
        self.missed_s.append(asyncio.get_running_loop().time())


async def listen(ready_s: float, gone_s: float, until_s: float) -> tuple[Heard, list[float]]:
    heard, asked_s = Heard(), []
    loop = asyncio.get_running_loop()
    check = PollCheck(
        HealthCheck(kind=HealthKind.HTTP, path="/", interval_ms=INTERVAL_MS, timeout_ms=500),
        address="127.0.0.1",
        port=1,
        incarnation=1,
        watcher=heard,
        http=cast(Any, None),
    )

    async def probe() -> bool:
        asked_s.append(loop.time())
        if not ready_s <= loop.time() < gone_s:
            raise ConnectionRefusedError
        return True

    check._probe = probe  # type: ignore[method-assign]
    check.start()
    await asyncio.sleep(until_s)
    check.stop()
    return heard, asked_s


@pytest.mark.parametrize("ready_s", [0.0, 0.03, 0.3, 2.0, 9.0, 40.0])
def test_a_start_is_noticed_a_tenth_of_its_time_late_at_most(ready_s: float) -> None:
    with asyncio.Runner(loop_factory=Clock) as runner:
        heard, _ = runner.run(listen(ready_s, 1e9, 60))
    slack_s = min(INTERVAL_MS / 1000, max(START_POLL_S, 0.1 * ready_s))
    assert ready_s <= heard.well_s[0] <= ready_s + slack_s + 1e-6
    assert heard.missed_s == []


def test_once_it_has_answered_it_is_asked_at_its_interval_and_misses_count() -> None:
    with asyncio.Runner(loop_factory=Clock) as runner:
        heard, asked_s = runner.run(listen(0.1, 5.05, 9))
    assert len([at for at in asked_s if 1 < at < 5]) == pytest.approx(4, abs=1)
    assert len(heard.missed_s) >= 3
    assert min(heard.missed_s) > 5.05


def test_a_program_that_never_comes_is_not_asked_more_often_than_any_other() -> None:
    with asyncio.Runner(loop_factory=Clock) as runner:
        _, asked_s = runner.run(listen(1e9, 1e9, 100))
    late = [at for at in asked_s if at > 50]
    assert len(late) == pytest.approx(50, abs=2)
