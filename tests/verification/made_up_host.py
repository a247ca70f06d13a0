"""A host that does not exist: speaks as a probe or a load generator would, about agents that it makes up.

    python made_up_host.py probe FOLDER | load FOLDER

Faults come as files in FOLDER (`AGENT.crash`, `AGENT.hang`); whoever lacks the file sees a healthy agent.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import msgspec

from loadtests import protocol as p
from loadtests.record import Kind, Record, encode_line, now_ns, raw

PROOFS = {"crash": "exited", "hang": "frozen"}
FAULTS = (*PROOFS, "errors", "slow")
LEFT_S, SERVED_S, VALIDATED_S = 0.02, 0.03, 0.05


class Out:
    def __init__(self, host: str) -> None:
        self.host = host
        self._lock = threading.Lock()

    def write(self, data: bytes) -> None:
        with self._lock:
            os.write(1, data)

    def pair(
        self, process: str, f: str, key, begun=None, ended=None, begin_ns=0, end_ns=0, kind=Kind.OK
    ) -> None:
        now = now_ns()
        for which, value, at in ((Kind.INVOKE, begun, begin_ns or now), (kind, ended, end_ns or now)):
            self.write(
                encode_line(
                    Record(
                        process=process,
                        type=which,
                        f=f,
                        key=key,
                        value=raw(value),
                        time_ns=at,
                        host=self.host,
                    )
                )
            )


class Agent(threading.Thread):
    """Watches, calls and proves one agent until released."""

    def __init__(self, out: Out, folder: Path, name: str) -> None:
        super().__init__(daemon=True)
        self.out, self.folder, self.agent = out, folder, name
        self.stopped = threading.Event()
        self.trial: str | None = None
        self.home = ""

    def incarnation(self) -> int:
        path = self.folder / f"{self.agent}.incarnation"
        return int(path.read_text()) if path.exists() else 1

    def run(self) -> None:
        old = self.incarnation()
        told = self.left = False
        fault_ns = 0
        number = 0
        self._view(old)
        while not self.stopped.is_set():
            fault = next((f for f in FAULTS if (self.folder / f"{self.agent}.{f}").exists()), None)
            if fault and not told:
                told, fault_ns = True, now_ns()
                if self.trial and fault in PROOFS:
                    self._proof(PROOFS[fault], old)
            since = (now_ns() - fault_ns) / 1e9 if told else 0.0
            if told and not self.left and since > LEFT_S:
                self.left = True
                self._view(old + 1)
            if not told or since > SERVED_S:
                number += 1
                intent = p.Intent(method="ask", intended_ns=now_ns())
                self.out.pair(f"call-{self.out.host}-{self.agent}", "call", self.agent, intent)
            if told and self.trial and since > VALIDATED_S:
                event = p.Event(seq=1, time_ns=0, event="validated", agent=self.agent, incarnation=old + 1)
                self.out.pair(f"event-{self.out.host}-{self.agent}", "event", None, None, [event])
            time.sleep(0.003)

    def _view(self, incarnation: int) -> None:
        home = (self.folder / f"{self.agent}.home").read_text()
        view = p.View(serving=(p.Serving(home, incarnation),), reads=10)
        self.out.pair(f"watch-{self.out.host}-{self.agent}", "watch", self.agent, None, view)

    def _proof(self, fact: str, incarnation: int) -> None:
        proof = p.Proof(trial=self.trial or "", pid=1, incarnation=incarnation, fact=fact)
        self.out.pair(f"{fact}-{self.out.host}-{self.agent}", fact, self.agent, proof, proof)


def probe(folder: Path) -> None:
    out = Out(os.environ["THREENINES_HOST"])
    decoder = msgspec.json.Decoder(p.AnyCommand)
    agents: dict[str, Agent] = {}
    out.write(msgspec.json.encode(p.Hello(host=out.host, pid=os.getpid())) + b"\n")
    for line in sys.stdin.buffer:
        command = decoder.decode(line)
        done = p.Done(id=command.id)
        match command:
            case p.Calibrate():
                found = p.Calibration(
                    clock_step_ns=50,
                    wake_late_p50_ms=0.1,
                    wake_late_p99_ms=0.5,
                    wake_late_max_ms=1.0,
                    samples=9,
                )
                done = p.Done(id=command.id, calibration=found)
            case p.Census() | p.LookUps() | p.Cold():
                f = {p.Census: "census", p.LookUps: "lookup", p.Cold: "cold-lookup"}[type(command)]
                for name in command.names:
                    now = now_ns()
                    answer = p.Answer(usable=1)
                    out.pair(f"{f}-{out.host}", f, name, None, answer, now, now + 20_000)
            case p.Watch():
                agents[command.agent] = Agent(out, folder, command.agent)
            case p.Call():
                agents[command.agent].start()
            case p.Arm():
                agent = agents[command.agent]
                agent.trial = command.trial
                done = p.Done(id=command.id, armed=p.Armed(pid=1, incarnation=agent.incarnation()))
            case p.Release():
                agent = agents.pop(command.agent)
                agent.stopped.set()
                agent.join()
                if agent.trial and agent.left:
                    (folder / f"{command.agent}.incarnation").write_text(str(agent.incarnation() + 1))
                for fault in FAULTS:
                    if agent.trial:
                        (folder / f"{command.agent}.{fault}").unlink(missing_ok=True)
            case p.Misbehave():
                proof = p.Proof(trial=command.trial, pid=0, incarnation=0, fact=command.mode)
                if command.mode != "none":
                    (folder / f"{command.agent}.{command.mode}").touch()
                    process = f"misbehaving-{out.host}-{command.agent}"
                    out.pair(process, "misbehaving", command.agent, proof, proof)
            case p.Await():
                threading.Thread(target=wait_for, args=(out, folder, command.name), daemon=True).start()
            case p.Register():
                begin = now_ns()
                (folder / f"{command.name}.registered").touch()
                out.pair(f"register-{out.host}-{command.name}", "register", command.name, begin_ns=begin)
            case p.Stop():
                out.write(msgspec.json.encode(done) + b"\n")
                return
        out.write(msgspec.json.encode(done) + b"\n")


def wait_for(out: Out, folder: Path, name: str) -> None:
    begin = now_ns()
    while not (folder / f"{name}.registered").exists():
        time.sleep(0.001)
    out.pair(f"await-{out.host}-{name}", "await", name, None, p.Answer(usable=1), begin, now_ns())


def load(folder: Path) -> None:
    out = Out(os.environ["THREENINES_HOST"])
    out.write(
        encode_line(
            Record(
                process=f"load-{out.host}",
                type=Kind.INVOKE,
                f="load-plan",
                value=raw(p.LoadPlan(per_s=100, users=20)),
                time_ns=now_ns(),
                host=out.host,
            )
        )
    )
    due = time.monotonic()
    while True:
        call = p.LoadCall(intended_ns=now_ns(), category="core", method="ask")
        out.pair(f"load-{out.host}-0", "load-call", "agent-0", call)
        due += 0.01
        time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    {"probe": probe, "load": load}[sys.argv[1]](Path(sys.argv[2]))
