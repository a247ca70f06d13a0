"""The campaigns' faults are covered: before they begin, until they are healed, by one session at a time."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from chaos.errors import LeaseLost
from chaos.undo import AnyUndo, Behave, Continue, Thaw
from infra.plan import Environment
from infra.substrates.base import SubstrateError
from loadtests.protocol import Call, Done, Events, FaultPlan, Fleet, HostFault, Registers
from loadtests.record import Kind
from tests.verification import stories, test_runner
from tests.verification.made_up_session import Guards
from tests.verification.test_host_faults import Remembering, scene
from tests.verification.test_runner import MadeUpDeployment, request, small
from verification import runner
from verification.campaigns import bench as bench_module
from verification.campaigns import hosts
from verification.campaigns.faults import undo_of
from verification.campaigns.guarded import Guarded
from verification.campaigns.host_faults import KINDS
from verification.campaigns.hosts import HostTrials
from verification.campaigns.stack_view import AskError
from verification.history import History, Operation, value_of
from verification.kinds import AGENT_FAULTS
from verification.links import LinkError
from verification.plan import FaultTrial, HostTrial
from verification.progress import NoProgress

deployment = test_runner.deployment
guards = test_runner.guards
ENVIRONMENT = Environment(stack="made-up", chaos=True, fleet="", state_dir="")
UNDO = (Thaw(host="pc2", agents_up=0),)


def made() -> Guarded:
    return Guarded(ENVIRONMENT, stories.fleet())


# One session.


def test_nothing_is_opened_before_somebody_needs_it(guards: Guards) -> None:
    made().close()
    assert guards.events == []


def test_one_session_for_all_faults(guards: Guards) -> None:
    guards.swept = ("left by an earlier run: host-freeze pc2: healed",)
    guarded, said = made(), []
    guarded.say = said.append

    async def main() -> None:
        for _ in range(2):
            async with guarded.covered("one", ("host/pc2",), UNDO) as cover:
                cover.healed()

    asyncio.run(main())
    guarded.close()
    assert guards.events == ["open", *(["cover one", "end one healed"] * 2), "close"]
    assert said == list(guards.swept)


def test_what_ends_by_itself_needs_no_cover(guards: Guards) -> None:
    guarded = made()

    async def main() -> None:
        async with guarded.covered("gateway-kill pc2", (), ()) as cover:
            cover.healed()

    asyncio.run(main())
    assert guards.events == []


def test_a_cancelled_trial_ends_its_cover_and_stays_cancelled(guards: Guards) -> None:
    guards.loses = lambda when, _label: when == "during"  # a lost lease does not hide the cancelling

    begun = asyncio.Event()

    async def trial(guarded: Guarded) -> None:
        async with guarded.covered("one", ("host/pc2",), UNDO):
            begun.set()
            await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.create_task(trial(made()))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert guards.events == ["open", "cover one", "end one undone"]


def test_a_lost_session_makes_way_when_nobody_works_in_it(guards: Guards) -> None:
    guards.loses = lambda when, label: (when, label) == ("during", "first")
    guarded, said = made(), []
    guarded.say = said.append
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def trial(label: str) -> None:
        async with guarded.covered(label, ("host/pc2",), UNDO) as cover:
            if label == "second":
                begun.set()
                await go_on.wait()
            cover.healed()

    async def main() -> None:
        slow = asyncio.create_task(trial("second"))
        await begun.wait()
        with pytest.raises(LeaseLost):
            await trial("first")
        waiting = asyncio.create_task(trial("third"))
        await asyncio.sleep(0.02)
        assert "close" not in guards.events
        go_on.set()
        with pytest.raises(LeaseLost):
            await slow
        await waiting

    asyncio.run(main())
    guarded.close()
    assert guards.events[-7:] == [
        *("end first healed", "end second healed", "close", "open"),
        *("cover third", "end third healed", "close"),
    ]
    assert said == ["the lease had been lost: a new session was opened"]


# Faults of agents.


def fault(kind: str) -> FaultTrial:
    return FaultTrial(id="t", fault=kind, agent="one", home="pc2")


def test_every_fault_of_an_agent_that_can_outlive_us_has_its_undo() -> None:
    undos: dict[str, tuple[AnyUndo, ...]] = {kind: undo_of(fault(kind)) for kind in AGENT_FAULTS}
    assert undos == {
        "crash": (),
        "hang": (Continue(host="pc2", what="agent/one"),),
        "errors": (Behave(host="pc2", agent="one"),),
        "slow": (Behave(host="pc2", agent="one"),),
    }


def test_faults_of_agents_are_covered_from_before_the_signal_until_after_it(
    tmp_path, deployment: MadeUpDeployment, guards: Guards, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = deployment.substrate.signal

    def signal(host: str, target: str, name: str) -> None:
        guards.events.append(f"{name} {target}")
        send(host, target, name)

    monkeypatch.setattr(deployment.substrate, "signal", signal)
    deployment.restore = lambda _progress: guards.events.append("restore")  # type: ignore[method-assign]
    runner.run(request(tmp_path), deployment, NoProgress(), small())
    assert guards.events[0] == "open"
    assert guards.events[-2:] == ["close", "restore"]
    on: set[str] = set()
    stops = 0
    for event in guards.events:
        what, _, rest = event.partition(" ")
        if what == "cover":
            on.add(rest)
        elif what == "end":
            assert rest.endswith(" healed"), event
            on.remove(rest.removesuffix(" healed"))
        elif what in ("STOP", "CONT"):
            assert f"hang {rest}" in on, event
            stops += what == "STOP"
    assert stops >= 6
    covered = {label.partition(" ")[0] for label in guards.undos}
    assert covered == {"hang", "errors", "slow"}


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_trial_whose_lease_was_lost_is_void_and_the_run_goes_on(
    tmp_path, deployment: MadeUpDeployment, guards: Guards, when: str
) -> None:
    lost: list[str] = []

    def loses(at: str, label: str) -> bool:
        if at == when and label.startswith("hang") and not lost:
            lost.append(label)
            return True
        return False

    guards.loses = loses
    folder = runner.run(request(tmp_path), deployment, NoProgress(), small())
    assert guards.events.count("open") == 2
    history = History.read(folder)
    notes = (folder / "journal.jsonl").read_text(encoding="utf-8")
    assert notes.count('"trial void"') >= 1
    assert "the harness did not renew its lease" in notes
    assert "the lease had been lost: a new session was opened" in notes
    # The reserve took its place, and what was lost has no end: nothing of it is judged.
    trials = {operation.key: operation for operation in history.of("trial")}
    ended = [one for one in history.of("fault") if trials[trial_of(one)].completion is not None]
    assert len(ended) == 18
    (agent,) = {label.rpartition("/")[2] for label in lost}
    unended = [operation for operation in trials.values() if operation.completion is None]
    assert unended
    if when == "during":
        assert agent in {one.key for one in history.of("fault") if one not in ended}


def trial_of(operation: Operation) -> str:
    return value_of(operation.invoke, FaultPlan).trial


# Faults of hosts: a bench on which everything is seen at once.


class Probe:
    host = "pc2"

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.ended.set()
        self.asked: list[Any] = []

    async def ask(self, command: object) -> Done:
        self.asked.append(command)
        return Done(id=0)

    @contextlib.contextmanager
    def listening(self, *_: object):
        yield


class Tracker:
    def __init__(self) -> None:
        self.ready, self.done = asyncio.Event(), asyncio.Event()
        self.ready.set()
        self.done.set()
        self.serving = {"mainpc": 3}
        self.end_ns: int | None = None

    def listener(self) -> None: ...

    def blinded(self) -> None: ...

    def lost(self, *_: object) -> None: ...

    def untouched(self, *_: object) -> None: ...


class Recording(Remembering):
    """Writes down when it breaks something and when it mends it."""

    def __init__(self, events: list[str]) -> None:
        super().__init__()
        self.events = events
        self.deaf_to: set[str] = set()

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name in ("kill_host", "freeze_host", "cut", "signal", "restart_host", "thaw_host", "mend_links"):
            self.events.append(name)
            if name in self.deaf_to:
                raise SubstrateError("host mainpc", "it is broken", "mend it")
        return found


class Leadership:
    """Who leads etcd: the witness's member, until it is moved, if it can be."""

    def __init__(self, *, moves: bool = True) -> None:
        self.moves = moves
        self.led = ["witness"]

    async def leader(self, _members: object) -> str:
        return self.led[-1]

    async def lead(self, host: str, _members: object) -> None:
        if not self.moves:
            raise AskError("no member of etcd leads")
        self.led.append(host)


