"""Hands etcd's leadership to the witness's member where `services.control.leadership` asks for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from services.control.leadership import Leadership, LeadershipPolicy, look
from services.hostd.config import HostConfig
from services.hostd.events import EventLog
from services.registry.etcd import EtcdClient
from services.registry.etcd_types import Endpoint, EtcdError, MemberStatus

LOOK_EVERY_S: Final = 1.0
ANSWER_LIMIT_S: Final = 0.5
MOVE_LIMIT_S: Final = 2.0
BEHIND: Final = 200
"""Log entries by which a member may be behind and still be called up to date."""

log = logging.getLogger("threenines.hostd")


class LeaderPreference:
    """`run` it as a task. Where there is no witness, or this host has no member, it ends at once."""

    def __init__(
        self,
        config: HostConfig,
        client: EtcdClient,
        events: EventLog,
        now_ns: Callable[[], int],
        policy: LeadershipPolicy | None = None,
    ) -> None:
        witnesses = {host.name for host in config.hosts if host.role == "witness"}
        members = {one.host: Endpoint(one.host, one.url) for one in config.etcd}
        self._own = members.get(config.host)
        self._witness = next((members[name] for name in sorted(witnesses & members.keys())), None)
        self._client = client
        self._events = events
        self._now_ns = now_ns
        self._policy = policy or LeadershipPolicy()
        self._state = Leadership()

    async def run(self) -> None:
        """Until it is cancelled."""
        while self._own is not None and self._witness is not None:
            await asyncio.sleep(LOOK_EVERY_S)
            await self._look(self._own, self._witness)

    async def _look(self, own: Endpoint, witness: Endpoint) -> None:
        leader = await self._status(own)
        leads = leader is not None and leader.is_leader
        follower = await self._status(witness) if leads else None
        well = (
            leader is not None
            and follower is not None
            and follower.leader == leader.member_id
            and not follower.errors
            and leader.raft_index - follower.raft_index <= BEHIND
        )
        self._state, move = look(
            self._state, leads=leads, witness_well=well, now_ns=self._now_ns(), policy=self._policy
        )
        if not move or follower is None:
            return
        try:
            await self._client.move_leader(own, follower.member_id, timeout_s=MOVE_LIMIT_S)
            self._events.add("etcd-leader-moved", detail=f"to {witness.host}")
        except EtcdError as error:
            log.warning("etcd's leadership was not handed to %s: %s", witness.host, error)

    async def _status(self, endpoint: Endpoint) -> MemberStatus | None:
        try:
            return await self._client.status(endpoint, timeout_s=ANSWER_LIMIT_S)
        except EtcdError:
            return None
