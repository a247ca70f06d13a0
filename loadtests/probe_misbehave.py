"""Making an agent fail its calls, and proving that it does: by its own next call."""

from __future__ import annotations

import asyncio

from loadtests.probe_output import Output
from loadtests.protocol import Misbehave, Proof
from loadtests.record import Kind
from services.agent.client import Client
from services.agent.errors import CallError, Code

PROOF_LIMIT_S = 0.1
"""How long the call waits that proves `slow`: many times what a sound agent needs."""
PROOFS = 3


async def misbehave(output: Output, client: Client, command: Misbehave) -> None:
    """Tells the agent to fail; the operation `misbehaving` ends with the call that proves it."""
    process, f = f"misbehaving-{output.host}-{command.agent}", "misbehaving"
    proof = Proof(trial=command.trial, pid=0, incarnation=0)
    output.invoke(process, f, command.agent, proof)
    try:
        body = {"mode": command.mode, "seconds": command.seconds}
        await client.call(command.agent, "misbehave", body, timeout_s=1.0)
        if command.mode == "none":
            output.end(process, Kind.FAIL, f, command.agent, proof)
            return
        proved = await _proved(client, command)
    except CallError as error:
        output.end(process, Kind.FAIL, f, command.agent, Proof(trial=command.trial, pid=0, incarnation=0))
        raise MisbehaveError(f"{command.agent}: {error}") from error
    fact = command.mode if proved else "none"
    kind = Kind.OK if proved else Kind.FAIL
    output.end(process, kind, f, command.agent, Proof(trial=command.trial, pid=0, incarnation=0, fact=fact))


class MisbehaveError(Exception):
    """The agent could not be told to fail."""


async def _proved(client: Client, command: Misbehave) -> bool:
    wanted = {"errors": {Code.HANDLER_ERROR}, "slow": {Code.DEADLINE, Code.INDETERMINATE}}[command.mode]
    for _ in range(PROOFS):
        try:
            await client.call(command.agent, "recall", {"key": "proof"}, timeout_s=PROOF_LIMIT_S)
        except CallError as error:
            if error.code in wanted:
                return True
        await asyncio.sleep(0)
    return False