async def played(
    name: str, guards: Guards, substrate: Recording, monkeypatch, leadership: Leadership | None = None
) -> tuple[Any, list[str], list]:
    """One trial on a host through the campaign's own code; what it came to, its notes, its records."""
    kind = replace(KINDS[name], hold_s=0.0)
    notes: list[str] = []
    records: list[Any] = []
    probes = {"mainpc": Probe(), "pc2": Probe()}

    async def anew(host: str) -> None:
        probes[host] = guards.anew = Probe()  # type: ignore[attr-defined]

    bench = SimpleNamespace(
        probes=probes,
        revive=anew,
        round=lambda trial: f"run.{trial}",
        plan=stories.plan(),
        guarded=made(),
        substrate=substrate,
        members=("mainpc", "pc2", "witness"),
        note=lambda what, **facts: notes.append(f"{what} {facts.get('why', '')}".strip()),
        nemesis=SimpleNamespace(record=records.append),
    )
    trials = HostTrials(bench, 0.1)  # type: ignore[arg-type]
    monkeypatch.setattr(trials, "_view", leadership or Leadership())
    monkeypatch.setattr(hosts, "LED_FOR_S", 0.0)
    monkeypatch.setattr(hosts, "LINGER_S", 0.0)
    monkeypatch.setattr(hosts, "HostTracker", lambda *_: Tracker())
    monkeypatch.setitem(hosts.KINDS, name, kind)

    async def set_up(*_: object):
        return scene(substrate)

    async def revived(_host: str) -> None: ...

    monkeypatch.setattr(trials, "_scene", set_up)
    monkeypatch.setattr(trials, "_revive", revived)
    try:
        took = await trials._trial(HostTrial(id="t-1", fault=name))
    finally:
        bench.guarded.close()
    return took, notes, records


