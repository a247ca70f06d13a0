"""A fault of somebody else under cover: its undo is on disk first, performed only when its maker fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chaos import session as sessions
from chaos.clearing import sweep
from chaos.errors import ChaosError, LeaseLost, NotHealed
from chaos.files import files_of
from chaos.ledger import Ledger, Opened
from chaos.session import Session
from chaos.undo import Thaw
from tests.chaos import test_session
from tests.chaos.recorder import make_stage
from tests.chaos.test_session import opened

UNDO = (Thaw(host="a", agents_up=0),)
volatile = test_session.volatile
unguarded = test_session.unguarded
pytestmark = pytest.mark.usefixtures("unguarded")


def on_disk(session: Session) -> tuple[Opened, ...]:
    return Ledger(files_of(session.stage.environment).ledger).read().open


def test_the_undo_is_on_disk_before_and_closed_after_the_makers_healing(tmp_path: Path) -> None:
    session, recorder = opened(tmp_path)
    with session:
        with session.cover("host-freeze a", ("host/a",), UNDO) as cover:
            (entry,) = on_disk(session)
            assert (entry.fault, entry.targets, entry.undo) == ("host-freeze a", ("host/a",), UNDO)
            assert recorder.calls == []
            cover.healed()
        assert on_disk(session) == ()
    assert recorder.calls == ["close"]  # the maker's healing was enough


def test_covers_do_not_admit_and_do_not_wait_for_each_other(tmp_path: Path) -> None:
    session, _ = opened(tmp_path, chaos_hosts=0)
    with (
        session,
        session.cover("one", ("host/a",), UNDO) as one,
        session.cover("two", ("host/a",), UNDO) as two,
    ):
        assert [entry.fault for entry in on_disk(session)] == ["one", "two"]
        two.healed()
        two.end()
        assert [entry.fault for entry in on_disk(session)] == ["one"]
        one.healed()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_maker_that_fails_has_it_undone(tmp_path: Path, error: type[BaseException]) -> None:
    session, recorder = opened(tmp_path)
    with session:
        recorder.frozen.add("a")
        with pytest.raises(error), session.cover("host-freeze a", ("host/a",), UNDO):
            raise error
        assert (recorder.frozen, recorder.calls, on_disk(session)) == (set(), ["thaw_host a"], ())


def test_a_maker_that_does_not_say_that_it_healed_has_it_undone(tmp_path: Path) -> None:
    session, recorder = opened(tmp_path)
    with session:
        with session.cover("host-freeze a", ("host/a",), UNDO):
            recorder.frozen.add("a")
        assert (recorder.frozen, on_disk(session)) == (set(), ())


def test_a_lost_lease_refuses_before_anything_is_done(tmp_path: Path) -> None:
    session, recorder = opened(tmp_path)
    with session:
        files_of(session.stage.environment).lease.unlink()
        with pytest.raises(LeaseLost, match="did not renew its lease"):
            session.cover("host-freeze a", ("host/a",), UNDO)
        assert (recorder.calls, on_disk(session)) == ([], ())


def test_a_lease_that_is_lost_meanwhile_is_told_at_the_end(tmp_path: Path) -> None:
    session, recorder = opened(tmp_path)
    with session:
        lease = files_of(session.stage.environment).lease
        cover = session.cover("host-freeze a", ("host/a",), UNDO)
        lease.unlink()
        cover.healed()
        with pytest.raises(LeaseLost):
            cover.end()
        assert (recorder.calls, on_disk(session)) == ([], ())


def test_what_the_maker_says_comes_before_a_lost_lease(tmp_path: Path) -> None:
    session, recorder = opened(tmp_path)

    def fail() -> None:
        files_of(session.stage.environment).lease.unlink()
        raise RuntimeError("the probe is gone")

    with (
        session,
        pytest.raises(RuntimeError, match="the probe is gone"),
        session.cover("host-freeze a", ("host/a",), UNDO),
    ):
        fail()
    assert recorder.calls == ["thaw_host a", "close"]


def test_an_undo_that_fails_is_said_and_stays_on_the_ledger(tmp_path: Path) -> None:
    session, recorder = opened(tmp_path)
    recorder.broken.add("thaw_host")
    told = "host-freeze a: it cannot be undone: host a: it is broken; run threenines chaos panic"
    with session, pytest.raises(NotHealed, match=told):
        session.cover("host-freeze a", ("host/a",), UNDO).end()
    assert [entry.fault for entry in on_disk(session)] == ["host-freeze a"]
    recorder.broken.clear()
    again, _ = make_stage(tmp_path)
    again.environment = session.stage.environment
    assert sweep(again) == ("left by an earlier run: host-freeze a: healed",)


def test_closing_undoes_what_is_still_covered(tmp_path: Path) -> None:
    session, recorder = opened(tmp_path)
    first = session.cover("first", ("host/a",), UNDO)
    second = session.cover("second", ("host/b",), (Thaw(host="b", agents_up=0),))
    second.healed()
    session.close()
    assert recorder.calls == ["thaw_host a", "close"]
    assert on_disk(session) == ()
    with pytest.raises(LeaseLost):
        first.end()  # too late: it is undone already, and not undone again
    assert recorder.calls == ["thaw_host a", "close"]


def test_closing_says_what_of_it_is_left(tmp_path: Path) -> None:
    session, recorder = opened(tmp_path)
    session.cover("host-freeze a", ("host/a",), UNDO)
    recorder.broken.add("thaw_host")
    with pytest.raises(NotHealed, match="not undone: host-freeze a; run threenines chaos panic"):
        session.close()


def test_a_guard_that_has_ended_is_started_anew_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, _ = opened(tmp_path)
    started: list[int] = []
    monkeypatch.setattr(sessions, "guard_pid", lambda files: os.getpid() if started else None)
    monkeypatch.setattr(sessions, "start_guard", lambda charge, files: started.append(1))
    with session:
        with session.cover("host-freeze a", ("host/a",), UNDO) as cover:
            assert started == [1]
            cover.healed()

        def refuses(charge: object, files: object) -> None:
            raise ChaosError("stack", "the guard does not start", "see its log")

        started.clear()
        monkeypatch.setattr(sessions, "start_guard", refuses)
        with pytest.raises(ChaosError, match="does not start"):
            session.cover("host-freeze a", ("host/a",), UNDO)
        assert on_disk(session) == ()


def test_a_disk_that_refuses_the_undo_refuses_the_fault(tmp_path: Path) -> None:
    session, _ = opened(tmp_path)
    with session:
        ledger = files_of(session.stage.environment).ledger
        ledger.unlink()
        ledger.mkdir()
        with pytest.raises(ChaosError, match="cannot be kept there"):
            session.cover("host-freeze a", ("host/a",), UNDO)
        ledger.rmdir()
