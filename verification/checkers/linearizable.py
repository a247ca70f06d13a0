"""Linearizability of registers, searched by Porcupine: a program of its own, another one than what is judged.

`threenines-porcupine` (infra/tools/porcupine) reads one operation a line and answers with the registers that
have no explanation. Without it the criterion is not measured, and says so.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence

import msgspec

from infra.tools.paths import ToolMissing, tool_path
from verification.checkers.registers import RegisterOp, operations
from verification.history import History
from verification.observations import Observation, Observations, VoidTrial
from verification.plan import RunPlan

TOOL = "porcupine"
LIMIT_S = 120
FOREVER_NS = 2**62


class _Line(msgspec.Struct, frozen=True, kw_only=True):
    """One operation for Porcupine. `value` -1: never written."""

    register: str
    process: str
    write: bool
    value: int
    begin_ns: int
    end_ns: int


class _Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Porcupine's answer for one register: `ok`, `illegal`, or `unknown` after too long a search."""

    register: str
    result: str
    operations: int


class LinearizableError(Exception):
    """Porcupine did not do its work."""


Search = Callable[[bytes], bytes]


def census(plan: RunPlan, history: History) -> Observations:
    """Each register of the history: whether an order explains it."""
    try:
        tool = str(tool_path(TOOL))
    except ToolMissing as missing:
        return Observations(voids=(VoidTrial("porcupine", f"not checked: {missing}"),), expected=("all",))
    return judged(plan, operations(history), lambda lines: _run(tool, lines))


def judged(plan: RunPlan, ops: Sequence[RegisterOp], search: Search) -> Observations:
    """Gives the operations to `search` and reads its answer. Raises LinearizableError."""
    registers = sorted({op.register for op in ops})
    if not registers:
        return Observations(expected=("all",))
    try:
        answers = msgspec.json.Decoder(_Verdict).decode_lines(search(encoded(ops)))
    except msgspec.MsgspecError as error:
        raise LinearizableError(f"porcupine's answer does not fit ({error})") from error
    found = {answer.register: answer for answer in answers}
    trials, voids, missing = [], [], []
    for register in registers:
        answer = found.get(register)
        if answer is None or answer.result == "unknown":
            voids.append(VoidTrial(register, "the search took too long"))
            continue
        good = answer.result == "ok"
        if not good:
            missing.append(register)
        trials.append(Observation(100.0 if good else 0.0, label=register, kept=good))
    return Observations(
        trials=tuple(trials),
        voids=tuple(voids),
        population=len(registers),
        sources=tuple(f"history/probe-{host}*.jsonl" for host in plan.hosts),
        facts=(("operations", f"{len(ops):,}"),),
        missing=tuple(missing),
    )


def encoded(ops: Sequence[RegisterOp]) -> bytes:
    """The operations as Porcupine's program reads them. A write that may be performed later never ends."""
    lines = (
        _Line(
            register=op.register,
            process=op.process,
            write=op.write,
            value=-1 if op.value is None else op.value,
            begin_ns=op.begin_ns,
            end_ns=FOREVER_NS if op.end_ns is None else op.end_ns,
        )
        for op in ops
    )
    return msgspec.json.Encoder().encode_lines(lines)


def _run(tool: str, lines: bytes) -> bytes:
    try:
        done = subprocess.run([tool], input=lines, capture_output=True, timeout=LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LinearizableError(f"porcupine: {error}") from error
    if done.returncode != 0:
        raise LinearizableError(f"porcupine: {done.stderr.decode(errors='replace').strip()[:300]}")
    return done.stdout
