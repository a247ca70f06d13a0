"""Registers temporary programs on one host and waits for them on the other."""

from __future__ import annotations

import asyncio

from loadtests.protocol import Await, Deregister, Register
from loadtests.record import Kind, Record
from verification.campaigns.bench import Bench, require
from verification.plan import RegistrationTrial

GRACE_S = 2.0
"""How much longer than its own limit the probe that waits is given."""


async def propagate(bench: Bench, timeout_s: float) -> None:
    """Every registration of the plan, in its order."""
    trials = bench.plan.registrations
    bench.progress.phase("registrations across hosts", len(trials))
    slowest_ms = 0.0
    missed = 0
    cleaning: set[asyncio.Task[None]] = set()
    try:
        for number, trial in enumerate(trials, 1):
            if bench.over():
                return
            took_ms = await _one(bench, trial, timeout_s)
            missed += took_ms is None
            slowest_ms = max(slowest_ms, took_ms or 0.0)
            task = asyncio.create_task(_take_back(bench, trial))
            cleaning.add(task)
            task.add_done_callback(cleaning.discard)
            bench.progress.tick(number, f"{missed} missed, slowest {slowest_ms:.0f} ms")
    finally:
        await asyncio.gather(*cleaning, return_exceptions=True)


async def _one(bench: Bench, trial: RegistrationTrial, timeout_s: float) -> float | None:
    """Milliseconds as the harness sees them, for the progress alone; the judge reads the history."""
    seen: asyncio.Future[Record] = asyncio.get_running_loop().create_future()

    def listen(record: Record) -> None:
        if record.f == "await" and record.type is not Kind.INVOKE and not seen.done():
            seen.set_result(record)

    origin, other = bench.probes[trial.origin], bench.probes[trial.other]
    begun: list[int] = []

    def listen_origin(record: Record) -> None:
        if record.f == "register" and record.type is Kind.INVOKE:
            begun.append(record.time_ns)

    with other.listening(trial.name, listen), origin.listening(trial.name, listen_origin):
        told = await other.ask(Await(name=trial.name, timeout_s=timeout_s))
        require(told.error, trial.other)
        answer = await origin.ask(Register(name=trial.name))
        if answer.error is not None:
            bench.note("registration refused", trial=trial.id, error=answer.error)
        try:
            async with asyncio.timeout(timeout_s + GRACE_S):
                record = await seen
        except TimeoutError:  # it has no end in the history, and so is made again where there are turns
            bench.note("registration not told of", trial=trial.id)
            return None
    if record.type is not Kind.OK or not begun:
        return None
    return (record.time_ns - begun[0]) / 1e6


async def _take_back(bench: Bench, trial: RegistrationTrial) -> None:
    answer = await bench.probes[trial.origin].ask(Deregister(name=trial.name))
    if answer.error is not None:
        bench.note("registration not taken back", trial=trial.id, error=answer.error)
