"""What the registry says right now, as one host sees it: watch events and signs of life in, entries out.

No clock, socket or thread inside: `now_ns` is given (`CLOCK_BOOTTIME`), and `Change` says what to publish.

**Hosts that fell silent.** A host renews its record every 200 ms. When the record does not change for
`HOST_SILENCE_NS` its instances count as down and leave the answers. Only *observed* time counts: a pause in
which the watch told of no event (an election, etcd away) adds `EVIDENCE_STEP_NS` at most, so that a deaf
watcher keeps its last view instead of burying everybody. On a host that renews its own record an event comes
every 200 ms. Progress notifications are no evidence: a member that was cut off sends them until it
notices, three election timeouts later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from infra.topology import AgentSpec
from services.registry.etcd_types import KeyValue, WatchBatch
from services.registry.keys import Key, Keys, Kind
from services.registry.model import Entry, HostRecord, Instance, InstanceState

HOST_SILENCE_NS = 1_300_000_000
"""1.2 s of lease and 100 ms of margin (docs/contracts.md)."""
EVIDENCE_STEP_NS = 300_000_000


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that cannot be read; the one before it stays in force."""

    key: str
    why: str


@dataclass(frozen=True, slots=True)
class Change:
    """What an update changed: names whose entry changed, definitions, hosts that came or went."""

    names: frozenset[str] = frozenset()
    definitions: frozenset[str] = frozenset()
    came: frozenset[str] = frozenset()
    gone: frozenset[str] = frozenset()
    rejected: tuple[Rejected, ...] = ()

    def __or__(self, other: Change) -> Change:
        return Change(
            self.names | other.names,
            self.definitions | other.definitions,
            (self.came - other.gone) | other.came,
            (self.gone - other.came) | other.gone,
            self.rejected + other.rejected,
        )

    def __bool__(self) -> bool:
        return bool(self.names or self.definitions or self.came or self.gone or self.rejected)


@dataclass(slots=True)
class _HostSign:
    record: HostRecord
    mod_revision: int
    observed_ns: int
    """The view's observed time when the record last changed."""
    alive: bool = True


@dataclass(slots=True)
class _Draft:
    names: set[str] = field(default_factory=set)
    definitions: set[str] = field(default_factory=set)
    came: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    rejected: list[Rejected] = field(default_factory=list)


