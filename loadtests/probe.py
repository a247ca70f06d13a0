"""A measuring program that runs on a host: `python -m loadtests.probe`.

It takes commands as JSON lines on its standard input and writes the raw history of what it did to its
standard output (`loadtests.protocol`). It sees the stack as an agent does: through the agents' client and
the host's own API. It leaves when its input ends, so a killed harness leaves no probe behind.
`python -m loadtests.probe --cold NAME` is one cold look-up, printed as one line.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator

import msgspec

from loadtests.probe_output import Output
from loadtests.protocol import (
    AnyCommand,
    Arm,
    Await,
    Calibrate,
    Call,
    Census,
    Cold,
    Deregister,
    Done,
    Events,
    Exchange,
    Fleet,
    Hello,
    LookUps,
    Misbehave,
    ReadClock,
    Register,
    Registers,
    Release,
    Stop,
    Watch,
)
from loadtests.record import now_ns
from services.agent.client import Client


def main() -> None:
    """Runs the probe until its input ends, or one cold look-up."""
    if len(sys.argv) == 3 and sys.argv[1] == "--cold":
        from loadtests.probe_lookups import cold_look_up

        sys.stdout.write(cold_look_up(sys.argv[2]))
        return
    if len(sys.argv) != 1:
        sys.stderr.write(
            "threenines: loadtests.probe: takes no arguments; use `--cold NAME` for a cold look-up\n"
        )
        raise SystemExit(64)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches a whole group; the harness ends the probe
    if os.getpid() != os.getpgrp():
        # Where Linux weighs sessions against each other, a probe weighs as much as an agent, each of which is
        # one too; in the harness's it would share its turn with the load.
        os.setsid()
    import uvloop

    gc.freeze()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(Probe.serve())


class Probe:
    """The life of a probe: greet, obey, leave."""

    def __init__(self, host: str, output: Output, client: Client) -> None:
        from loadtests.probe_calls import Calls
        from loadtests.probe_daemon import Daemon
        from loadtests.probe_fleet import FleetWatch
        from loadtests.probe_lookups import LookUpWork
        from loadtests.probe_proof import Proofs
        from loadtests.probe_registers import RegisterWork
        from loadtests.probe_watch import Watches

        self.output = output
        self.lookups = LookUpWork(output, client)
        self.watches = Watches(output, client)
        self.calls = Calls(output, client)
        self.proofs = Proofs(output)
        self.daemon = Daemon(output)
        self.fleet = FleetWatch(output, client)
        self.registers = RegisterWork(output, client)
        self._client = client
        self._tasks: set[asyncio.Task[None]] = set()
        self._host = host

    @classmethod
    async def serve(cls) -> None:
        """Serves the harness on the standard streams."""
        host = os.environ["THREENINES_HOST"]
        output = Output(sys.stdout.fileno(), host)
        async with Client() as client:
            probe = cls(host, output, client)
            output.answer(Hello(host=host, pid=os.getpid()))
            try:
                await probe._obey()
            finally:
                await probe._leave()
                output.flush()

    async def _obey(self) -> None:
        decoder = msgspec.json.Decoder(AnyCommand)
        gone = asyncio.ensure_future(self.output.closed.wait())
        lines = _input_lines()
        try:
            async for line in lines:
                command: AnyCommand = decoder.decode(line)
                if isinstance(command, Stop):
                    self.output.answer(Done(id=command.id))
                    return
                task = asyncio.create_task(self._run(command))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                if gone.done():
                    return
        finally:
            gone.cancel()

    async def _run(self, command: AnyCommand) -> None:
        try:
            answer = await self._perform(command)
        except Exception as error:  # whatever it was, the harness has to hear of it
            answer = Done(id=command.id, error=f"{type(error).__name__}: {error}")
        self.output.answer(answer)

    async def _perform(self, command: AnyCommand) -> Done:
        match command:
            case Calibrate():
                return Done(id=command.id, calibration=await self.lookups.calibrate(command))
            case Census():
                self.lookups.census(command)
            case LookUps():
                await self.lookups.warm(command)
            case Cold():
                await self.lookups.cold(command)
            case Watch():
                self.watches.watch(command)
            case Call():
                self.calls.call(command)
            case Release():
                self.watches.release(command.agent)
                self.proofs.release(command.agent)
                await self.calls.release(command.agent)
            case Arm():
                return Done(id=command.id, armed=self.proofs.arm(command))
            case Events():
                await self.daemon.follow(command)
            case Await():
                self.watches.await_name(command)
            case Register():
                await self.daemon.register(command)
            case Deregister():
                await self.daemon.deregister(command)
            case ReadClock():
                return Done(id=command.id, clock_ns=now_ns())
            case Fleet():
                self.fleet.watch(command)
            case Registers():
                await self.registers.work(command)
            case Misbehave():
                from loadtests.probe_misbehave import misbehave

                await misbehave(self.output, self._client, command)
            case Exchange():
                from loadtests.probe_exchange import exchange

                await exchange(self.output, command)
            case Stop():
                pass
        return Done(id=command.id)

    async def _leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.proofs.close()
        self.fleet.close()
        await self.registers.close()
        await self.watches.close()
        await self.calls.close()
        await self.daemon.close()


async def _input_lines() -> AsyncIterator[bytes]:
    reader = asyncio.StreamReader(limit=1 << 24)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        while line := await reader.readline():
            yield line
    finally:
        transport.close()


if __name__ == "__main__":
    main()