BREAKS = ("kill_host", "freeze_host", "cut", "signal")
MENDS = ("restart_host", "thaw_host", "mend_links", "signal")


@pytest.mark.parametrize("name", KINDS)
def test_faults_of_hosts_are_covered_until_they_are_healed(
    name: str, guards: Guards, monkeypatch: pytest.MonkeyPatch
) -> None:
    substrate = Recording(guards.events)
    took, _, records = asyncio.run(played(name, guards, substrate, monkeypatch))
    assert took is not None
    assert not substrate.broken()
    assert [(one.f, one.type) for one in records][-1] == ("trial", Kind.OK)
    events = guards.events
    if name == "gateway-kill":  # its supervisor starts it again, whoever lives
        assert events == ["open", "signal", "close"]
        return
    assert events[:2] == ["open", f"cover {name} mainpc"]
    assert events[-2:] == [f"end {name} mainpc healed", "close"]
    assert events[2] in BREAKS
    assert events[-3] in MENDS
    assert guards.undos[f"{name} mainpc"] == KINDS[name].undo(scene(substrate))


def faults_of(records: list[Any]) -> list[HostFault]:
    return [value_of(one, HostFault) for one in records if (one.f, one.type) == ("host-fault", Kind.INVOKE)]


@pytest.mark.parametrize(
    ("name", "led", "moves"),
    [("leader-cut", "mainpc", ["witness", "mainpc", "witness"]), ("host-cut", "witness", ["witness"])],
)
def test_a_loss_with_the_leader_moves_it_to_the_victim_and_back(
    name: str, led: str, moves: list[str], guards: Guards, monkeypatch: pytest.MonkeyPatch
) -> None:
    leadership = Leadership()
    took, _, records = asyncio.run(played(name, guards, Recording(guards.events), monkeypatch, leadership))
    assert took is not None
    assert [told.led for told in faults_of(records)] == [led]
    assert leadership.led == moves


