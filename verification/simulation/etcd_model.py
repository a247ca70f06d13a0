"""A model of etcd: one linearizable store behind three members that may be down, slow, cut off or leaderless.

What is modelled is what a client can see. A request that gets no answer was lost on its way, or is performed
and its answer lost, or is performed later: after a stall, after a leader came back, or (half of what was
under way) under the next leader. Watches are in order, may lag, and after a gap bring the present state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from services.control.domains import Known, Transaction
from services.control.holdings import HostSeen, View
from verification.simulation.network import Network
from verification.simulation.world import MS, S, World

FSYNC_NS = MS // 4
PARKED_NS = 5 * S  # how long a member keeps a request while there is no leader
ELECTION_NS = (500 * MS, 1_250 * MS)


class Answer:
    """What a request came to: `ACKED` with a revision, `REFUSED`, or `FAILED` (nothing was performed)."""

    __slots__ = ("kind", "revision", "value")

    def __init__(self, kind: str, revision: int = 0, value: object = None) -> None:
        self.kind = kind
        self.revision = revision
        self.value = value


ACKED, REFUSED, FAILED = "acked", "refused", "failed"


@dataclass(slots=True)
class Cell:
    """The state of an agent: its value, the revision that wrote it, and who did at which epoch."""

    value: int = 0
    revision: int = 0
    host: str = ""
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """What stands where a state write was refused."""

    known: Known | None
    cell: Cell


@dataclass(slots=True)
class StateWrite:
    """A write of an agent's state, as it is sent: what it compares, and what it claims to be."""

    agent: str
    home: str
    host: str
    epoch: int
    value: int
    domain_revision: int | None  # None: not compared
    cell_revision: int | None


@dataclass(slots=True)
class Store:
    """The state machine. Every change goes through `transact` or `write`, at the instant of its commit."""

    revision: int = 1
    hosts: dict[str, HostSeen] = field(default_factory=dict)
    domains: dict[str, Known] = field(default_factory=dict)
    cells: dict[str, Cell] = field(default_factory=dict)
    on_domains: Callable[[str, int, Transaction], None] | None = None
    on_write: Callable[[StateWrite], None] | None = None

    def view(self) -> View:
        return View(self.revision, dict(self.hosts), dict(self.domains))

    def transact(self, host: str, boot_id: str, txn: Transaction, compares_own: bool = True) -> Answer:
        """`compares_own` is False with a planted bug."""
        hosts, domains = self.hosts, self.domains
        if compares_own and _revision(hosts.get(host)) != txn.host_revision:
            return Answer(REFUSED)
        for home, revision in txn.domains.items():
            if _revision(domains.get(home)) != revision:
                return Answer(REFUSED)
        for peer, revision in txn.peers.items():
            if _revision(hosts.get(peer)) != revision:
                return Answer(REFUSED)
        if any(target not in hosts for target in txn.present):
            return Answer(REFUSED)
        self.revision += 1
        hosts[host] = HostSeen(self.revision, boot_id, txn.host_epoch, txn.host_seq)
        for home, record in txn.puts.items():
            domains[home] = Known(self.revision, record)
        if txn.puts and self.on_domains is not None:
            self.on_domains(host, self.revision, txn)
        return Answer(ACKED, self.revision)

    def write(self, sent: StateWrite) -> Answer:
        cell = self.cells.setdefault(sent.agent, Cell())
        fenced = sent.domain_revision not in (None, _revision(self.domains.get(sent.home)))
        moved = sent.cell_revision not in (None, cell.revision)
        if fenced or moved:
            known = self.domains.get(sent.home)
            return Answer(REFUSED, 0, Standing(known, Cell(cell.value, cell.revision)))
        self.revision += 1
        self.cells[sent.agent] = Cell(sent.value, self.revision, sent.host, sent.epoch)
        if self.on_write is not None:
            self.on_write(sent)
        return Answer(ACKED, self.revision)

    def load(self, agent: str) -> Answer:
        cell = self.cells.get(agent, Cell())
        return Answer(ACKED, self.revision, Cell(cell.value, cell.revision))


def _revision(record: HostSeen | Known | None) -> int:
    return 0 if record is None else record.revision


