"""One simulated host: what hostd's shell does around the same core. Timers, requests, crashes, stops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from services.control.domains import Known, Unit
from services.control.failback import FailBackPolicy
from services.control.holdings import (
    Action,
    Effect,
    Fence,
    Noticed,
    Ownership,
    OwnershipPolicy,
    Publish,
    ReadAll,
    Release,
    StandBys,
    Transact,
    View,
    begin,
    speaks_again,
)
from services.control.holdings import Event as OwnEvent
from services.control.lease import (
    Acked,
    Ambiguous,
    Failed,
    Lease,
    LeasePhase,
    Refused,
    Stop,
    Tick,
    patience_ns,
)
from services.control.ownership import wake_ns
from services.control.recovery import RecoveryPolicy
from services.control.stances import Stance
from services.control.suspicion import SUSPICION, suspected
from verification.simulation.agents import Agents, Page
from verification.simulation.checkers import Checkers
from verification.simulation.etcd_model import ACKED, FAILED, Answer, Cluster
from verification.simulation.fleet import Fleet
from verification.simulation.household import GRACE_NS, Household
from verification.simulation.variant import Variant
from verification.simulation.world import MS, Clock, Event, S, World


@dataclass(frozen=True, slots=True)
class Setting:
    """What every node knows: the fleet and the policies."""

    fleet: Fleet
    policy: OwnershipPolicy
    failback: FailBackPolicy
    recovery: RecoveryPolicy


FAR_NS = 10_000_000 * S
RESTART_NS = 500 * MS
"""Until the host's supervisor starts a hostd again that has ended by itself."""