def test_a_loss_with_the_leader_is_not_begun_where_the_victim_does_not_lead(
    guards: Guards, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = Leadership(moves=False)
    took, notes, records = asyncio.run(
        played("leader-kill", guards, Recording(guards.events), monkeypatch, stuck)
    )
    assert took is None
    assert "trial not begun etcd is led by witness" in notes
    assert faults_of(records) == []
    assert not {"kill_host", "restart_host"} & set(guards.events)


def test_when_both_hosts_restart_a_new_probe_sees_them_come_back(
    guards: Guards, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it asks the daemon, and nobody writes to registers whose writers are gone."""
    took, _, _ = asyncio.run(played("both-restart", guards, Recording(guards.events), monkeypatch))
    assert took is not None
    asked = guards.anew.asked  # type: ignore[attr-defined]
    registers = stories.plan().registers
    assert [type(one) for one in asked] == [Fleet, Registers, *[Call] * len(registers)]
    assert (asked[1].writes, asked[1].round) == (False, "run.t-1")
    assert tuple(one.agent for one in asked[2:]) == registers


def test_what_breaks_in_one_trial_makes_it_void_and_what_breaks_in_several_ends_the_turn(
    guards: Guards, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    bench = SimpleNamespace(
        plan=stories.plan(), substrate=None, note=lambda what, **facts: notes.append(facts["why"])
    )
    trials = HostTrials(bench, 0.1)  # type: ignore[arg-type]
    fates: list[object] = [
        LinkError("a", "b", "c"), TimeoutError(), 7.0,
        LinkError("d", "e", "f"), SubstrateError("d", "e", "f"), TimeoutError(), 9.0,
    ]  # fmt: skip

    async def fate(_trial: HostTrial) -> Any:
        told = fates.pop(0)
        if isinstance(told, Exception):
            raise told
        return told

    monkeypatch.setattr(trials, "_trial", fate)
    one = HostTrial(id="t-1", fault="host-kill")

    async def main() -> list[float | None]:
        return [await trials._made(one) for _ in range(6)]

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert fates == [9.0]
    assert notes == ["a: b; c", "it hung", "d: e; f", "d: e; f", "it hung"]


def test_a_trial_that_breaks_after_its_fault_has_no_end(
    guards: Guards, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would count as one in which the service did not come back."""
    ends: list[Any] = []

    async def broken(*_: object) -> None:
        raise LinkError("probe on pc2", "did not answer", "see its log")

    async def main() -> None:
        monkeypatch.setattr(HostTrials, "_seen_anew", broken)
        substrate = Recording(guards.events)
        monkeypatch.setattr(HostTrials, "_mark", lambda _self, _trial, kind: ends.append(kind))
        with pytest.raises(LinkError, match="did not answer"):
            await played("both-restart", guards, substrate, monkeypatch)

    asyncio.run(main())
    assert ends == [Kind.INVOKE]


def test_a_daemon_that_has_just_come_back_is_asked_again_within_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bench_module, "OBEY_EVERY_S", 0.001)

    class Late(Probe):
        refusals = 3

        async def ask(self, command: object) -> Done:
            await super().ask(command)
            self.refusals -= 1
            return Done(id=0, error="refused" if self.refusals >= 0 else None)

    probe = Late()
    asyncio.run(bench_module.obeyed(probe, Events()))  # type: ignore[arg-type]
    assert len(probe.asked) == 4
    probe.refusals = 10**9
    with pytest.raises(LinkError, match="refused"):
        asyncio.run(bench_module.obeyed(probe, Events(), 0.02))  # type: ignore[arg-type]


def test_a_trial_on_a_host_whose_lease_was_lost_has_no_end(
    guards: Guards, monkeypatch: pytest.MonkeyPatch
) -> None:
    guards.loses = lambda when, _label: when == "during"
    substrate = Recording(guards.events)
    took, notes, records = asyncio.run(played("host-freeze", guards, substrate, monkeypatch))
    assert took is None
    assert any(note.startswith("trial void") and "did not renew its lease" in note for note in notes)
    assert [(one.f, one.type) for one in records if one.f == "trial"] == [("trial", Kind.INVOKE)]
    assert not substrate.broken()


def test_a_trial_on_a_host_is_not_begun_without_its_cover(
    guards: Guards, monkeypatch: pytest.MonkeyPatch
) -> None:
    guards.loses = lambda when, _label: when == "before"
    substrate = Recording(guards.events)
    took, notes, _ = asyncio.run(played("host-kill", guards, substrate, monkeypatch))
    assert (took, guards.events) == (None, ["open", "refused host-kill mainpc", "close"])
    assert any(note.startswith("trial void") for note in notes)


def test_a_host_that_the_campaign_cannot_heal_is_left_to_the_undo(
    guards: Guards, monkeypatch: pytest.MonkeyPatch
) -> None:
    substrate = Recording(guards.events)
    substrate.deaf_to.add("thaw_host")
    with pytest.raises(LinkError, match="host-freeze had to be undone by force"):
        asyncio.run(played("host-freeze", guards, substrate, monkeypatch))
    assert guards.events[-2:] == ["end host-freeze mainpc undone", "close"]
