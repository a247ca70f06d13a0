"""PostgreSQL with both hosts in the connection string: libpq takes the one that is read-write."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import psycopg  # type: ignore[import-not-found]  # in Patroni's environment, not in the project's

from benchmarks.peers.registers import OPERATION_S, hosts_of

T = TypeVar("T")


class PostgresRegister:
    """Settings: `hosts`, `port`, `dsn` (without hosts)."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._names = hosts_of(settings)
        self._order = list(self._names)
        self._port, self._dsn = settings["port"], settings["dsn"]
        self._connection: Any = None

    async def add(self, client: str, n: int) -> str:
        statement = "INSERT INTO marks VALUES (%s, %s) RETURNING host(inet_server_addr())"
        rows = await self._run(statement, (client, n))
        return self._names[rows[0][0]]

    async def kept(self, client: str) -> set[int]:
        return {row[0] for row in await self._run("SELECT n FROM marks WHERE client = %s", (client,))}

    async def drop(self) -> None:
        """Tries the other host first next time: the first one may be dead and take the whole time."""
        self._order.reverse()
        connection, self._connection = self._connection, None
        if connection is not None:
            _cut(connection)

    async def _run(self, statement: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        if self._connection is None:
            self._connection = await psycopg.AsyncConnection.connect(
                f"host={','.join(self._order)} port={self._port} target_session_attrs=read-write {self._dsn}",
                autocommit=True,
            )
        return await _unless_cut(self._execute(self._connection, statement, values))

    @staticmethod
    async def _execute(connection: Any, statement: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        cursor = await connection.execute(statement, values)
        rows: list[tuple[Any, ...]] = await cursor.fetchall()
        return rows


async def _unless_cut(work: Coroutine[Any, Any, T]) -> T:
    """`work` to its end, or TimeoutError while it goes on.

    A cancelled statement would make psycopg ask a dead host for seconds to cancel it. Left alone, it ends
    when `drop` shuts its socket down.
    """
    task = asyncio.ensure_future(work)
    task.add_done_callback(_heard)
    done, _ = await asyncio.wait({task}, timeout=OPERATION_S)
    if not done:
        raise TimeoutError
    return task.result()


def _heard(task: asyncio.Future[Any]) -> None:
    if not task.cancelled():
        task.exception()


def _cut(connection: Any) -> None:
    with suppress(OSError, psycopg.Error):
        copy = socket.socket(fileno=os.dup(connection.fileno()))
        with copy:
            copy.shutdown(socket.SHUT_RDWR)
