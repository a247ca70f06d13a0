"""The view: events against a naive oracle, silent hosts, deaf watchers."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from infra.topology import AgentSpec
from services.registry.etcd_types import KeyValue, WatchBatch, WatchEvent
from services.registry.keys import Key, Keys, Kind
from services.registry.model import HostRecord, Instance, InstanceState
from services.registry.view import EVIDENCE_STEP_NS, HOST_SILENCE_NS, RegistryView
from tests.registry.snapshots import instance

MS = 1_000_000
KEYS = Keys("t")


@dataclass
class World:
    """A registry and a view of it, with time in hand."""

    view: RegistryView = field(default_factory=lambda: RegistryView(KEYS))
    now_ns: int = 10**12
    revision: int = 1
    stored: dict[str, tuple[bytes, int]] = field(default_factory=dict)

    def put(self, key: str, value: msgspec.Struct | bytes) -> WatchEvent:
        self.revision += 1
        raw = value if isinstance(value, bytes) else msgspec.json.encode(value)
        self.stored[key] = (raw, self.revision)
        return WatchEvent(key, raw, self.revision)

    def delete(self, key: str) -> WatchEvent:
        self.revision += 1
        self.stored.pop(key, None)
        return WatchEvent(key, None, self.revision)

    def beat(self, host: str) -> WatchEvent:
        record = HostRecord(host=host, boot_id="b", epoch=1, seq=self.revision, address="10.0.0.1")
        return self.put(KEYS.host(host), record)

    def register(self, found: Instance) -> WatchEvent:
        return self.put(KEYS.instance(found.name, found.host), found)

    def tell(self, *events: WatchEvent) -> None:
        self.last = self.view.apply(WatchBatch(self.revision, events), self.now_ns)

    def list(self) -> None:
        kvs = [KeyValue(k, v, rev, rev, 1) for k, (v, rev) in self.stored.items()]
        self.last = self.view.reset(kvs, self.revision, self.now_ns)

    def states(self, name: str) -> dict[str, str]:
        entry = self.view.entries.get(name)
        return {} if entry is None else {i.host: i.state.value for i in entry.instances}


def two_hosts() -> World:
    world = World()
    for event in (world.beat("mainpc"), world.beat("pc2")):
        assert event.value
    world.register(instance("a", "mainpc"))
    world.register(instance("a", "pc2"))
    world.register(instance("b", "pc2"))
    world.list()
    return world


def test_listing_makes_entries() -> None:
    world = two_hosts()
    assert world.states("a") == {"mainpc": "up", "pc2": "up"}
    assert world.last.names == {"a", "b"}
    assert world.last.came == {"mainpc", "pc2"}
    assert world.view.revision == world.revision


def test_a_host_that_falls_silent_leaves_and_comes_back() -> None:
    world = two_hosts()
    for _ in range(6):  # mainpc goes on, 200 ms each: 1.2 s
        world.now_ns += 200 * MS
        world.tell(world.beat("mainpc"))
        assert world.states("a") == {"mainpc": "up", "pc2": "up"}
    check_ns = world.view.next_check_ns(world.now_ns)
    assert check_ns == world.now_ns + HOST_SILENCE_NS - 1200 * MS
    assert not world.view.tick(check_ns - 1)
    change = world.view.tick(check_ns)
    assert (change.names, change.gone) == ({"a", "b"}, {"pc2"})
    assert world.states("a") == {"mainpc": "up", "pc2": "down"}
    assert world.states("b") == {"pc2": "down"}
    world.now_ns += 100 * MS
    world.tell(world.beat("pc2"))
    assert (world.last.names, world.last.came) == ({"a", "b"}, {"pc2"})
    assert world.states("b") == {"pc2": "up"}


def test_a_deaf_watcher_buries_nobody() -> None:
    world = two_hosts()
    world.now_ns += 60_000 * MS
    assert not world.view.tick(world.now_ns)
    world.tell(world.beat("mainpc"))  # pc2's renewal is the next event
    assert world.states("a") == {"mainpc": "up", "pc2": "up"}
    world.tell(world.beat("pc2"))
    assert world.states("b") == {"pc2": "up"}


def test_progress_notifications_bury_nobody() -> None:
    """A member that was cut off sends them until it notices."""
    world = two_hosts()
    for _ in range(30):
        world.now_ns += 100 * MS
        world.tell()
        assert not world.view.tick(world.now_ns)
    assert world.states("a") == {"mainpc": "up", "pc2": "up"}


def test_an_unchanged_record_listed_again_is_no_sign_of_life() -> None:
    world = two_hosts()
    for _ in range(10):
        world.now_ns += 200 * MS
        world.tell(world.beat("mainpc"))
    assert world.states("b") == {"pc2": "down"}
    world.list()
    assert world.states("b") == {"pc2": "down"}


def test_no_host_record_no_answer() -> None:
    world = World()
    world.register(instance("a", "ghost"))
    world.list()
    assert world.states("a") == {"ghost": "down"}
    world.tell(world.beat("ghost"))
    assert world.states("a") == {"ghost": "up"}
    world.tell(world.delete(KEYS.host("ghost")))
    assert (world.states("a"), world.last.gone) == ({"ghost": "down"}, {"ghost"})


def test_renewals_alone_change_nothing() -> None:
    world = two_hosts()
    world.now_ns += 200 * MS
    world.tell(world.beat("mainpc"), world.beat("pc2"))
    assert not world.last


def test_told_twice_counts_once() -> None:
    world = two_hosts()
    down = world.register(instance("a", "mainpc", state=InstanceState.DRAINING))
    up = world.register(instance("a", "mainpc", incarnation=2))
    world.tell(down, up)
    world.tell(down)  # a resumed watch may repeat itself
    assert world.states("a")["mainpc"] == "up"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (KEYS.instance("a", "mainpc"), b"not json"),
        (KEYS.instance("a", "mainpc"), b"\xff\xfe"),
        (KEYS.instance("a", "mainpc"), b'{"name": "a"}'),
        (KEYS.instance("a", "mainpc"), msgspec.json.encode(instance("b", "mainpc"))),
        (KEYS.host("mainpc"), b"[]"),
        (
            KEYS.host("mainpc"),
            msgspec.json.encode(HostRecord(host="x", boot_id="", epoch=1, seq=1, address="")),
        ),
        (KEYS.definition("a"), b'{"name": "a", "home": "mainpc", "unheard-of": 1}'),
    ],
)
def test_a_record_that_cannot_be_read_is_reported_and_changes_nothing(key: str, value: bytes) -> None:
    world = two_hosts()
    before = dict(world.view.entries)
    world.tell(world.put(key, value))
    assert [rejected.key for rejected in world.last.rejected] == [key]
    assert world.last.rejected[0].why
    assert world.view.entries == before


def test_definitions_are_followed() -> None:
    world = World()
    spec = AgentSpec(name="a", home="mainpc", category="memory")
    world.tell(world.put(KEYS.definition("a"), spec))
    assert (world.view.definitions, world.last.definitions) == ({"a": spec}, {"a"})
    world.tell(world.put(KEYS.definition("a"), spec))
    assert not world.last
    world.tell(world.delete(KEYS.definition("a")))
    assert (world.view.definitions, world.last.definitions) == ({}, {"a"})


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("/threenines/t/v1/hosts/pc2", Key(Kind.HOST, "pc2", "pc2")),
        ("/threenines/t/v1/definitions/a-1", Key(Kind.DEFINITION, "a-1")),
        ("/threenines/t/v1/agents/a/pc2", Key(Kind.AGENT, "a", "pc2")),
        ("/threenines/t/v1/agents/a", None),
        ("/threenines/t/v1/agents/A/pc2", None),
        ("/threenines/t/v1/agents/a/pc2/x", None),
        ("/threenines/t/v1/other/a", None),
        ("/threenines/t/v2/hosts/pc2", None),
        ("/threenines/tt/v1/hosts/pc2", None),
        ("", None),
    ],
)
def test_keys(text: str, key: Key | None) -> None:
    assert KEYS.parse(text) == key
    if key is not None:
        built = {
            Kind.HOST: lambda: KEYS.host(key.name),
            Kind.DEFINITION: lambda: KEYS.definition(key.name),
            Kind.AGENT: lambda: KEYS.instance(key.name, key.host or ""),
        }[key.kind]()
        assert built == text


@pytest.mark.parametrize("name", ["", "A", "a/b", "a\n", "1a", "a" * 64, "../a"])
def test_names_that_would_break_keys_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no name"):
        KEYS.instance("a", name)


NAMES = st.sampled_from(["a", "b", "c"])
HOSTS = st.sampled_from(["mainpc", "pc2"])


class ViewMatchesRegistry(RuleBasedStateMachine):
    """Any events, batched anyhow, with listings in between: the view equals what a fresh look would say.

    The oracle knows nothing of entries: it goes through the stored records, and when each host's record
    last changed, in observed time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.queue: list[WatchEvent] = []
        self.beat_at: dict[str, int] = {}
        self.beaten: set[str] = set()
        self.observed_ns = 0
        self.evidence_ns: int | None = None
        self.world.list()
        self.evidence_ns = self.world.now_ns

    def _evidence(self) -> None:
        if self.evidence_ns is not None:
            self.observed_ns += min(self.world.now_ns - self.evidence_ns, EVIDENCE_STEP_NS)
        self.evidence_ns = self.world.now_ns

    @rule(host=HOSTS)
    def renew(self, host: str) -> None:
        self.queue.append(self.world.beat(host))
        self.beaten.add(host)

    @rule(host=HOSTS)
    def forget_host(self, host: str) -> None:
        self.queue.append(self.world.delete(KEYS.host(host)))
        self.beaten.discard(host)

    @rule(name=NAMES, host=HOSTS, state=st.sampled_from(list(InstanceState)), incarnation=st.integers(1, 3))
    def register(self, name: str, host: str, state: InstanceState, incarnation: int) -> None:
        self.queue.append(self.world.register(instance(name, host, state=state, incarnation=incarnation)))

    @rule(name=NAMES, host=HOSTS)
    def deregister(self, name: str, host: str) -> None:
        self.queue.append(self.world.delete(KEYS.instance(name, host)))

    @rule(milliseconds=st.integers(0, 700))
    def wait(self, milliseconds: int) -> None:
        self.flush()
        self.world.now_ns += milliseconds * MS
        self.world.view.tick(self.world.now_ns)

    @rule()
    def flush(self) -> None:
        """Everything that happened is told in one batch (a progress notification when nothing did)."""
        if self.queue:
            self._evidence()
        self.world.tell(*self.queue)
        self._told()

    @rule()
    def list_again(self) -> None:
        """A listing is no observation of time that passed, but renewals in it are renewals."""
        self.evidence_ns = self.world.now_ns
        self.world.list()
        self._told()

    def _told(self) -> None:
        self.queue.clear()
        for host in self.beaten:
            self.beat_at[host] = self.observed_ns
        self.beaten.clear()

    @invariant()
    def same(self) -> None:
        if self.queue:
            return
        ahead = min(self.world.now_ns - (self.evidence_ns or 0), EVIDENCE_STEP_NS)
        expected: dict[str, dict[str, Instance]] = {}
        for key, (value, _) in self.world.stored.items():
            parsed = KEYS.parse(key)
            assert parsed is not None
            if parsed.kind is Kind.AGENT:
                found = msgspec.json.decode(value, type=Instance)
                listed = KEYS.host(found.host) in self.world.stored
                silent_ns = self.observed_ns + ahead - self.beat_at.get(found.host, 0)
                if not listed or silent_ns >= HOST_SILENCE_NS:
                    found = msgspec.structs.replace(found, state=InstanceState.DOWN)
                expected.setdefault(found.name, {})[found.host] = found
        seen = {name: {i.host: i for i in entry.instances} for name, entry in self.world.view.entries.items()}
        assert seen == expected


ViewMatchesRegistry.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestViewMatchesRegistry = ViewMatchesRegistry.TestCase
