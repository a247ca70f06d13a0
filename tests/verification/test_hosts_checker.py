"""What checker and tracker make of losses of hosts that were made up: known times, known faults of trials."""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec
import pytest

from loadtests.protocol import Acted, Event, HostFault, Intent, Picture, RegisterWish, SwitchOver
from loadtests.record import Kind, Record
from reports.model import Verdict
from tests.verification import stories
from verification import timelines
from verification.campaigns.host_tracker import HostTracker
from verification.checkers import hosts, switches
from verification.estimators import judge
from verification.history import History
from verification.kinds import KINDS
from verification.plan import RunPlan

PLAN = stories.plan(agents=8)
AGENTS = PLAN.registers


@dataclass(frozen=True)
class Loss:
    """One trial on a host; times in milliseconds after the fault, None: never."""

    number: int = 0
    fault: str = "host-kill"
    proved_ms: float | None = 20.0
    left_ms: float | None = 1300.0
    whole_ms: float | None = 1500.0
    served_ms: float | None = 1600.0
    state_ms: float | None = 1900.0
    state_value: int = 4
    took_over_ms: float = 1320.0
    back_again_ms: float | None = None
    end_ms: float = 8000.0
    injected: bool = True
    finished: bool = True
    calls_before: int = 4
    unserved_before: int = 0
    writes_before: int = 5
    loses: bool = True
    led: str = "witness"

    def records(self) -> list[Record]:
        """As the probes of pc2 and the harness would have written them."""
        at, host = 100_000.0 * (self.number + 1), "pc2"
        trial = f"{self.fault}-{self.number:03d}"
        told = HostFault(trial=trial, fault=self.fault, victim="mainpc", served=8, led=self.led)
        pair, lines = (
            stories.pair,
            [stories.record(f"trial-{trial}", Kind.INVOKE, "trial", trial, None, at - 900)],
        )
        sent = Kind.OK if self.injected else Kind.FAIL
        lines += pair(
            f"host-fault-{trial}", "host-fault", trial, at, at + 5, begun=told, kind=sent, ended=told
        )
        if self.proved_ms is not None:
            lines += pair(
                f"proof-{trial}", "host-proof", trial, at + 5, at + self.proved_ms, begun=told, ended=told
            )
        before = Picture(serving={"mainpc": 8 - self.unserved_before}, unserved=self.unserved_before)
        pictures = [(-800.0, before)]
        if self.left_ms is not None:
            pictures.append((self.left_ms, Picture(serving={}, unserved=8)))
        if self.whole_ms is not None:
            pictures.append((self.whole_ms, Picture(serving={"pc2": 8})))
        if self.back_again_ms is not None:
            pictures.append((self.back_again_ms, Picture(serving={"mainpc": 1, "pc2": 7})))
        for when, picture in pictures:
            lines += pair(f"fleet-{host}", "fleet", None, at + when - 1, at + when, ended=picture, host=host)
        for agent in AGENTS:
            lines += self._agent(agent, trial, at, host)
        event = Event(
            seq=self.number,
            time_ns=stories.START_NS + round((at + self.took_over_ms) * 1e6),
            event="takeover",
        )
        lines += pair(f"event-{host}", "event", None, at + 1330, at + 1340, ended=[event], host=host)
        if self.finished:
            lines.append(stories.record(f"trial-{trial}", Kind.OK, "trial", trial, None, at + self.end_ms))
        return sorted(lines, key=lambda line: line.time_ns)

    def _agent(self, agent: str, trial: str, at: float, host: str) -> list[Record]:
        pair, lines, key = stories.pair, [], f"{agent}/{host}/run.{trial}"
        intent, process = Intent(method="recall", intended_ns=0), f"call-{host}-{agent}"
        for i in range(self.calls_before):
            begin = at - 700 + 40 * i
            lines += pair(process, "call", agent, begin, begin + 2, begun=intent, host=host)
        # This one began before the fault was proved: it says nothing.
        lines += pair(process, "call", agent, at + 4, at + 6, begun=intent, host=host)
        if self.served_ms is not None:
            for i in range(4):
                end = at + self.served_ms + 40 * i
                lines += pair(process, "call", agent, end - 3, end, begun=intent, host=host)
        for i in range(self.writes_before):
            begin = at - 600 + 100 * i
            acted = Acted(value=i, host="mainpc", epoch=1, incarnation=1)
            lines += pair(
                f"write-{agent}",
                "write",
                key,
                begin,
                begin + 5,
                begun=RegisterWish(value=i),
                ended=acted,
                host=host,
            )
        if self.state_ms is not None:
            acted = Acted(value=self.state_value, host="pc2", epoch=2, incarnation=1)
            end = at + self.state_ms
            lines += pair(
                f"read-{agent}", "read", key, end - 5, end, begun=RegisterWish(), ended=acted, host=host
            )
        return lines