@dataclass(slots=True)
class _Request:
    host: str
    member: str
    perform: Callable[[], Answer]
    reply: Callable[[Answer], None]
    writes: bool
    until_ns: int
    number: int


class Cluster:
    """The three members, and the way of a request through them."""

    def __init__(
        self,
        world: World,
        network: Network,
        members: tuple[str, ...],
        preferred: str,
        counts: Counter[str] | None = None,
    ) -> None:
        self.store = Store()
        self.world = world
        self.network = network
        self.members = members
        self.preferred = preferred
        self.leader: str | None = preferred
        self.term = 1
        self.down: dict[str, int] = {}
        self.frozen: set[str] = set()
        self.stalled_ns: dict[str, int] = {}
        self.held_ns: dict[str, int] = {}  # requests of a host are held back somewhere until then
        self.machines_down: set[str] = set()
        self.watchers: dict[str, Callable[[dict[str, int], dict[str, Known]], None]] = {}
        self.watch_lag_ns: dict[str, int] = {}
        self.late = 0
        self.elections = 0
        self.counts: Counter[str] = Counter() if counts is None else counts
        self._numbers = 0
        self._performed: dict[str, int] = {}
        self._watched_ns: dict[str, int] = {}
        self._behind: set[str] = set()
        self._limbo: list[_Request] = []
        self._election_due = False

    # Requests.

    def submit(
        self,
        host: str,
        member: str,
        perform: Callable[[], Answer],
        reply: Callable[[Answer], None],
        writes: bool,
        assigns: bool = False,
    ) -> None:
        """`reply` is called once, or twice, or never. `assigns`: a transaction that moves a unit."""
        world, network = self.world, self.network
        delay = network.delay(host, member)
        if delay is None or member in self.machines_down:
            return
        if member in self.down:
            back = network.delay(member, host)
            if back is not None:
                world.at(world.now + delay + back, reply, Answer(FAILED))
            return
        self._numbers += 1
        request = _Request(host, member, perform, reply, writes, world.now + PARKED_NS, self._numbers)
        arrives_ns = world.now + delay
        if self.held_ns.get(host, 0) > arrives_ns and world.random.random() < (0.9 if assigns else 0.3):
            arrives_ns = self.held_ns[host]  # overtaken by later ones
            self.counts["hit requests-held"] += 1
        self._forward(request, arrives_ns)
        if network.doubled(host, member) or (self.leader and network.doubled(member, self.leader)):
            self.counts["arrived twice"] += 1
            self._forward(request, arrives_ns + world.random.randint(0, 1_500) * MS)

    def _forward(self, request: _Request, arrives_ns: int) -> None:
        world = self.world
        leader = self.leader
        hop = None if leader is None else self.network.delay(request.member, leader)
        if leader is None or hop is None or request.member in self.frozen:
            self._limbo.append(request)
            return
        if hop == self.network.delay(leader, leader):
            hop = 0
        at_ns = arrives_ns + hop
        if request.writes:
            at_ns += FSYNC_NS
        rounds = self._round_trip(leader)
        world.at(at_ns + (50 * MS if rounds is None else rounds), self._commit, self.term, request)

    def _round_trip(self, leader: str) -> int | None:
        best: int | None = None
        for other in self.members:
            if other == leader or other in self.down or other in self.frozen:
                continue
            there, back = self.network.delay(leader, other), self.network.delay(other, leader)
            if there is not None and back is not None and (best is None or there + back < best):
                best = there + back
        return best

    def _commit(self, term: int, request: _Request) -> None:
        world = self.world
        leader = self.leader
        if leader is None or term != self.term or not self.leads(leader):
            self.counts["under way when the leader changed"] += 1
            self._limbo.append(request)
            if leader is not None and self.leads(leader):
                self._flush()
            return
        stalled_ns = self.stalled_ns.get(leader, 0)
        if stalled_ns > world.now:
            self.counts["hit disk-stall"] += 1
            world.at(stalled_ns, self._commit, term, request)
            return
        self._perform(leader, request)

    def _perform(self, leader: str, request: _Request) -> None:
        world, network = self.world, self.network
        before = self.store.revision
        if request.number < self._performed.get(request.host, 0):
            self.counts["overtaken"] += 1
        else:
            self._performed[request.host] = request.number
        answer = request.perform()
        if self.store.revision != before:
            self._notify(leader, before)
        first = 0 if leader == request.member else network.delay(leader, request.member)
        second = network.delay(request.member, request.host)
        lost = first is None or second is None or request.member in self.down
        if first is None or second is None or lost or request.member in self.frozen:
            return
        world.at(world.now + first + second, request.reply, answer)
        if request.host in self._behind:
            self._bring(request.host, leader, dict.fromkeys(self.store.hosts), dict(self.store.domains))

    # Leaders.

    def alive(self, member: str) -> bool:
        """Whether a member runs."""
        return member not in self.down and member not in self.frozen

    def leads(self, member: str) -> bool:
        """Whether a member can have a majority behind it."""
        reaches = self.network.reaches
        return self.alive(member) and any(
            other != member and self.alive(other) and reaches(member, other) and reaches(other, member)
            for other in self.members
        )

    def reassess(self) -> None:
        """To be called after each change of links or members."""
        if self.leader is not None and self.leads(self.leader):
            self._flush()
        elif not self._election_due:
            self._election_due = True
            low, high = ELECTION_NS
            self.world.at(self.world.now + self.world.random.randint(low, high), self._elect)

    def _elect(self) -> None:
        self._election_due = False
        if self.leader is not None and self.leads(self.leader):
            self._flush()
            return
        able = [member for member in self.members if self.leads(member)]
        if not able:
            self.leader = None
            return
        self.leader = self.preferred if self.preferred in able else self.world.random.choice(able)
        self.term += 1
        self.elections += 1
        self._flush()

    def move_leader(self) -> bool:
        """A leader steps down while requests are under way; the next one is elected at once."""
        able = [m for m in self.members if self.leads(m) and m != self.leader]
        if able:
            self.leader = self.world.random.choice(able)
            self.term += 1
            self.elections += 1
            self._flush()
        return bool(able)

    def _flush(self) -> None:
        limbo, self._limbo = self._limbo, []
        for request in limbo:
            # Under a new leader half of what was under way survives; reads are simply asked again by nobody.
            if self.world.now <= request.until_ns and self.world.random.random() < 0.5:
                self.late += 1
                self.world.at(self.world.now + self.world.random.randint(1, 400) * MS, self._late, request)

    def _late(self, request: _Request) -> None:
        leader = self.leader
        if leader is None or not self.leads(leader):
            self._limbo.append(request)
            return
        self._perform(leader, request)

    @property
    def quiet(self) -> bool:
        return (
            not self._limbo
            and not self._behind
            and not self.down
            and not self.frozen
            and not self.watch_lag_ns
            and self.leader is not None
        )

    # Watches.

    def _notify(self, leader: str, before: int) -> None:
        store = self.store
        hosts = {host: seen.revision for host, seen in store.hosts.items() if seen.revision > before}
        domains = {home: known for home, known in store.domains.items() if known.revision > before}
        if not hosts and not domains:
            return
        for host in self.watchers:
            if domains or any(other != host for other in hosts):
                self._bring(host, leader, hosts, domains)

    def _bring(self, host: str, leader: str, hosts: object, domains: dict[str, Known]) -> None:
        member = host if host in self.members and self.alive(host) else leader
        first = 0 if member == leader else self.network.delay(leader, member)
        second = self.network.delay(member, host)
        if first is None or second is None or host in self.machines_down:
            self._behind.add(host)
            return
        named = {name: self.store.hosts[name].revision for name in hosts}  # type: ignore[attr-defined]
        if host in self._behind:
            self._behind.discard(host)
            named = {name: seen.revision for name, seen in self.store.hosts.items()}
            domains = dict(self.store.domains)
        lag_ns = self.watch_lag_ns.get(host, 0)
        if lag_ns:
            self.counts["hit watch-lag"] += 1
        at_ns = self.world.now + first + second + lag_ns
        at_ns = max(at_ns, self._watched_ns.get(host, 0))
        self._watched_ns[host] = at_ns
        self.world.at(at_ns, self.watchers[host], named, domains)

    def forget_watch(self, host: str) -> None:
        """Its daemon or its machine has gone: the next one begins with a read."""
        self._behind.add(host)
