"""Keeps this host's record in etcd alive; what to do next is decided in services.control.lease."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from services.control.lease import (
    Absent,
    Acked,
    Ambiguous,
    Failed,
    Found,
    Lease,
    LeaseEvent,
    LeasePolicy,
    Read,
    Refused,
    Stop,
    Tick,
    Write,
    lease_step,
)
from services.registry.etcd_types import EtcdError, EtcdIndeterminate
from services.registry.model import HostRecord
from services.registry.store import RecordError, RegistryStore, Renewed


class HostLease:
    """`on_epoch` hears each epoch once etcd has acknowledged it, `on_renewal` how long each renewal took."""

    def __init__(
        self,
        store: RegistryStore,
        *,
        host: str,
        address: str,
        boot_id: str,
        floor_epoch: int,
        policy: LeasePolicy,
        now_ns: Callable[[], int],
        on_epoch: Callable[[int], None],
        on_renewal: Callable[[float], None],
    ) -> None:
        self._store = store
        self._host = host
        self._address = address
        self._policy = policy
        self._now_ns = now_ns
        self._on_epoch = on_epoch
        self._on_renewal = on_renewal
        self._lease = Lease(boot_id=boot_id, floor_epoch=floor_epoch)
        self._announced = 0
        self.trouble: str | None = None
        """Why the last renewal failed; None after a success."""

    @property
    def deadline_ns(self) -> int:
        """Until when this host may act (CLOCK_BOOTTIME); 0 before the record was first acknowledged."""
        return self._lease.deadline_ns(self._policy)

    @property
    def epoch(self) -> int:
        """The epoch of the last acknowledged record, 0 before the first."""
        return self._announced

    @property
    def seq(self) -> int:
        """Renewals sent so far."""
        return self._lease.seq

    def held(self) -> bool:
        """Whether this host may act now."""
        return self._lease.held(self._now_ns(), self._policy)

    async def run(self) -> None:
        """Renews until another hostd of this host has taken the record: then it returns."""
        event: LeaseEvent = Tick()
        while True:
            now_ns = self._now_ns()
            self._lease, actions = lease_step(self._lease, event, now_ns, self._policy)
            if isinstance(event, Acked):
                self._acknowledged(now_ns)
            if not actions:
                wait_s = max(0.0, (self._lease.next_ns - self._now_ns()) / 1e9)
                await asyncio.sleep(wait_s)
                event = Tick()
                continue
            action = actions[0]
            match action:
                case Stop():
                    return
                case Read():
                    event = await self._read()
                case Write():
                    event = await self._write(action)

    def _acknowledged(self, now_ns: int) -> None:
        self.trouble = None
        self._on_renewal((now_ns - self._lease.sent_ns) / 1e9)
        if self._lease.epoch != self._announced:
            self._announced = self._lease.epoch
            self._on_epoch(self._announced)

    async def _read(self) -> LeaseEvent:
        try:
            found = await self._store.read_host(self._host, timeout_s=self._policy.deadline_ns / 1e9)
        except EtcdError as error:
            self.trouble = str(error)
            return Failed()
        except RecordError as error:
            self.trouble = str(error)
            return Failed()
        if found is None:
            return Absent()
        record = found.record
        return Found(found.mod_revision, record.boot_id, record.epoch, record.seq)

    async def _write(self, write: Write) -> LeaseEvent:
        record = HostRecord(
            host=self._host,
            boot_id=self._lease.boot_id,
            epoch=write.epoch,
            seq=write.seq,
            address=self._address,
        )
        try:
            answer = await self._store.renew_host(
                record, write.revision, timeout_s=self._policy.deadline_ns / 1e9
            )
        except EtcdIndeterminate as error:
            self.trouble = str(error)
            return Ambiguous()
        except EtcdError as error:
            self.trouble = str(error)
            return Failed()
        except RecordError as error:
            # Refused, and what stands there is no record of ours.
            self.trouble = str(error)
            return Refused()
        return Acked(answer.mod_revision) if isinstance(answer, Renewed) else Refused()
