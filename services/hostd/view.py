"""Who serves where, as this host knows it: what etcd tells of the others, what we know of ourselves.

Ordering rule: a host is the only writer of its instance records, so for this host's agents the supervisor's
word is the only one and etcd's echo of it is never looked at; an old echo cannot bring a dead agent back. For
other hosts etcd's order of revisions is the order. Local changes are published in the loop turn that follows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from infra.topology import AgentSpec
from services.registry.model import Entry, Instance, Resolution, SnapshotError
from services.registry.select import WHOEVER_IS_UP, Want, select
from services.registry.snapshot import SnapshotWriter

QUIET_FACTOR = 4
MAX_DELAY_S = 0.05


class View:
    """The whole stack's definitions and instances. `own` answers this host's instance of a name."""

    def __init__(
        self,
        host: str,
        writer: SnapshotWriter,
        *,
        own: Callable[[str], Instance | None],
        fresh_for_ms: int,
        now_ns: Callable[[], int],
    ) -> None:
        self._host = host
        self._writer = writer
        self.own = own
        self._fresh_for_ms = fresh_for_ms
        self._now_ns = now_ns
        self._others: dict[str, tuple[Instance, ...]] = {}
        self._entries: dict[str, Entry] = {}
        self._dirty: set[str] = set()
        self._due: asyncio.Handle | None = None
        self._not_before = 0.0
        self._confirmed_ns = 0
        self._fresh = False
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self.definitions: dict[str, AgentSpec] = {}
        self.revision = 0
        self.seen = False
        """Whether there is any view at all: from etcd, or from this host's disk."""
        self.trouble: str | None = None
        """Why the snapshot cannot be written at present."""

    # What comes in.

    def told(
        self,
        definitions: Mapping[str, AgentSpec],
        entries: Mapping[str, Entry],
        names: Iterable[str] | None,
        revision: int,
    ) -> None:
        """The registry's records as of `revision`; of `names` they have changed (None: perhaps of all)."""
        if names is None:
            names = self._others.keys() | entries.keys()
        for name in names:
            entry = entries.get(name)
            self._others[name] = (
                tuple(one for one in entry.instances if one.host != self._host) if entry is not None else ()
            )
            self._dirty.add(name)
        self._dirty |= self.definitions.keys() ^ definitions.keys()
        self.definitions = dict(definitions)
        self.revision = revision
        self.seen = True
        self._soon()

    def changed(self, name: str) -> None:
        """A record of this host changed."""
        self._dirty.add(name)
        self._soon()

    def _soon(self) -> None:
        # Within the next turn of the loop, or a moment later when publishing has become expensive.
        if self._due is not None:
            return
        loop = asyncio.get_running_loop()
        if loop.time() >= self._not_before:
            self._due = loop.call_soon(self._publish)
        else:
            self._due = loop.call_at(self._not_before, self._publish)

    def confirm(self) -> None:
        """The view is still true (its watch is alive and the host's record is held)."""
        self._fresh = True
        self._confirmed_ns = self._now_ns()
        if self.seen:
            self._guarded(lambda: self._writer.touch(self._fresh_for_ms))

    def doubt(self) -> None:
        """Nobody confirms the view any more: its answers are marked stale from now on."""
        if self._fresh:
            self._fresh = False
            self._guarded(self._writer.mark_stale)

    # What goes out.

    @property
    def stale(self) -> bool:
        """Whether answers have to be marked stale."""
        return not self._fresh or self.age_ms() > self._fresh_for_ms

    @property
    def generation(self) -> int:
        """Number of the published snapshot."""
        return self._writer.generation

    def age_ms(self) -> float:
        """Milliseconds since the view was last confirmed; infinite when it never was."""
        if self._confirmed_ns == 0:
            return float("inf")
        return (self._now_ns() - self._confirmed_ns) / 1e6

    def instances(self) -> list[Instance]:
        """All instances, by name and host."""
        return [instance for name in sorted(self._entries) for instance in self._entries[name].instances]

    def of(self, name: str) -> tuple[Instance, ...]:
        """The instances of one agent, in any state."""
        entry = self._entries.get(name)
        return entry.instances if entry is not None else ()

    def resolve(self, name: str, want: Want = WHOEVER_IS_UP) -> Resolution:
        """The answer to a look-up. Raises KeyError for a name that nobody knows."""
        if name not in self._entries and name not in self.definitions:
            raise KeyError(name)
        age_ms = self.age_ms()
        return Resolution(
            name=name,
            revision=self.revision,
            generation=self.generation,
            stale=self.stale,
            age_ms=age_ms if age_ms != float("inf") else -1.0,
            instances=select(self.of(name), host=self._host, want=want),
        )

    async def wait_for(self, wanted: Callable[[], bool], timeout_s: float) -> None:
        """Returns when `wanted` holds: now, after a change of the view or `wake`. Raises TimeoutError."""
        if wanted():
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (wanted, waiter)
        self._waiters.append(entry)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
        finally:
            self._waiters.remove(entry)

    def wake(self) -> None:
        """What somebody waits for may hold, though nothing was published."""
        for wanted, waiter in self._waiters:
            if not waiter.done() and wanted():
                waiter.set_result(None)

    def _publish(self) -> None:
        self._due = None
        loop = asyncio.get_running_loop()
        began = loop.time()
        dirty, self._dirty = self._dirty, set()
        for name in dirty:
            own = self.own(name)
            found = (*self._others.get(name, ()), *((own,) if own is not None else ()))
            if found or name in self.definitions:  # what is defined is known, also while nobody serves it
                self._entries[name] = Entry(name=name, instances=tuple(sorted(found, key=lambda i: i.host)))
            else:
                self._entries.pop(name, None)
                self._others.pop(name, None)
        fresh_for_ms = self._fresh_for_ms if self._fresh else 0
        self._guarded(lambda: self._writer.publish(self._entries, self.revision, fresh_for_ms))
        took_s = loop.time() - began
        self._not_before = began + took_s + min(MAX_DELAY_S, QUIET_FACTOR * took_s)
        self.wake()

    def _guarded(self, write: Callable[[], object]) -> None:
        # A full disk stops the snapshot, not the host: the last one stays readable, and this one goes on.
        try:
            write()
            self.trouble = None
        except SnapshotError as error:
            self.trouble = str(error)
