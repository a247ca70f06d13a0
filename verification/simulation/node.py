"""One simulated host: what hostd's shell does around the same core. Timers, requests, crashes, stops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from services.control.domains import Known, Unit
from services.control.failback import FailBack, FailBackPolicy, failback_step
from services.control.holdings import (
    Action,
    Effect,
    Fence,
    Noticed,
    Ownership,
    OwnershipPolicy,
    Publish,
    Quiesced,
    ReadAll,
    Release,
    Transact,
    View,
    begin,
)
from services.control.holdings import Event as OwnEvent
from services.control.lease import Acked, Ambiguous, Failed, Lease, LeasePhase, Refused, Stop, Tick
from services.control.ownership import wake_ns
from services.control.stances import Do, Stance
from verification.simulation.agents import Agents, Page
from verification.simulation.checkers import Checkers
from verification.simulation.etcd_model import ACKED, FAILED, Answer, Cluster
from verification.simulation.variant import Variant
from verification.simulation.world import MS, Clock, Event, S, World


@dataclass(frozen=True, slots=True)
class Setting:
    """What every node knows: agents and their homes, workers, members, and the policies."""

    homes: dict[str, str]  # agent -> home
    workers: tuple[str, ...]
    members: tuple[str, ...]
    policy: OwnershipPolicy
    failback: FailBackPolicy


FAR_NS = 10_000_000 * S


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
        self.lives = 0
        self.up = False  # the machine
        self.running = False  # hostd
        self.frozen = 0
        self.hostd_frozen = 0
        self.pause_next = False
        self.own: Ownership | None = None
        self.agents = Agents(self)
        self.failbacks: dict[str, FailBack] = {}
        self.seen_true_ns: dict[str, int] = {}
        self.page_lag: list[tuple[Callable[..., None], tuple[object, ...]]] = []
        self._floor_epoch = 0
        self._adopting = False
        self._request = 0
        self._request_timeout: Event | None = None
        self.sent_true_ns = 0
        self._endpoint = 0
        self._wake: Event | None = None
        self._backlog: list[tuple[Callable[..., None], tuple[object, ...]]] = []
        cluster.watchers[name] = self._watched

    # Clock and life.

    def local(self) -> int:
        return self.variant.clock(self.clock, self.world.now)

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
        ranks = {peer: 0 for peer in self.setting.workers if peer != self.name}
        fresh = begin(self.name, lease, self.setting.workers, ranks, self.local())
        self.own = self.variant.restarted(fresh, self.own)
        self.failbacks = {}
        self.feed(Tick())

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

    def freeze(self) -> None:
        self.frozen += 1

    def thaw(self) -> None:
        self.frozen = max(0, self.frozen - 1)
        if self.frozen:
            return
        if self.world.random.random() < 0.5:
            self._tick()
        backlog, self._backlog = self._backlog, []
        for call, args in backlog:
            self.deliver(call, *args)
        self._tick()

    def freeze_hostd(self) -> None:
        self.hostd_frozen += 1

    def thaw_hostd(self) -> None:
        self.hostd_frozen = max(0, self.hostd_frozen - 1)
        if not self.hostd_frozen:
            waiting, self.page_lag = self.page_lag, []
            for call, args in waiting:
                call(*args)
            self._tick()

    # hostd.

    def feed(self, event: OwnEvent) -> None:
        """One event for the core, and its actions in their order."""
        if not self.running or self.own is None:
            return
        if self.hostd_frozen:
            self.page_lag.append((self.feed, (event,)))
            return
        own, actions = self.variant.step(self.own, event, self.local(), self.policy)
        self.own = own
        if self.pause_next and actions:
            # Decided, then stopped before anything was done.
            self.pause_next = False
            self.freeze_hostd()
            self.page_lag.extend((self._do, (action, self.checkers.life(self.name))) for action in actions)
            self.after(1_000 * MS + self.world.random.randint(0, 2_000) * MS, self.thaw_hostd)
        else:
            for action in actions:
                self._do(action, self.checkers.life(self.name))
        self._failback()
        self._set_wake()

    def _set_wake(self) -> None:
        if not self.running or self.own is None or self.hostd_frozen:
            return
        dues = [state.due_ns(self.setting.failback) for state in self.failbacks.values()]
        due_ns = min((d for d in (wake_ns(self.own, self.policy), *dues) if d is not None), default=None)
        if due_ns is None:
            self.world.cancel(self._wake)
            return
        now_ns = self.local()
        true_ns = self.clock.true(self.clock.local(self.world.now) + max(due_ns - now_ns, 1))
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
                    self._adopting = False
                    self.agents.demote_unserved()
                self.checkers.published(self, life)
            case Effect(do, unit, epoch):
                self._effect(do, unit, epoch)
            case Fence(units):
                self.checkers.note("fence", self.name)
                for unit in units:
                    for agent in self.agents_of(unit):
                        if agent in self.agents.seats and self.variant.fences_itself:
                            self.agents.seats[agent].admits = False
            case Stop():
                self.running = False

    def _effect(self, do: Do, unit: Unit, epoch: int) -> None:
        agents = self.agents_of(unit)
        if do is Do.PROMOTE:
            self.checkers.note("promote", self.name, str(unit), epoch)
            self.agents.promote(agents, epoch)
        elif do is Do.RESUME:
            self.agents.resume(agents, epoch)
        elif do is Do.QUIESCE:
            self.agents.quiesce(unit, agents)
        else:
            self.checkers.note("demote", self.name, str(unit), epoch)
            self.agents.demote(agents)

    def agents_of(self, unit: Unit) -> dict[str, str]:
        """The agents of a unit and their home."""
        if unit.agent:
            return {unit.agent: unit.home}
        known = self.own.domains.get(unit.home) if self.own is not None else None
        apart = known.record.exceptions if known is not None else {}
        return {a: home for a, home in self.setting.homes.items() if home == unit.home and a not in apart}

    def quiesced(self, unit: Unit) -> None:
        self.after(MS, self.feed, Quiesced(unit))

    def write_fence(self, home: str, agent: str) -> int | None:
        """What hostd lets a state write compare; None while hostd is not there or may not act."""
        if not self.running or self.hostd_frozen or self.own is None:
            return None
        if not self.variant.fences_itself:
            known = self.own.domains.get(home)
            return None if known is None else known.revision
        fence = self.own.write_fence(home, agent, self.local(), self.policy)
        return None if fence is None else fence.revision

    # Requests.

    def endpoint(self) -> str:
        members = self.setting.members
        first = members.index(self.name)
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
        self._request_timeout = self.after(
            self.policy.lease.deadline_ns, self._outcome, self._request, Ambiguous()
        )
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

        def reply(answer: Answer) -> None:
            if answer.kind == ACKED:
                self._answered(number, Acked(answer.revision))
            elif answer.kind == FAILED:
                self._answered(number, Failed())
            else:
                self._answered(number, Refused())

        self.cluster.submit(
            self.name,
            self.endpoint(),
            lambda: store.transact(self.name, boot_id, transaction),
            reply,
            writes=True,
            assigns=bool(transaction.puts),
        )

    def _answered(self, number: int, event: OwnEvent) -> None:
        if self.up:
            self.deliver(self._outcome, number, event)

    def _outcome(self, number: int, event: OwnEvent) -> None:
        if number != self._request or not self.running:
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
            self.checkers.count("ambiguous")
        self.feed(event)
        if self.own is not None and isinstance(event, Acked):
            self._floor_epoch = max(self._floor_epoch, self.own.lease.epoch)

    def _watched(self, hosts: dict[str, int], domains: dict[str, Known]) -> None:
        if self.up and self.running:
            self.deliver(self._notice, hosts, domains)

    def _notice(self, hosts: dict[str, int], domains: dict[str, Known]) -> None:
        for host, revision in hosts.items():
            if self.own is not None and host in self.own.peers and revision > self.own.peers[host].revision:
                self.seen_true_ns[host] = self.world.now
        self.feed(Noticed(hosts, domains))

    # Going home, and what an operator may ask for.

    def release(self, unit: Unit, target: str) -> None:
        if self.up:
            self.deliver(self.feed, Release(unit, target))

    def _failback(self) -> None:
        own = self.own
        if own is None:
            return
        now_ns = self.local()
        for home in self.setting.workers:
            if home == self.name:
                continue
            holding = own.holdings.get(Unit(home))
            held = holding is not None and holding.stance not in (Stance.NAMED, Stance.CLAIMING)
            before = self.failbacks.get(home)
            if not held and before is None:
                continue
            peer = own.peers[home]
            state, ask = failback_step(
                before or FailBack(),
                held=held,
                releasing=holding is not None and holding.stance is not Stance.SERVING,
                alive=peer.revision > 0 and not peer.gone(now_ns, self.policy.lease),
                now_ns=now_ns,
                policy=self.setting.failback,
            )
            self.failbacks[home] = state
            if ask:
                self.checkers.note("failback", self.name, home)
                self.after(0, self.feed, Release(Unit(home), home))

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
        dues = [state.due_ns(self.setting.failback) for state in self.failbacks.values()]
        due_ns = min((due for due in dues if due is not None), default=None)
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
            or self.local() >= own.deadline_ns(self.policy)
            or any(
                h.stance is not Stance.SERVING or own.proof.get(u) != h.epoch for u, h in own.holdings.items()
            )
        ):
            return False
        seats = self.agents.seats.values()
        return all(seat.loaded and seat.admits and seat.busy is None for seat in seats)
