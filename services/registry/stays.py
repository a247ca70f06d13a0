"""`stays/<home>`: the agents of that home are to stay where they are until they are told to go home.

A wish of the operator, beside the records that decide who serves: it only keeps the holder from handing the
domain back by itself. Errors of etcd pass through (`etcd_types.EtcdError`).
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from services.registry.etcd import EtcdClient
from services.registry.etcd_types import Compare, CompareTarget, Delete, Put
from services.registry.keys import Keys
from services.registry.store import RecordError

FOLDER = "stays"


class Why(StrEnum):
    """Who wants them to stay."""

    OPERATOR = "operator"  # a switch-over with `stay`
    DRAIN = "drain"  # their home is being drained


class Stay(msgspec.Struct, frozen=True):
    """The value of `stays/<home>`."""

    home: str
    why: Why


class StayStore:
    """The records of one stack."""

    def __init__(self, client: EtcdClient, keys: Keys) -> None:
        self._client = client
        self._folder = f"{keys.prefix}{FOLDER}/"

    async def read(self, *, timeout_s: float) -> dict[str, Why]:
        """Every home whose agents are to stay away, linearizable. Raises EtcdError, RecordError."""
        listing = await self._client.list_prefix(self._folder, timeout_s=timeout_s)
        found = {}
        for kv in listing.kvs:
            try:
                stay = msgspec.json.decode(kv.value, type=Stay)
            except msgspec.MsgspecError as error:
                raise RecordError(f"{kv.key}: {error}; write it again or delete it") from error
            found[stay.home] = stay.why
        return found

    async def put(self, home: str, why: Why, *, timeout_s: float) -> None:
        """They stay away from now on."""
        value = msgspec.json.encode(Stay(home, why))
        await self._client.txn((), (Put(self._folder + home, value),), timeout_s=timeout_s)

    async def delete(self, home: str, why: Why | None = None, *, timeout_s: float) -> None:
        """They may go home. `why`: only if that is what keeps them."""
        key = self._folder + home
        compare = (
            () if why is None else (Compare(key, CompareTarget.VALUE, msgspec.json.encode(Stay(home, why))),)
        )
        await self._client.txn(compare, (Delete(key),), timeout_s=timeout_s)