def found(*losses: Loss) -> tuple[hosts.HostOutcome, ...]:
    return hosts.outcomes(PLAN, History.of_records([line for loss in losses for line in loss.records()]))


def test_every_instant_is_the_later_one() -> None:
    (one,) = found(Loss())
    assert one.void is None
    assert (one.took_effect_ms, one.left_ms, one.answers_ms) == (20.0, 1300.0, 1500.0)
    assert (one.served_ms, one.validated_ms) == (1600.0, 1680.0)
    assert (one.state_ms, one.synchronising_ms, one.total_ms) == (1900.0, pytest.approx(300.0), 1900.0)
    assert one.decided_ms == pytest.approx(1320.0)


VOIDS = [
    ({"injected": False}, "not injected"),
    ({"proved_ms": None}, "no proof"),
    ({"finished": False}, "not brought to its end"),
    ({"calls_before": 2}, "did not succeed"),
    ({"unserved_before": 1}, "not everybody was served"),
    ({"writes_before": 0}, "no write had been acknowledged"),
]


@pytest.mark.parametrize(("changes", "reason"), VOIDS)
def test_void(changes: dict[str, object], reason: str) -> None:
    (one,) = found(replace(Loss(), **changes))
    assert one.void is not None
    assert reason in one.void


def test_a_loss_with_the_leader_is_one_whose_victim_led() -> None:
    losses = [
        Loss(number=0, fault="leader-cut", led="mainpc"),
        Loss(number=1, fault="leader-cut", led="witness"),
        Loss(number=2, fault="leader-kill", led=""),
        Loss(number=3, fault="host-cut", led="mainpc"),
    ]
    history = History.of_records([line for loss in losses for line in loss.records()])
    leading = hosts.with_the_leader(PLAN, history)
    assert [(trial.label, trial.value) for trial in leading.trials] == [("leader-cut-000 mainpc", 1900.0)]
    assert [void.reason for void in leading.voids] == ["the victim's member of etcd did not lead"] * 2
    assert [trial.label for trial in hosts.in_all(PLAN, history).trials] == ["host-cut-003 mainpc"]


LATE = [
    ({"left_ms": None, "whole_ms": None}, ("left_ms", "served_ms")),
    ({"whole_ms": None}, ("served_ms", "answers_ms")),
    ({"served_ms": None}, ("served_ms", "validated_ms")),
    ({"state_ms": None}, ("state_ms", "total_ms")),
    # What was read is older than what had been acknowledged.
    ({"state_value": 3}, ("state_ms", "total_ms")),
    # The lost host stands in the answers again: it has not left them.
    ({"back_again_ms": 3000.0}, ("left_ms", "served_ms")),
]


@pytest.mark.parametrize(("changes", "missing"), LATE)
def test_what_never_came_is_an_exceedance(changes: dict[str, object], missing: tuple[str, ...]) -> None:
    (one,) = found(replace(Loss(), **changes))
    assert one.void is None
    assert all(getattr(one, name) is None for name in missing)
    history = History.of_records(replace(Loss(), **changes).records())
    assert [trial.kept for trial in hosts.in_all(PLAN, history).trials] == [False]


@pytest.mark.parametrize(("limit", "kept"), [(2999.0, True), (3001.0, False)])
def test_each_limit_is_the_catalogues(limit: float, kept: bool) -> None:
    loss = Loss(left_ms=limit, whole_ms=limit + 100, served_ms=limit + 200, state_ms=limit + 300)
    history = History.of_records(loss.records())
    assert [trial.kept for trial in hosts.in_all(PLAN, history).trials] == [kept]
    assert hosts.detection(PLAN, history).trials[0].value == limit


def verdict(plan: RunPlan, history: History) -> Verdict:
    return judge(plan.catalogue.entry("RL-5"), plan.rule("RL-5"), hosts.in_all(plan, history)).verdict


def test_fifty_nine_clean_trials_pass_and_a_fifth_of_late_ones_fails() -> None:
    kinds = KINDS["RL-5"]
    clean = [Loss(number=i, fault=kinds[i % 3]) for i in range(59)]
    late = [replace(loss, served_ms=5100.0) if i % 5 == 0 else loss for i, loss in enumerate(clean)]
    assert verdict(PLAN, History.of_records([r for loss in clean for r in loss.records()])) is Verdict.PASS
    assert verdict(PLAN, History.of_records([r for loss in late for r in loss.records()])) is Verdict.FAIL


