"""A campaign at one fault, until somebody kills it: `-m tests.verification.covering KIND < charge`.

KIND is one of the faults on hosts, or `hang`, `errors`, `slow` of an agent. It goes the campaigns' own way:
their session, their cover, their undo, their injection and proof; it says "broken" and never heals.
"""

from __future__ import annotations

import asyncio
import sys

import msgspec

from chaos import messages as m
from chaos.guard import Charge
from chaos.stage import Stage
from infra.substrates import open_substrate
from verification.campaigns.faults import MISBEHAVIOUR, undo_of
from verification.campaigns.guarded import Guarded
from verification.campaigns.host_faults import KINDS, Scene, proved
from verification.plan import FaultTrial

AGENT = FaultTrial(id="t", fault="", agent="one", home="a")


async def main(name: str) -> None:
    """Breaks it and waits to be killed."""
    charge = msgspec.json.decode(sys.stdin.buffer.read(), type=Charge)
    assert charge.fleet is not None
    stage = Stage(charge.environment, fleet=charge.fleet)
    scene = Scene(open_substrate(charge.environment), victim="b", observer="a", witness="w")
    guarded = Guarded(charge.environment, charge.fleet)
    kind = KINDS.get(name)
    trial = msgspec.structs.replace(AGENT, fault=name)
    undo = undo_of(trial) if kind is None else kind.undo(scene)
    await guarded.stand()
    async with guarded.covered(name, ("host/b",), undo):
        if kind is not None:
            await asyncio.to_thread(kind.inject, scene)
            assert await proved(kind, scene), name
        elif name in MISBEHAVIOUR:
            body = msgspec.json.encode({"mode": name, "seconds": 110}).decode()
            request = m.Call(agent=trial.agent, method="misbehave", body=body, timeout_ms=2000)
            assert stage.ask(trial.home, request, m.CallView).outcome == "ok"
        else:
            scene.substrate.signal(trial.home, f"agent/{trial.agent}", "STOP")
        print("broken", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
