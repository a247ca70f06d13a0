"""The probe as a client of its host's daemon: follows events, registers temporary programs."""

from __future__ import annotations

import asyncio
import os

import aiohttp
import msgspec

from infra.topology import Port
from loadtests.probe_output import Output
from loadtests.protocol import Deregister, Event, Events, Register, Trouble
from loadtests.record import Kind, now_ns

TIMEOUT_S = 5.0


class DaemonError(Exception):
    """The daemon did not do what it was asked."""


class Daemon:
    """Talks to `http://<local>:7700`."""

    def __init__(self, output: Output) -> None:
        self._output = output
        local = os.environ.get("THREENINES_LOCAL", "127.0.0.1")
        self._local = local
        self._base = f"http://{local}:{int(Port.HOSTD_LOCAL)}"
        self._session: aiohttp.ClientSession | None = None
        self._following: asyncio.Task[None] | None = None
        self._listener: asyncio.Server | None = None
        self._events = msgspec.json.Decoder(Event)

    async def follow(self, command: Events) -> None:
        """Begins to follow events that come from now on."""
        if self._following is None:
            last = 0
            for event in await self._fetch(0):
                last = max(last, event.seq)
            self._following = asyncio.create_task(self._follow(last, command.interval_ms / 1000.0))

    async def register(self, command: Register) -> None:
        """Registers a program of this host that listens, under `command.name`."""
        port = await self._listening()
        body = {
            "name": command.name,
            "port": port,
            "category": "probe",
            "tags": {"made-by": "verification"},
            "health": {"kind": "tcp"},
        }
        await self._request("register", "POST", "/v1/registrations", command.name, body)

    async def deregister(self, command: Deregister) -> None:
        """Takes the registration back."""
        await self._request("deregister", "DELETE", f"/v1/registrations/{command.name}", command.name, None)

    async def close(self) -> None:
        """Ends what goes on."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()
        if self._session is not None:
            await self._session.close()

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
        return self._session

    async def _listening(self) -> int:
        if self._listener is None:
            self._listener = await asyncio.start_server(
                lambda _, writer: writer.close(), host=self._local, port=0
            )
        return int(self._listener.sockets[0].getsockname()[1])

    async def _request(self, f: str, verb: str, path: str, name: str, body: object) -> None:
        process = f"{f}-{self._output.host}-{name}"
        self._output.invoke(process, f, name)
        try:
            async with self._http().request(verb, self._base + path, json=body) as response:
                text = await response.text()
                status = response.status
        except (aiohttp.ClientError, TimeoutError) as error:
            told = f"{type(error).__name__}: {error}"
            self._output.end(process, Kind.INFO, f, name, Trouble(error=told))
            raise DaemonError(f"{verb} {path}: {told}") from error
        if status >= 400:
            self._output.end(process, Kind.FAIL, f, name, Trouble(error=text[:300], code=str(status)))
            raise DaemonError(f"{verb} {path}: {status} {text[:300]}")
        self._output.end(process, Kind.OK, f, name)

    async def _fetch(self, since: int) -> list[Event]:
        async with self._http().get(f"{self._base}/v1/events", params={"since": str(since)}) as response:
            if response.status != 200:
                raise DaemonError(f"GET /v1/events: {response.status} {(await response.text())[:300]}")
            return [self._events.decode(line) for line in (await response.read()).splitlines() if line]

    async def _follow(self, last: int, interval_s: float) -> None:
        process = f"event-{self._output.host}"
        failing = False
        while True:
            begin_ns = now_ns()
            try:
                events = await self._fetch(last)
            except (aiohttp.ClientError, TimeoutError, DaemonError) as error:
                if not failing:
                    self._output.invoke(process, "event", None, time_ns=begin_ns)
                    self._output.end(process, Kind.FAIL, "event", None, Trouble(error=str(error)))
                failing = True
            else:
                failing = False
                if events:
                    last = events[-1].seq
                    self._output.invoke(process, "event", None, time_ns=begin_ns)
                    self._output.end(process, Kind.OK, "event", None, events)
            await asyncio.sleep(interval_s)