def test_a_time_line_of_each_kind_in_rising_phases() -> None:
    losses = [Loss(number=i, fault=kind) for i, kind in enumerate(KINDS["RL-5"])]
    history = History.of_records([r for loss in losses for r in loss.records()])
    lines = timelines.slowest(PLAN, history, ("RL-5",))
    assert len(lines) == 3
    for line in lines:
        assert [phase.name for phase in line.phases] == ["detect", "decide", "promote", "reroute", "validate"]
        ends = [phase.end_ms for phase in line.phases]
        assert ends == sorted(ends)
        assert ends[-1] == pytest.approx(1680.0)
    assert timelines.slowest(PLAN, history, ("RL-3",)) == []


def test_other_faults_return_from_their_healing_on() -> None:
    loss = Loss(fault="link-cut", left_ms=None, whole_ms=None, served_ms=600.0)
    told = HostFault(trial="link-cut-000", fault="link-cut", victim="mainpc", served=8)
    heal = stories.pair("heal", "host-heal", told.trial, 100_500.0, 100_510.0, begun=told, ended=told)
    history = History.of_records([*loss.records(), *heal])
    (trial,) = hosts.returns(PLAN, history).trials
    assert trial.value == pytest.approx(0.1)  # answered 600 ms after the fault, healed after 500
    assert hosts.in_all(PLAN, history).trials == ()


# The tracker stops where the checker finds everything.


@pytest.mark.parametrize(
    ("changes", "complete"),
    [
        ({}, True),
        ({"whole_ms": None}, False),
        ({"served_ms": None}, False),
        ({"state_ms": None}, False),
        ({"state_value": 3}, False),
    ],
)
def test_the_tracker_ends_when_there_is_nothing_more_to_see(changes: dict, complete: bool) -> None:
    loss = replace(Loss(), **changes)
    tracker = HostTracker(AGENTS, 0, 8)
    take, lost = tracker.listener(), False
    for record in loss.records():
        if record.host is None:
            continue
        if not lost and record.time_ns >= stories.START_NS + 100_020 * stories.MS:
            assert tracker.ready.is_set()
            tracker.lost("mainpc", stories.START_NS + 100_020 * stories.MS)
            lost = True
        take(record)
    assert tracker.done.is_set() is complete
    assert (tracker.end_ns is not None) is complete


def test_the_tracker_begins_anew_after_the_healing_and_wants_to_see_service_again() -> None:
    records = [record for record in Loss().records() if record.host is not None]
    begun_ns = stories.START_NS + 100_020 * stories.MS
    tracker = HostTracker(AGENTS, 0, 8)
    for record in records:
        if record.time_ns < begun_ns:
            tracker.listener()(record)
    tracker.lost("mainpc", begun_ns)
    late = [record for record in records if record.time_ns >= begun_ns]
    for record in late:
        tracker.listener()(record)
    assert tracker.done.is_set()
    tracker.untouched(late[-1].time_ns)
    assert not tracker.done.is_set()
    assert tracker.end_ns is None
    shift_ns = late[-1].time_ns - late[0].time_ns + stories.MS
    for record in late:  # the same calls again, later
        tracker.listener()(msgspec.structs.replace(record, time_ns=record.time_ns + shift_ns))
    assert tracker.done.is_set()


# Switch-overs.


@pytest.mark.parametrize(
    ("at_ms", "kind", "total", "failed"),
    [
        (50.0, Kind.OK, 1, 0),
        (50.0, Kind.FAIL, 1, 1),
        (50.0, Kind.INFO, 1, 1),
        (-200.0, Kind.FAIL, 1, 1),
        (-400.0, Kind.FAIL, 0, 0),
        (300.0, Kind.FAIL, 1, 1),
        (500.0, Kind.FAIL, 0, 0),
    ],
)
def test_calls_around_a_switch_over(at_ms: float, kind: Kind, total: int, failed: int) -> None:
    told = SwitchOver(home="mainpc", to="pc2")
    at = 1000.0
    records = [
        *stories.pair("s", "switchover", "s-0", at, at + 100, begun=told, ended=told),
        *stories.pair("c", "call", "agent-0", at + at_ms, at + at_ms + 5, kind=kind, host="pc2"),
    ]
    counts = switches.calls(PLAN, History.of_records(records)).counts
    assert counts == ((("all", switches.Counts(total, failed)),) if total else ())


def test_a_switch_over_that_was_refused_is_void() -> None:
    told = SwitchOver(home="mainpc", to="pc2")
    records = stories.pair("s", "switchover", "s-0", 0, 100, begun=told, kind=Kind.FAIL, ended=told)
    assert switches.calls(PLAN, History.of_records(records)).voids
