"""The life of hostd: take hold of what runs, serve, keep the word in etcd, and leave the agents running."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import uuid
from collections.abc import Coroutine, Iterable

import aiohttp
import msgspec

from services.agent.client import Client
from services.control.agent_table import Phase
from services.hostd.access import client_tls, server_tls
from services.hostd.agents import Supervisor, trim_logs
from services.hostd.api import Api, Readiness
from services.hostd.clock import boottime_ns
from services.hostd.config import HostConfig
from services.hostd.definitions import Definitions
from services.hostd.disk import SEQ_STEP, CachedView, DiskCache
from services.hostd.distributed import Distribution
from services.hostd.events import EventLog
from services.hostd.external import Externals
from services.hostd.failover import Failover, prepare
from services.hostd.leadership import LeaderPreference
from services.hostd.lease import HostLease
from services.hostd.local import LocalServer
from services.hostd.metrics import HostFigures, HostMetrics
from services.hostd.records import RecordWriter
from services.hostd.status import EtcdStatus, SnapshotStatus, Status, listening
from services.hostd.view import View
from services.hostd.zygote_client import Zygote
from services.registry.etcd import EtcdClient
from services.registry.etcd_types import Endpoint, EtcdDefinite
from services.registry.keys import Keys
from services.registry.model import Entry, Instance
from services.registry.snapshot import SnapshotWriter
from services.registry.store import RegistryStore
from services.registry.watcher import Record, RegistryWatcher, Update

FRESH_FOR_MS = 1000
FIRST_LIST_S = 1.0
ADOPTION_S = 1.5
HOUSEKEEPING_S = 0.25
LOGS_EVERY = 240  # rounds of housekeeping
REFUSED_RETRY_S = 5.0
EXIT_REPLACED = 3
EXIT_BROKEN = 4

log = logging.getLogger("threenines.hostd")


class Daemon:
    """One life of hostd. `run` returns its exit status."""

    def __init__(self, config: HostConfig) -> None:
        self._config = config
        self._leave = asyncio.Event()
        self._exit_status = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> int:
        """Serves until SIGTERM, or until another hostd has taken this host."""
        self._open()
        try:
            self._take_hold_of_agents()
            await self._serve()
            for work in (
                self._renew(),
                self._watch(),
                self._keep_house(),
                self.distribution.run(FIRST_LIST_S),
            ):
                self._keep_running(work)
            if self.failover is not None:
                preference = LeaderPreference(self._config, self._etcd, self.events, boottime_ns)
                self._keep_running(preference.run())
            await self._start_agents()
            await self._leave.wait()
        finally:
            await self._close()
        return self._exit_status

    def leave(self) -> None:
        """Ends `run`. The agents stay."""
        self._leave.set()

    # The stages.

    def _open(self) -> None:
        config = self._config
        self.started_ns = boottime_ns()
        self.boot_id = uuid.uuid4().hex
        (config.run_folder / "agents").mkdir(parents=True, exist_ok=True)
        (config.data_folder / "agents").mkdir(parents=True, exist_ok=True)
        self._writer = SnapshotWriter(config.run_folder / "discovery.snap")
        self.disk = DiskCache(config.data_folder)
        last_life = self.disk.begin_life()
        self.events = EventLog(
            config.host, config.data_folder / "events.jsonl", first_seq=self.disk.identity.life * SEQ_STEP
        )
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60.0))
        self.keys = Keys(config.stack)
        endpoints = [Endpoint(one.host, one.url) for one in config.etcd]
        secure = any(one.url.startswith("https:") for one in config.etcd)
        self._etcd = EtcdClient(endpoints, tls=client_tls(config.pki_folder) if secure else None)
        store = RegistryStore(self._etcd, self.keys)
        self.metrics = HostMetrics(self._figures)
        self.records = RecordWriter(self._etcd, on_write=self.metrics.request.observe)
        self.view = View(
            config.host, self._writer, own=self._own, fresh_for_ms=FRESH_FOR_MS, now_ns=boottime_ns
        )
        self.supervisor = Supervisor(
            config,
            events=self.events,
            zygote=Zygote(config.run_folder / "zygote.sock"),
            http=self._http,
            floor=last_life.incarnation_ceiling,
            on_change=self._changed,
            on_incarnation=lambda incarnation: self.disk.remember(incarnation=incarnation),
        )
        self.externals = Externals(
            config.host,
            config.local,
            config.data_folder / "registrations.json",
            http=self._http,
            now_ns=boottime_ns,
            changed=self._changed,
            epoch=self.supervisor.epoch,
        )
        self.definitions = Definitions(
            config.host,
            keys=self.keys,
            client=self._etcd,
            store=store,
            records=self.records,
            view=self.view,
            supervisor=self.supervisor,
            events=self.events,
        )
        self.failover = self._open_failover(last_life.epoch) if config.ownership else None
        self.lease = (
            self.failover.ownership
            if self.failover is not None
            else HostLease(
                store,
                host=config.host,
                address=config.address,
                boot_id=self.boot_id,
                floor_epoch=last_life.epoch,
                policy=config.lease.policy(),
                now_ns=boottime_ns,
                on_epoch=self._claimed,
                on_renewal=self.metrics.renewal.observe,
            )
        )
        self._watcher = RegistryWatcher(
            self._etcd, self.keys, self._told, on_alive=self._alive, on_records=self._noticed
        )
        self.distribution = Distribution(
            config,
            needs_view=lambda: not self.view.seen,
            take=lambda entries, revision: self.view.told({}, entries, None, revision),
        )
        self._listed = asyncio.Event()
        self._held_back: set[str] | None = set()
        self._caller = Client(config.run_folder, config.host)
        self.local = LocalServer(
            config.run_folder / "hostd.sock", self.supervisor, self.view, self._own_metrics
        )
        self.api = Api(
            config,
            view=self.view,
            supervisor=self.supervisor,
            definitions=self.definitions,
            externals=self.externals,
            events=self.events,
            metrics=self.metrics,
            client=self._caller,
            status=self.status,
            ready=self.ready,
            failover=self.failover,
        )
        if self.failover is not None:
            self.failover.open_door(self.local)

    def _open_failover(self, floor_epoch: int) -> Failover:
        # What runs was started under the other setting, or has a fence: to be known before there is one.
        self.supervisor.find_running()
        prepare(self._config, self.supervisor)
        return Failover(
            self._config,
            client=self._etcd,
            keys=self.keys,
            boot_id=self.boot_id,
            floor_epoch=floor_epoch,
            now_ns=boottime_ns,
            supervisor=self.supervisor,
            definitions=self.definitions,
            view=self.view,
            events=self.events,
            changed=self._publish,
            on_epoch=self._claimed,
            on_renewal=self.metrics.renewal.observe,
        )

    def _take_hold_of_agents(self) -> None:
        """Agents outlive hostd: those that run are adopted before anything else is said about them."""
        self.events.add("hostd-started", detail=f"life {self.disk.identity.life}")
        if self.failover is None:
            self.supervisor.find_running()
            prepare(self._config, self.supervisor)
        cached = self.disk.load_view()
        if cached is not None:
            specs = {spec.name: spec for spec in cached.definitions}
            self.view.told(specs, _entries(cached.instances), None, cached.revision)
            self.definitions.adopt(specs)
        self.externals.load()

    async def _serve(self) -> None:
        await self.local.start()
        await self.api.start(server_tls(self._config.pki_folder))

    async def _start_agents(self) -> None:
        """What etcd defines, or, when it does not answer, what ran last time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ADOPTION_S):
                await asyncio.gather(
                    *(
                        runner.wait_for(lambda state: state.phase is not Phase.STARTING, ADOPTION_S)
                        for runner in self.supervisor.runners.values()
                    )
                )
        self._speak()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_LIST_S):
                await self._listed.wait()
        if not self._listed.is_set() and self.view.seen:
            self.events.add("started-from-cache", detail="etcd does not answer")
            self.definitions.start_from_cache(self.view.definitions)

    async def _close(self) -> None:
        self.events.add("hostd-leaving")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.api.stop()
        await self.local.stop()
        self.externals.stop()
        if self.failover is not None:
            self.failover.close()
        self.supervisor.release()
        await self.records.close()
        await self._caller.close()
        await self._etcd.close()
        await self._http.close()
        await self.disk.close()
        await self.events.close()
        self._writer.close()

    # What runs all the time.

    def _keep_running(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.append(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            # Half a hostd is worse than none: the supervisor starts another, which adopts the agents.
            log.error("hostd cannot go on", exc_info=error)
            self._exit_status = EXIT_BROKEN
            self.leave()

    async def _renew(self) -> None:
        await self.lease.run()
        log.error("another hostd has taken the record of %s: leaving", self._config.host)
        self.events.add("replaced-by-another-hostd")
        self._exit_status = EXIT_REPLACED
        self.leave()

    async def _watch(self) -> None:
        while True:
            try:
                await self._watcher.run()
            except EtcdDefinite as error:
                log.error("etcd refuses this host: %s", error)
                await asyncio.sleep(REFUSED_RETRY_S)

    async def _keep_house(self) -> None:
        rounds = 0
        held = False
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            if self.lease.held() != held:
                held = not held
                self.events.add("lease-held" if held else "lease-lost", detail=self.lease.trouble or "")
            if not held:
                self.view.doubt()
            if self.failover is not None:
                self.failover.keep_house()
            rounds += 1
            if rounds % LOGS_EVERY == 0:
                await trim_logs(self._config.data_folder / "agents")

    # What is heard.

    def _told(self, update: Update) -> None:
        first = not self._listed.is_set()
        went_back = update.revision < self.view.revision
        definitions = self._watcher.view.definitions
        names = None if first or went_back else update.change.names
        self.view.told(definitions, update.entries, names, update.revision)
        if first or went_back or update.change.definitions:
            self.definitions.told(definitions, update.entries, update.revision)
        for name in update.change.names:
            self._check_echo(name, update.entries.get(name))
        for host in sorted(update.change.gone):
            self.events.add("host-gone", detail=host)
        for host in sorted(update.change.came):
            self.events.add("host-came", detail=host)
        self._listed.set()
        self.distribution.offer(update)
        self.disk.save_view_soon(self._cached_view)

    def _check_echo(self, name: str, entry: Entry | None) -> None:
        """Our own record as etcd has it should be the one that we wrote; see `RecordWriter.repair`."""
        own = self._own(name)
        told = (
            next((one for one in entry.instances if one.host == self._config.host), None) if entry else None
        )
        if (own.incarnation if own else 0) != (told.incarnation if told else 0):
            self.records.repair(self.keys.instance(name, self._config.host))

    def _alive(self, revision: int) -> None:
        self.view.revision = max(self.view.revision, revision)
        if self.lease.held():
            self.view.confirm()

    def _claimed(self, epoch: int) -> None:
        self.events.add("epoch-claimed", detail=str(epoch))
        self.supervisor.host_epoch = epoch
        self.disk.remember(epoch=epoch)
        for name in (*self.supervisor.runners, *self.externals.names()):
            self._changed(name)

    def _own(self, name: str) -> Instance | None:
        return self.supervisor.instance(name) or self.externals.instance(name)

    def _changed(self, name: str) -> None:
        self._publish(name)
        if self.failover is not None:
            self.failover.household.agent_changed(name)

    def _noticed(self, records: Iterable[Record]) -> None:
        ours = f"/{self._config.host}"
        self.records.told(
            {r.key: 0 if r.value is None else r.mod_revision for r in records if r.key.endswith(ours)}
        )
        if self.failover is not None:
            self.failover.ownership.records(records)

    def _publish(self, name: str) -> None:
        if self._held_back is not None:
            self._held_back.add(name)
            return
        self.view.changed(name)
        instance = self._own(name)
        key = self.keys.instance(name, self._config.host)
        if instance is None:
            self.records.delete(key)
        else:
            self.records.put(key, msgspec.json.encode(instance))

    def _speak(self) -> None:
        """Adoption is over. Until now the world was told nothing, so that a restart of hostd does not make
        agents that never stopped look as if they were starting."""
        names, self._held_back = self._held_back or set(), None
        for name in names:
            self._publish(name)

    def _cached_view(self) -> CachedView:
        return CachedView(
            revision=self.view.revision,
            definitions=tuple(self.definitions.effective().values()),
            instances=tuple(self.view.instances()),
        )

    # What is told.

    def ready(self) -> Readiness:
        """Whether this host answers, and what is wrong with its answers."""
        if self._held_back is not None:
            return Readiness(False, "taking hold of running agents")
        if not self.view.seen:
            return Readiness(False, f"no view yet, etcd: {self.lease.trouble or 'not asked yet'}")
        if self.view.trouble is not None:
            return Readiness(True, self.view.trouble)
        if not self._listed.is_set() or not self.lease.held():
            return Readiness(True, "etcd unreachable")
        return Readiness(True, None)

    def status(self) -> Status:
        """Everything about this host at a glance."""
        age_ms = self.view.age_ms()
        known_age_ms = None if age_ms == float("inf") else round(age_ms, 3)
        counts = dict(self.supervisor.counts())
        sources = (self.lease, self.records, self.disk, self.events, self.view)
        return Status(
            host=self._config.host,
            stack=self._config.stack,
            boot_id=self.boot_id,
            started_ns=self.started_ns,
            epoch=self.lease.epoch,
            lease_deadline_ns=self.lease.deadline_ns,
            etcd=EtcdStatus(self.lease.held(), self.view.revision, known_age_ms),
            agents={"total": sum(counts.values()), "up": 0, **counts},
            zygote=listening(self._config.run_folder / "zygote.sock"),
            gateway=listening(self._config.run_folder / "gateway.sock"),
            snapshot=SnapshotStatus(self.view.generation, known_age_ms, self.view.stale),
            trouble=tuple(one.trouble for one in sources if one.trouble is not None),
        )

    def _figures(self) -> HostFigures:
        return HostFigures(
            agents=self.supervisor.counts(),
            # Zeros first: a counter that begins at one hides its first step from increase().
            restarts={
                **{(name, cause): 0 for name in self.supervisor.runners for cause in ("crash", "hang")},
                **self.supervisor.restarts,
            },
            generation=self.view.generation,
            snapshot_age_s=self.view.age_ms() / 1000,
            stale=self.view.stale,
            etcd_up=self.lease.trouble is None and self.lease.held(),
            records_pending=self.records.pending,
            lease_held=self.lease.held(),
            epoch=self.lease.epoch,
            event_lines_lost=self.events.lost_lines,
        )

    async def _own_metrics(self) -> str:
        return self.metrics.text()


def _entries(instances: tuple[Instance, ...]) -> dict[str, Entry]:
    by_name: dict[str, list[Instance]] = {}
    for instance in instances:
        by_name.setdefault(instance.name, []).append(instance)
    return {name: Entry(name=name, instances=tuple(found)) for name, found in by_name.items()}


async def serve(config: HostConfig) -> int:
    """Runs hostd under SIGTERM and SIGINT; its exit status."""
    daemon = Daemon(config)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.leave)
    return await daemon.run()
