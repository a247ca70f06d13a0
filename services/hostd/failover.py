"""Everything that `ownership: true` adds to hostd, put together: one object for the daemon to hold."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial

from services.agent import fence, pidfile
from services.control.domains import Unit
from services.control.holdings import OwnershipPolicy
from services.hostd.agents import Supervisor
from services.hostd.config import HostConfig
from services.hostd.definitions import Definitions
from services.hostd.events import EventLog
from services.hostd.grouping import GroupingStore
from services.hostd.household import AgentHousehold
from services.hostd.local import LocalServer
from services.hostd.orders import Orders
from services.hostd.ownership import HostOwnership
from services.hostd.state import StateDoor, read_content
from services.hostd.view import View
from services.hostd.watchdog import LOCK
from services.registry.domains import DomainStore
from services.registry.etcd import EtcdClient
from services.registry.etcd_types import Delete
from services.registry.keys import Keys
from services.registry.stays import StayStore

MS = 1_000_000


def prepare(config: HostConfig, supervisor: Supervisor) -> None:
    """Before agents are claimed. Those that run under the other setting of `ownership` know nothing of the
    fence, or wait for one that never comes: they are ended, and started anew."""
    path = config.run_folder / fence.NAME
    if path.exists() != config.ownership:
        supervisor.kill_unclaimed()
        if not config.ownership:
            path.unlink(missing_ok=True)


class Failover:
    """Ownership of this host's agents: `run` it as a task in place of the lease's."""

    def __init__(
        self,
        config: HostConfig,
        *,
        client: EtcdClient,
        keys: Keys,
        boot_id: str,
        floor_epoch: int,
        now_ns: Callable[[], int],
        supervisor: Supervisor,
        definitions: Definitions,
        view: View,
        events: EventLog,
        changed: Callable[[str], None],
        on_epoch: Callable[[int], None],
        on_renewal: Callable[[float], None],
    ) -> None:
        self._config = config
        self._definitions = definitions
        self._workers = tuple(host.name for host in config.hosts if host.role == "worker")
        store = DomainStore(
            client,
            keys,
            stack=config.stack,
            host=config.host,
            address=config.address,
            boot_id=boot_id,
        )
        grouping = GroupingStore(store)
        self.household = AgentHousehold(
            config,
            fence=fence.FenceWriter(config.run_folder / fence.NAME),
            supervisor=supervisor,
            view=view,
            events=events,
            now_ns=now_ns,
            changed=changed,
            read_state=partial(read_content, grouping),
        )
        self.ownership = HostOwnership(
            store,
            host=config.host,
            workers=self._workers,
            boot_id=boot_id,
            floor_epoch=floor_epoch,
            policy=OwnershipPolicy(
                lease=config.lease.policy(),
                quiesce_ns=config.failover.quiesce_ms * MS,
                start_grace_ns=config.failover.start_grace_ms * MS,
            ),
            now_ns=now_ns,
            household=self.household,
            on_epoch=on_epoch,
            on_renewal=on_renewal,
        )
        self.household.ownership = self.ownership
        self.household.reconsider = definitions.reconsider
        self._stays = StayStore(client, keys)
        self.household.stays = self._stays
        self.orders = Orders(
            config.host, self._workers, self._stays, self.ownership, self.household, definitions, events
        )
        definitions.belongs = self.household.belongs
        definitions.in_order = self.household.in_order
        definitions.left_behind = lambda name: (Delete(store.state_folder(name), prefix=True),)
        supervisor.standing = self.household.standing
        supervisor.to_serve = self.household.serving
        self._door = StateDoor(config.host, grouping, self.ownership, supervisor)
        self._watchdog: subprocess.Popen[bytes] | None = None

    def open_door(self, local: LocalServer) -> None:
        """Lets agents write and read their state. From here on the loop runs."""
        self.household.begin()
        local.add("state-write", self._door.write)
        local.add("state-read", self._door.read)

    def keep_house(self) -> None:
        """Now and then."""
        definitions = self._definitions.effective()
        agents = definitions.values()
        self.ownership.stand_by({Unit(s.home, s.name): s.standby for s in agents if s.standby is not None})
        self.household.keep_house(definitions)
        self.orders.keep_house()
        if self._config.failover.watchdog and (self._watchdog is None or self._watchdog.poll() is not None):
            self._start_watchdog()

    def close(self) -> None:
        """hostd leaves. The watchdog stays, as the agents do."""
        self.orders.close()
        self.household.close()

    def _start_watchdog(self) -> None:
        holder = pidfile.read(self._config.run_folder / LOCK)
        if holder is not None and pidfile.alive(holder):
            return
        grace_ms = self._config.lease.margin_ms / 2
        # A session of its own: what ends hostd's process group must not end who watches over it.
        self._watchdog = subprocess.Popen(
            [sys.executable, "-m", "services.hostd.watchdog", str(self._config.run_folder), f"{grace_ms:g}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
