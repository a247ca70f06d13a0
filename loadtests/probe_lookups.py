"""Look-ups as an agent makes them: warm, cold, and one of each name; and the error of the clock they use."""

from __future__ import annotations

import asyncio
import sys

import msgspec

from loadtests.probe_output import Output
from loadtests.protocol import Answer, Calibrate, Calibration, Census, Cold, LookUps, Trouble
from loadtests.record import Kind, now_ns
from services.agent.client import Client
from services.agent.errors import CallError

SLEEP_S = 0.002
"""What the instruments' check sleeps, and how often watches look."""


START_ALLOWANCE_S = 30.0
"""For the start of an interpreter on a busy machine: no part of the look-up, which has its own limit."""


class ColdResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a fresh interpreter reports about its first look-up."""

    begin_ns: int
    end_ns: int
    answer: Answer | None = None
    trouble: Trouble | None = None


def look_up(client: Client, name: str) -> Answer:
    """One look-up; raises `CallError` when there is no answer."""
    found = client.resolve(name)
    return Answer(usable=len(found.instances), stale=found.stale, age_ms=found.age_ms)


def cold_look_up(name: str) -> str:
    """The first look-up of this process, as one JSON line: client made, snapshot opened and asked."""
    Client()  # imports what a client imports when it is made; opens nothing
    begin_ns = now_ns()
    try:
        answer = look_up(Client(), name)
        result = ColdResult(begin_ns=begin_ns, end_ns=now_ns(), answer=answer)
    except CallError as error:
        trouble = Trouble(error=error.message, code=error.code)
        result = ColdResult(begin_ns=begin_ns, end_ns=now_ns(), trouble=trouble)
    return msgspec.json.encode(result).decode() + "\n"


class LookUpWork:
    """Runs look-ups and records them."""

    def __init__(self, output: Output, client: Client) -> None:
        self._output = output
        self._client = client

    def census(self, command: Census) -> None:
        """Each name once."""
        for name in command.names:
            self._one("census", name)

    async def warm(self, command: LookUps) -> None:
        """The names in order, paced; each look-up blocks nobody but this process."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        for number, name in enumerate(command.names):
            due = begin + number / command.per_s
            if (wait := due - loop.time()) > 0.002:
                await asyncio.sleep(wait)
            self._one("lookup", name)

    async def cold(self, command: Cold) -> None:
        """Each name in a fresh interpreter."""
        for name in command.names:
            await self._cold(name, command.timeout_s)
            await asyncio.sleep(command.pause_s)

    async def calibrate(self, command: Calibrate) -> Calibration:
        """The clock's smallest step, and how late a sleeper is woken."""
        step = min(step for step in (-now_ns() + now_ns() for _ in range(2000)) if step > 0)
        late: list[float] = []
        end_ns = now_ns() + int(command.seconds * 1e9)
        while (before_ns := now_ns()) < end_ns:
            await asyncio.sleep(SLEEP_S)
            late.append((now_ns() - before_ns) / 1e6 - SLEEP_S * 1e3)
        late.sort()
        return Calibration(
            clock_step_ns=step,
            wake_late_p50_ms=late[len(late) // 2],
            wake_late_p99_ms=late[min(len(late) - 1, int(len(late) * 0.99))],
            wake_late_max_ms=late[-1],
            samples=len(late),
        )

    def _one(self, f: str, name: str) -> None:
        process = f"{f}-{self._output.host}"
        begin_ns = now_ns()
        try:
            answer = look_up(self._client, name)
        except CallError as error:
            end_ns = now_ns()
            self._output.invoke(process, f, name, time_ns=begin_ns)
            self._output.end(
                process, Kind.FAIL, f, name, Trouble(error=error.message, code=error.code), end_ns
            )
            return
        end_ns = now_ns()
        self._output.invoke(process, f, name, time_ns=begin_ns)
        self._output.end(process, Kind.OK, f, name, answer, end_ns)

    async def _cold(self, name: str, timeout_s: float) -> None:
        process, f = f"cold-lookup-{self._output.host}", "cold-lookup"
        asked_ns = now_ns()
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "loadtests.probe",
            "--cold",
            name,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(timeout_s + START_ALLOWANCE_S):
                out, err = await child.communicate()
            result = msgspec.json.decode(out, type=ColdResult)
        except (TimeoutError, msgspec.MsgspecError) as error:
            what = f"no answer in {timeout_s:g} s" if isinstance(error, TimeoutError) else _last_line(err)
            self._output.invoke(process, f, name, time_ns=asked_ns)
            self._output.end(process, Kind.FAIL, f, name, Trouble(error=what))
            return
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        self._output.invoke(process, f, name, time_ns=result.begin_ns)
        kind = Kind.OK if result.answer is not None else Kind.FAIL
        self._output.end(process, kind, f, name, result.answer or result.trouble, result.end_ns)


def _last_line(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "the process said nothing"