class RegistryView:
    """The state behind one host's discovery."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self.revision = 0
        """Everything up to this etcd revision is in the view."""
        self.definitions: dict[str, AgentSpec] = {}
        self._instances: dict[str, dict[str, Instance]] = {}  # name -> host -> instance
        self._names_of: dict[str, set[str]] = {}  # host -> names
        self._hosts: dict[str, _HostSign] = {}
        self._entries: dict[str, Entry] = {}
        self._observed_ns = 0
        self._evidence_ns: int | None = None

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Name to entry; instances of hosts that are gone stand there as down. Live: copy it to keep it."""
        return self._entries

    def hosts(self) -> dict[str, tuple[HostRecord, bool]]:
        """Host to (last record, alive)."""
        return {host: (sign.record, sign.alive) for host, sign in self._hosts.items()}

    def reset(self, kvs: Iterable[KeyValue], revision: int, now_ns: int) -> Change:
        """The registry was listed afresh. A record listed for the first time counts as changed just now."""
        draft = _Draft()
        self._evidence_ns = now_ns
        present: set[str] = set()
        for kv in kvs:
            present.add(kv.key)
            self._put(draft, kv.key, kv.value, kv.mod_revision)
        for key in self._held_keys() - present:
            self._delete(draft, key)
        self.revision = revision
        return self._finish(draft)

    def apply(self, batch: WatchBatch, now_ns: int) -> Change:
        """Events in revision order, none left out; an empty batch is a progress notification."""
        draft = _Draft()
        if batch.events:
            self._observe(now_ns)
        for event in batch.events:
            if event.mod_revision <= self.revision:
                continue  # told again after a resume
            if event.value is None:
                self._delete(draft, event.key)
            else:
                self._put(draft, event.key, event.value, event.mod_revision)
        self.revision = max(self.revision, batch.revision)
        self._bury(draft, self._observed_at(now_ns))
        return self._finish(draft)

    def tick(self, now_ns: int) -> Change:
        """Time passed without an event."""
        draft = _Draft()
        self._bury(draft, self._observed_at(now_ns))
        return self._finish(draft)

    def next_check_ns(self, now_ns: int) -> int | None:
        """When `tick` could bury a host if no event comes before; None: not before the next event."""
        alive = [sign.observed_ns for sign in self._hosts.values() if sign.alive]
        if not alive or self._evidence_ns is None:
            return None
        at_ns = self._evidence_ns + min(alive) + HOST_SILENCE_NS - self._observed_ns
        return max(at_ns, now_ns) if at_ns <= self._evidence_ns + EVIDENCE_STEP_NS else None

    def _observe(self, now_ns: int) -> None:
        self._observed_ns = self._observed_at(now_ns)
        self._evidence_ns = now_ns

    def _observed_at(self, now_ns: int) -> int:
        if self._evidence_ns is None:
            return self._observed_ns
        return self._observed_ns + max(0, min(now_ns - self._evidence_ns, EVIDENCE_STEP_NS))

    def _bury(self, draft: _Draft, observed_ns: int) -> None:
        for host, sign in self._hosts.items():
            if sign.alive and observed_ns - sign.observed_ns >= HOST_SILENCE_NS:
                sign.alive = False
                draft.gone.add(host)
                draft.names |= self._names_of.get(host, set())

    def _put(self, draft: _Draft, key: str, value: bytes, mod_revision: int) -> None:
        parsed = self._keys.parse(key)
        if parsed is None:
            return  # a newer schema's
        try:
            match parsed.kind:
                case Kind.HOST:
                    self._put_host(draft, msgspec.json.decode(value, type=HostRecord), parsed, mod_revision)
                case Kind.DEFINITION:
                    spec = msgspec.json.decode(value, type=AgentSpec)
                    _check(spec.name == parsed.name, "its name is not its key's")
                    if self.definitions.get(spec.name) != spec:
                        self.definitions[spec.name] = spec
                        draft.definitions.add(spec.name)
                case Kind.AGENT:
                    self._put_instance(draft, msgspec.json.decode(value, type=Instance), parsed)
        except msgspec.MsgspecError as error:
            draft.rejected.append(Rejected(key, str(error)))

    def _put_host(self, draft: _Draft, record: HostRecord, key: Key, mod_revision: int) -> None:
        _check(record.host == key.name, "its host is not its key's")
        sign = self._hosts.get(record.host)
        if sign is None:
            self._hosts[record.host] = _HostSign(record, mod_revision, self._observed_ns)
            revived = True
        elif sign.mod_revision != mod_revision:
            revived = not sign.alive
            sign.record, sign.mod_revision, sign.observed_ns = record, mod_revision, self._observed_ns
            sign.alive = True
        else:
            return  # listed again, unchanged: the silence goes on
        if revived:
            draft.came.add(record.host)
            draft.names |= self._names_of.get(record.host, set())

    def _put_instance(self, draft: _Draft, instance: Instance, key: Key) -> None:
        _check(instance.name == key.name and instance.host == key.host, "name and host are not its key's")
        self._instances.setdefault(instance.name, {})[instance.host] = instance
        self._names_of.setdefault(instance.host, set()).add(instance.name)
        draft.names.add(instance.name)

    def _delete(self, draft: _Draft, key: str) -> None:
        parsed = self._keys.parse(key)
        if parsed is None:
            return
        match parsed.kind:
            case Kind.HOST:
                if self._hosts.pop(parsed.name, None) is not None:
                    draft.gone.add(parsed.name)
                    draft.names |= self._names_of.get(parsed.name, set())
            case Kind.DEFINITION:
                if self.definitions.pop(parsed.name, None) is not None:
                    draft.definitions.add(parsed.name)
            case Kind.AGENT:
                host = parsed.host or ""
                of_name = self._instances.get(parsed.name, {})
                if of_name.pop(host, None) is not None:
                    self._names_of[host].discard(parsed.name)
                    draft.names.add(parsed.name)
                if not of_name:
                    self._instances.pop(parsed.name, None)

    def _held_keys(self) -> set[str]:
        held = {self._keys.host(host) for host in self._hosts}
        held |= {self._keys.definition(name) for name in self.definitions}
        held |= {
            self._keys.instance(name, host) for name, of_name in self._instances.items() for host in of_name
        }
        return held

    def _finish(self, draft: _Draft) -> Change:
        """Rebuild the entries that may have changed and keep the names of those that did."""
        changed: set[str] = set()
        for name in draft.names:
            entry = self._entry(name)
            if entry is None:
                if self._entries.pop(name, None) is not None:
                    changed.add(name)
            elif self._entries.get(name) != entry:
                self._entries[name] = entry
                changed.add(name)
        return Change(
            frozenset(changed),
            frozenset(draft.definitions),
            frozenset(draft.came),
            frozenset(draft.gone),
            tuple(draft.rejected),
        )

    def _entry(self, name: str) -> Entry | None:
        of_name = self._instances.get(name)
        if not of_name:
            return None
        return Entry(
            name=name,
            instances=tuple(self._as_seen(of_name[host]) for host in sorted(of_name)),
        )

    def _as_seen(self, instance: Instance) -> Instance:
        sign = self._hosts.get(instance.host)
        if sign is not None and sign.alive:
            return instance
        return msgspec.structs.replace(instance, state=InstanceState.DOWN)


def _check(holds: bool, why: str) -> None:
    if not holds:
        raise msgspec.ValidationError(why)
