"""A soak on a stack that stands: a host is lost and comes back, the soak is stopped and goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from infra.substrates.process import ProcessSubstrate
from loadtests.soak_lines import Seen
from reports import render
from reports.model import RunState, Verdict
from tests.chaos.conftest import Standing, stand
from verification import soak_run
from verification.soak_run import Graded, SoakError
from verification.soak_status import status_of

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.timeout(600)]
HOSTS = ("a", "b")


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    yield from stand(tmp_path_factory.mktemp("soak"))


def test_a_soak_survives_what_it_watches(standing: Standing, tmp_path: Path) -> None:
    substrate, out = ProcessSubstrate(standing.environment), tmp_path / "out"

    def start(*, new: bool = False) -> soak_run.Begun:
        return soak_run.start(standing.environment, standing.fleet, substrate, out, new=new)

    def until(what: str, right: Callable[[Graded], bool], timeout_s: float = 120.0) -> Graded:
        end = time.monotonic() + timeout_s
        while not right(graded := soak_run.grade(begun.folder, substrate, HOSTS)):
            assert time.monotonic() < end, f"{what}: {status_of(graded)}"
            time.sleep(1.0)
        return graded

    begun = start()
    assert (begun.fresh, begun.ran) == (True, False)
    assert start() == soak_run.Begun(begun.folder, fresh=False, ran=True)

    # A host is lost: the other one goes on watching, and sees who is served by nobody.
    until("both watch", lambda one: [h.lookups > 0 for h in one.judged.hosts] == [True, True])
    substrate.kill_host("b")
    time.sleep(8.0)
    with pytest.raises(SoakError, match="host b is not up"):
        start()
    substrate.restart_host("b")
    graded = until("b watches again", lambda one: [h.starts for h in one.judged.hosts] == [1, 2])
    graded = until("it is over", lambda one: _up_since(one, 25.0))
    (outage, *others) = graded.judged.watched.episodes
    assert "b was lost" in outage.cause
    assert "five, four" in outage.cause
    assert 7.0 < outage.length_s < 120.0
    assert graded.judged.watched.gaps == (), others
    assert graded.run.state is RunState.RUNNING
    told = {one.id: one for one in graded.judged.verdicts.criteria}
    assert told["RL-1"].verdict is Verdict.INCONCLUSIVE
    assert "day 0.0 of 7" in (told["RL-1"].reason or "")
    assert told["RL-7"].verdict is Verdict.FAIL
    assert told["SD-3"].exceedances == 0
    assert all(one.calls > one.calls_failed for one in graded.judged.hosts)
    assert _cost(begun.folder / "soak" / "a.jsonl") < 0.02

    # Stopped, it keeps what it saw; started again it goes on, and what is between is a gap.
    stopped = soak_run.stop(begun.folder, substrate, HOSTS)
    assert (stopped.running, stopped.run.state) == ((), RunState.INTERRUPTED)
    assert substrate.inspect_unit("a", soak_run.UNIT) is None
    time.sleep(7.0)
    assert start() == soak_run.Begun(begun.folder, fresh=False, ran=False)
    graded = until("it goes on", lambda one: bool(one.judged.watched and one.judged.watched.gaps))
    assert graded.judged.watched.gaps[0].length_s > 5.0
    assert graded.judged.watched.episodes[0] == outage

    # It is a run like any other.
    rendered = render.render(begun.folder)
    assert rendered.run.profile == "soak"
    assert {one.id for one in rendered.criteria if one.planned} == {"SD-3", "RL-1", "RL-7"}
    assert "Outages of the soak" in (begun.folder / "report.html").read_text(encoding="utf-8")
    assert soak_run.judge_history(begun.folder) == graded.judged.verdicts

    # Another one leaves it as it is.
    other = start(new=True)
    assert other.fresh
    assert soak_run.find(standing.environment.stack, out) == other.folder
    assert soak_run.read_run(begun.folder).state is RunState.INTERRUPTED
    soak_run.stop(other.folder, substrate, HOSTS)
    substrate.close()


def _up_since(graded: Graded, length_s: float) -> bool:
    watched = graded.judged.watched
    if watched is None or not watched.episodes:
        return False
    last = watched.episodes[-1]
    return watched.end_s - last.start_s - last.length_s > length_s


def _cost(path: Path) -> float:
    """CPU time over time, between the first and the last line of the first life that has several."""
    lines = [
        msgspec.json.decode(line, type=Seen) for line in path.read_bytes().splitlines() if b'"seen"' in line
    ]
    mine = [one for one in lines if one.life == lines[0].life]
    return (mine[-1].cpu_ms - mine[0].cpu_ms) * 1e6 / (mine[-1].end_ns - mine[0].end_ns)