class Node:
    """The host `name`: its clock, its hostd, its agents."""

    def __init__(
        self,
        name: str,
        world: World,
        cluster: Cluster,
        clock: Clock,
        checkers: Checkers,
        setting: Setting,
        variant: Variant,
    ) -> None:
        self.name = name
        self.world = world
        self.cluster = cluster
        self.clock = clock
        self.checkers = checkers
        self.setting = setting
        self.variant = variant
        self.policy = variant.policy(setting.policy)
        plain = type(variant).clock is Variant.clock
        self.local: Callable[[], int] = self._by_boot_clock if plain else self._by_variant
        """What this host takes for the time."""
        self.lives = 0
        self.up = False  # the machine
        self.running = False  # hostd
        self.frozen = 0
        self.hostd_frozen = 0
        self.pause_next = False
        self.own: Ownership | None = None
        self.agents = Agents(self)
        self.household = Household(self, self.agents)
        self.suspected: Mapping[str, int] = {}
        self.seen_true_ns: dict[str, int] = {}
        self.page_lag: list[tuple[Callable[..., None], tuple[object, ...]]] = []
        self._floor_epoch = 0
        self._adopting = False
        self._stirred = False
        self._request = 0
        self._done = 0  # number of the transaction that was performed last
        self._request_timeout: Event | None = None
        self.sent_true_ns = 0
        self._endpoint = 0
        self._wake: Event | None = None
        self._backlog: list[tuple[Callable[..., None], tuple[object, ...]]] = []
        cluster.watchers[name] = self._watched

    # Clock and life.

    def _by_variant(self) -> int:
        return self.variant.clock(self.clock, self.world.now)

    def _by_boot_clock(self) -> int:
        return self.clock.local(self.world.now)

    def true_ns(self, due_ns: int) -> int:
        """The instant at which a timer of this host, set now, goes off."""
        return self.clock.true(self.clock.local(self.world.now) + max(due_ns - self.local(), 1))

    def after(self, wait_ns: int, call: Callable[..., None], *args: object) -> Event:
        """A timer of this machine: late when the machine stands still, void when it has crashed."""
        return self.world.at(self.world.now + wait_ns, self._timer, self.lives, call, args)

    def _timer(self, life: int, call: Callable[..., None], args: tuple[object, ...]) -> None:
        if life == self.lives and self.up:
            self.deliver(call, *args)

    def deliver(self, call: Callable[..., None], *args: object) -> None:
        if self.frozen:
            self._backlog.append((call, args))
        else:
            call(*args)

    def boot(self) -> None:
        self.up = True
        self.lives += 1
        self.start()

    def crash(self) -> None:
        """The whole machine, at once."""
        self.kill()
        self.up = False
        self.frozen = 0
        self._backlog.clear()
        self.agents.end()
        self.checkers.gone(self.name)
        self.lives += 1

    def start(self) -> None:
        """hostd begins; it knows nothing."""
        if not self.up or self.running:
            return
        self.running = True
        self._adopting = True
        self.checkers.lived(self.name)
        lease = Lease(boot_id=f"{self.name}-{self.checkers.life(self.name)}", floor_epoch=self._floor_epoch)
        fleet = self.setting.fleet
        fresh = begin(self.name, lease, fleet.workers, fleet.ranks(self.name), self.local())
        self.own = self.variant.restarted(fresh, self.own)
        self.suspected = {}
        self.household.begin()
        self.feed(StandBys(fleet.standbys))
        self.household.look()

    def kill(self) -> None:
        """hostd alone: the agents go on until the deadline."""
        self.running = False
        self.hostd_frozen = 0
        self.pause_next = False
        self.page_lag.clear()
        self._request += 1
        self.world.cancel(self._request_timeout)
        self.world.cancel(self._wake)
        self._wake = None
        self.cluster.forget_watch(self.name)
        self._watch_over()

    def freeze(self) -> None:
        self.frozen += 1

    def thaw(self) -> None:
        self.frozen = max(0, self.frozen - 1)
        if self.frozen:
            return
        draw = self.world.random.random()
        if draw < 0.3:
            self._tick()
        elif draw < 0.6:
            self._overdue(self.agents.page)
        backlog, self._backlog = self._backlog, []
        for call, args in backlog:
            self.deliver(call, *args)
        self._tick()

    def freeze_hostd(self) -> None:
        self.hostd_frozen += 1
        self._watch_over()

    def thaw_hostd(self) -> None:
        self.hostd_frozen = max(0, self.hostd_frozen - 1)
        if not self.hostd_frozen:
            waiting, self.page_lag = self.page_lag, []
            for call, args in waiting:
                call(*args)
            self._tick()

    # The watchdog: a process of its own, which ends the agents when hostd neither renews nor fences.

    def _watch_over(self) -> None:
        """hostd says nothing from now on: look again a while after the deadline that it left."""
        page = self.agents.page
        if page.serving and self.up and self.variant.has_a_watchdog:
            wait_ns = self.true_ns(page.deadline_ns + GRACE_NS) - self.world.now
            self.after(wait_ns, self._overdue, page)

    def _overdue(self, page: Page) -> None:
        late = self.local() >= page.deadline_ns + GRACE_NS
        if self.agents.page is not page or not page.serving or not late or not self.variant.has_a_watchdog:
            return
        self.checkers.note("watchdog", self.name)
        for agent in tuple(self.agents.seats):
            self.agents.kill(agent)
            self.told(self.household.ended, agent)

    # hostd.

    def feed(self, event: OwnEvent) -> None:
        """One event for the core, and its actions in their order."""
        if not self.running or self.own is None:
            return
        if self.hostd_frozen:
            self.page_lag.append((self.feed, (event,)))
            return
        before = self.own
        own, actions = self.variant.step(before, event, self.local(), self.policy)
        self.own = own
        if self.pause_next and actions:
            # Decided, then stopped before anything was done.
            self.pause_next = False
            self.checkers.count("hit hostd-pause")
            self.freeze_hostd()
            self.page_lag.extend((self._do, (action, self.checkers.life(self.name))) for action in actions)
            self.after(1_000 * MS + self.world.random.randint(0, 2_000) * MS, self.thaw_hostd)
        else:
            for action in actions:
                self._do(action, self.checkers.life(self.name))
        earlier = self.suspected
        self.suspected = suspected(earlier, own.peers, self.local(), self.policy.lease, SUSPICION)
        changed = own.holdings is not before.holdings or own.proof.keys() != before.proof.keys()
        changed = changed or earlier.keys() != self.suspected.keys()
        again = self.variant.looks_when_it_speaks_again
        if changed or (again and speaks_again(before, own, self.local(), self.policy)):
            self._stirred = True
        if self._look() or isinstance(event, Tick):
            self.household.keep_house()
        self._set_wake()

    def _look(self) -> bool:
        """After what was decided has been done: agents are looked at again when it concerned them."""
        if self._stirred and not self.page_lag:
            self._stirred = False
            self.household.look()
            return True
        return False

    def _set_wake(self) -> None:
        if not self.running or self.own is None or self.hostd_frozen:
            return
        due_ns = wake_ns(self.own, self.policy)
        if self.household.away:
            due_ns = min((d for d in (due_ns, *self.household.dues_ns()) if d is not None), default=None)
        if due_ns is None:
            self.world.cancel(self._wake)
            return
        true_ns = self.true_ns(due_ns)
        if self._wake is not None and self._wake[2] is not None and self._wake[0] == true_ns:
            return
        self.world.cancel(self._wake)
        self._wake = self.world.later_idle(true_ns, self._tick)

    def _tick(self) -> None:
        if not self.frozen and not self.hostd_frozen:
            self.feed(Tick())

    def _do(self, action: Action, life: int) -> None:
        if not self.running or life != self.checkers.life(self.name):
            return
        match action:
            case ReadAll():
                self._read()
            case Transact():
                self._transact(action)
            case Publish(deadline_ns, serving, withheld):
                self.agents.page = Page(deadline_ns, serving, withheld)
                if self._adopting and self.variant.demotes_leftovers:
                    # Primaries of an earlier life of hostd whose unit went elsewhere meanwhile.
                    for seat in tuple(self.agents.seats.values()):
                        if self.agents.page.epoch(seat.home, seat.agent) is None:
                            self.agents.demote(seat.agent)
                self._adopting = False
                self.checkers.published(self, life)
            case Effect(do, unit, epoch):
                self._stirred = True
                self.household.effect(do, unit, epoch)
            case Fence():
                self._stirred = True
                self.checkers.note("fence", self.name)
                if self.variant.empties_the_page:
                    self.agents.page = Page()
                self.household.fenced()
            case Stop():
                self.checkers.note("replaced", self.name)
                self.agents.page = Page()
                self.kill()
                self.after(RESTART_NS, self.start)

    def agents_of(self, unit: Unit) -> tuple[str, ...]:
        """The agents of a unit, those included that have left it for another host by now. One that was parted
        from its domain may belong to it again."""
        own = self.own
        homes = self.setting.fleet.homes
        if unit.agent and self.variant.tells_a_parted_agent:
            return (unit.agent,)
        if own is None:
            return ()
        units = {a: own.unit_of(home, a) for a, home in homes.items() if home == unit.home}
        return tuple(a for a, now in units.items() if now == unit or now not in own.holdings)

    def alive(self, host: str) -> bool:
        """Whether a peer's record was seen to change lately."""
        peer = None if self.own is None else self.own.peers.get(host)
        return peer is not None and peer.revision > 0 and not peer.gone(self.local(), self.policy.lease)

    def sees_served(self, agent: str) -> bool:
        """Whether some host's record, as seen from here, says that it serves the agent."""
        reaches = self.cluster.network.reaches
        return any(
            node.household.announced(agent) and (node is self or reaches(node.name, self.name))
            for node in self.checkers.nodes.values()
        )

    def told(self, call: Callable[..., None], *args: object) -> None:
        """Into hostd's queue."""
        if not self.running:
            return
        if self.hostd_frozen:
            self.page_lag.append((call, args))
        else:
            call(*args)

    def write_fence(self, home: str, agent: str) -> int | None:
        """What hostd lets a state write compare; None while hostd is not there or may not act."""
        if not self.running or self.hostd_frozen or self.own is None:
            return None
        if not self.variant.checks_the_deadline:
            known = self.own.domains.get(home)
            return None if known is None else known.revision
        fence = self.own.write_fence(home, agent, self.local(), self.policy)
        return None if fence is None else fence.revision

    # Requests.

    def endpoint(self) -> str:
        members = self.setting.fleet.members
        first = members.index(self.name) if self.name in members else 0
        return members[(first + self._endpoint) % len(members)]

    def state_request(
        self, perform: Callable[[], Answer], done: Callable[[Answer], None], *, writes: bool
    ) -> None:
        life = self.lives
        if not self.running:
            return

        def reply(answer: Answer) -> None:
            if life == self.lives and self.up and self.running:
                self.deliver(done, answer)

        self.cluster.submit(self.name, self.endpoint(), perform, reply, writes)

    def _begin(self) -> int:
        self._request += 1
        self.sent_true_ns = self.world.now
        own = self.own
        assert own is not None
        wait_ns = patience_ns(own.lease, self.local(), self.policy.lease)
        self._request_timeout = self.after(wait_ns, self._outcome, self._request, Ambiguous())
        return self._request

    def _read(self) -> None:
        number = self._begin()
        store = self.cluster.store

        def reply(answer: Answer) -> None:
            event: OwnEvent = Failed()
            if answer.kind == ACKED and isinstance(answer.value, View):
                event = answer.value
            self._answered(number, event)

        self.cluster.submit(
            self.name, self.endpoint(), lambda: Answer(ACKED, 0, store.view()), reply, writes=False
        )

    def _transact(self, action: Transact) -> None:
        number = self._begin()
        transaction = self.variant.transaction(action.transaction)
        store = self.cluster.store
        own = self.own
        assert own is not None
        boot_id = own.lease.boot_id

        def perform() -> Answer:
            self._done = number
            if number != self._request:
                self.checkers.count("performed after it was given up")
            return store.transact(self.name, boot_id, transaction, self.variant.compares_its_own_record)

        def reply(answer: Answer) -> None:
            if answer.kind == ACKED:
                self._answered(number, Acked(answer.revision))
            elif answer.kind == FAILED:
                self._answered(number, Failed())
            else:
                self._answered(number, Refused())

        for _ in range(2 if self.variant.sends_twice else 1):
            self.cluster.submit(
                self.name, self.endpoint(), perform, reply, writes=True, assigns=bool(transaction.puts)
            )

    def _answered(self, number: int, event: OwnEvent) -> None:
        if self.up:
            self.deliver(self._outcome, number, event)

    def _outcome(self, number: int, event: OwnEvent) -> None:
        late = number != self._request and (self.variant.matches_answers or self.own is None)
        if late or not self.running or (self.own is not None and not self.own.lease.in_flight):
            return
        if self.hostd_frozen:
            self.page_lag.append((self._outcome, (number, event)))
            return
        self._request += 1
        self.world.cancel(self._request_timeout)
        if isinstance(event, Ambiguous | Failed):
            self._endpoint += 1
        if isinstance(event, Refused):
            self.checkers.count("refused")
        if isinstance(event, Ambiguous):
            performed = "performed" if self._done == number else "not performed"
            self.checkers.count(f"silent and {performed}")
        if isinstance(event, View):
            self._seen({host: seen.revision for host, seen in event.hosts.items()})
        self.feed(event)
        if self.own is not None and isinstance(event, Acked):
            epoch = self.own.lease.epoch if self.variant.remembers_its_epoch else 0
            self._floor_epoch = max(self._floor_epoch, epoch)

    def _watched(self, hosts: dict[str, int], domains: dict[str, Known]) -> None:
        if self.up and self.running:
            self.deliver(self._notice, hosts, domains)

    def _notice(self, hosts: dict[str, int], domains: dict[str, Known]) -> None:
        self._seen(hosts)
        self.feed(Noticed(hosts, domains))

    def _seen(self, hosts: Mapping[str, int]) -> None:
        """A watch or a read shows these revisions of hosts' records."""
        for host, revision in hosts.items():
            if self.own is not None and host in self.own.peers and revision > self.own.peers[host].revision:
                self.seen_true_ns[host] = self.world.now

    # What an operator, the fail-back or a crash loop may ask for.

    def ask(self, unit: Unit, target: str) -> None:
        """A switch-over."""
        if self.up:
            self.after(0, self.feed, Release(unit, target))

    # Rest.

    def clock_changed(self) -> None:
        """Timers of the boot clock are due at other instants now."""
        self.world.cancel(self._wake)
        self._set_wake()

    def skipped(self) -> None:
        """Whole beats of the steady cycle were skipped: the page and the timer follow."""
        own = self.own
        assert own is not None
        page = self.agents.page
        self.agents.page = Page(own.deadline_ns(self.policy), page.serving, page.withheld)
        self.clock_changed()

    def failback_true_ns(self) -> int:
        """When a unit may go home from here; far away where none is about to."""
        due_ns = min(self.household.dues_ns(), default=None)
        return FAR_NS if due_ns is None or not self.running else self.clock.true(due_ns)

    def at_rest(self) -> bool:
        """In the steady cycle of renewals, and nothing else going on."""
        own = self.own
        if (
            not (self.up and self.running)
            or self.frozen
            or self.hostd_frozen
            or self.page_lag
            or self.pause_next
            or own is None
            or own.lease.phase is not LeasePhase.HELD
            or own.lease.in_flight
            or self.household.busy
            or self.suspected
            or self.local() >= own.deadline_ns(self.policy)
            or any(
                h.stance is not Stance.SERVING or own.proof.get(u) != h.epoch for u, h in own.holdings.items()
            )
        ):
            return False
        page = self.agents.page
        seats = self.agents.seats.values()
        return all(seat.at_rest and seat.epoch == (page.epoch(seat.home, seat.agent) or 0) for seat in seats)
