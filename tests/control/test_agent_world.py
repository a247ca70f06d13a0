"""The agent's life cycle against a model of the world that is late, lies low and loses answers."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.control.agent import MS, AgentState, Event, Fork, Policy, Publish, Reconcile, Signal, step
from services.control.agent_table import EventKind, Phase

POLICY = Policy()
HEARD = (EventKind.PONG, EventKind.MISS, EventKind.MISS_STOPPED, EventKind.LEAVING)


class World(RuleBasedStateMachine):
    """Processes, a zygote whose answers may get lost, and the agent that is decided about."""

    @initialize(floor=st.integers(1, 5))
    def begin(self, floor: int) -> None:
        self.now_ns = 10**12
        self.state = AgentState(floor=floor)
        self.live: set[int] = set()
        self.dead: set[int] = set()
        self.doomed: set[int] = set()  # SIGKILL was sent
        self.ready: set[int] = set()
        self.forks: list[int] = []
        self.searches: list[int] = []
        self.exits: list[int] = []
        self.highest_published = 0
        self.published = ("down", 0)
        self.shown = self.published

    def feed(self, kind: EventKind, incarnation: int = 0) -> None:
        self.now_ns += 1
        self.state, actions = step(self.state, Event(kind, incarnation), self.now_ns, POLICY)
        for action in actions:
            match action:
                case Fork(number):
                    assert not self.forks, "two forks at once"
                    assert not self.searches, "a fork while another's outcome is unknown"
                    self.forks.append(number)
                case Reconcile(number):
                    self.searches.append(number)
                case Signal(number, final):
                    assert number in self.live | self.dead
                    if final:
                        self.doomed.add(number)
                case Publish():
                    self.shown = (self.state.published, self.state.incarnation)

    # The operator.

    @rule()
    def start(self) -> None:
        self.feed(EventKind.START)

    @rule()
    def stop(self) -> None:
        self.feed(EventKind.STOP)

    @rule()
    def replace(self) -> None:
        self.feed(EventKind.REPLACE)

    # The zygote.

    @precondition(lambda self: self.forks)
    @rule()
    def fork_succeeds(self) -> None:
        number = self.forks.pop()
        self.live.add(number)
        self.feed(EventKind.FORKED, number)

    @precondition(lambda self: self.forks)
    @rule()
    def fork_fails(self) -> None:
        self.feed(EventKind.FORK_FAILED, self.forks.pop())

    @precondition(lambda self: self.forks)
    @rule(made=st.booleans())
    def fork_answer_is_lost(self, made: bool) -> None:
        number = self.forks.pop()
        if made:
            self.live.add(number)
        self.feed(EventKind.FORK_UNKNOWN, number)

    @precondition(lambda self: self.searches)
    @rule()
    def search_ends(self) -> None:
        number = self.searches.pop()
        self.feed(EventKind.ADOPTED if number in self.live else EventKind.ABSENT, number)

    @rule()
    def zygote_is_back(self) -> None:
        self.feed(EventKind.FORK_POSSIBLE)

    # The processes.

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def process_ends(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.live)))
        self.live.discard(number)
        self.dead.add(number)
        self.exits.append(number)

    @precondition(lambda self: self.exits)
    @rule()
    def exit_is_seen(self) -> None:
        self.feed(EventKind.EXITED, self.exits.pop(0))

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def process_is_validated(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.live)))
        self.ready.add(number)
        self.feed(EventKind.VALIDATED, number)

    @precondition(lambda self: self.live | self.dead)
    @rule(data=st.data(), kind=st.sampled_from(HEARD))
    def process_is_heard(self, data: st.DataObject, kind: EventKind) -> None:
        self.feed(kind, data.draw(st.sampled_from(sorted(self.live | self.dead))))

    # Time.

    @rule(passed_ms=st.sampled_from([1, 100, 1000, 11_000]))
    def time_passes(self, passed_ms: int) -> None:
        self.now_ns += passed_ms * MS
        self.feed(EventKind.TIMER)

    # What must hold.

    @invariant()
    def at_most_one_process(self) -> None:
        assert len(self.live) <= 1, self.live

    @invariant()
    def no_fork_while_a_process_lives(self) -> None:
        assert not (self.live and self.forks)

    @invariant()
    def incarnations_only_rise(self) -> None:
        assert self.state.incarnation >= self.highest_published
        self.highest_published = self.state.incarnation
        assert all(number > old for number in self.forks for old in self.live | self.dead)

    @invariant()
    def the_record_is_what_was_published(self) -> None:
        if self.shown != self.published:
            self.published = self.shown
        assert self.shown == (self.state.published, self.state.incarnation)

    @invariant()
    def up_means_validated_and_not_doomed(self) -> None:
        if self.state.phase is Phase.UP:
            assert self.state.incarnation in self.ready
            assert self.state.incarnation not in self.doomed

    @invariant()
    def a_deadline_stands_wherever_only_time_helps(self) -> None:
        waits = {Phase.STARTING, Phase.UNHEALTHY, Phase.DRAINING, Phase.KILLED, Phase.BACKOFF}
        assert (self.state.deadline_ns is not None) == (self.state.phase in waits)

    def teardown(self) -> None:
        """Once the world behaves, what is wanted comes up and what is not wanted goes."""
        if not hasattr(self, "state"):
            return
        for _ in range(20):
            settled = Phase.UP if self.state.wanted else Phase.DOWN
            if self.state.phase is settled and not self.exits:
                break
            self.now_ns += 40_000 * MS
            if self.exits:
                self.exit_is_seen()
            elif self.forks:
                self.fork_succeeds()
            elif self.searches:
                self.search_ends()
            elif self.state.phase is Phase.STARTING:
                self.ready.add(self.state.incarnation)
                self.feed(EventKind.VALIDATED, self.state.incarnation)
            elif self.state.phase is Phase.UNHEALTHY:
                self.feed(EventKind.PONG, self.state.incarnation)
            elif self.state.phase in (Phase.DRAINING, Phase.KILLED):
                if self.live:
                    self.dead |= self.live
                    self.exits += sorted(self.live)
                    self.live.clear()
            else:
                self.feed(EventKind.TIMER)
            self.at_most_one_process()
        assert self.state.phase is (Phase.UP if self.state.wanted else Phase.DOWN), self.state


TestWorld = World.TestCase
TestWorld.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
