"""The faults of a GPU through a real limb: on a real device where there is a driver, else on the stand-in.

Needs no stack, no other test's parts and no plugin. With THREENINES_GPU_FIGURES every case adds what it
measured to the file of that name, as one JSON line.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO

import pytest

from chaos import messages as m
from chaos import nvml
from chaos.errors import ChaosError, Refused
from chaos.fault import Proof, Trial
from chaos.faults.gpu import GpuCompute, GpuFault, GpuMemory
from chaos.files import held_for
from chaos.healing import heal, restored
from chaos.ledger import Ledger
from chaos.limb import MARK as FAULT
from chaos.stage import Stage
from chaos.undo import ask_gpu
from infra.plan import Environment
from infra.substrates import census
from infra.substrates.base import HostState
from infra.topology import Fleet, HostSpec

pytestmark = pytest.mark.timeout(300)

HOST, DEVICE, NO_DEVICE = "a", 0, 63
FLEET = Fleet(name="alone", hosts=(HostSpec(name=HOST),), agents=())
PATIENCE_S = 60.0
_ROOT = Path(__file__).resolve().parents[2]
_NO_DRIVER = f"import ctypes; ctypes.CDLL({nvml.SONAME!r})"


class Local:
    """One host whose programs run here; `programs` are those that were started."""

    def __init__(self, folder: Path) -> None:
        self.programs: list[subprocess.Popen[bytes]] = []
        self._variables = {name: value for name, value in os.environ.items() if name != nvml.STUB}
        self._variables |= {
            census.MARK: f"gpu-{secrets.token_hex(4)}/{HOST}",
            "THREENINES_DATA": str(folder),
            "TMPDIR": str(folder),  # the stand-in's device is this test's own
        }

    def spawn(
        self, host: str, argv: tuple[str, ...], *, stdin: int, stdout: int, stderr: int | IO[bytes]
    ) -> subprocess.Popen[bytes]:
        command = (sys.executable, *argv[1:])
        program = subprocess.Popen(
            command, cwd=_ROOT, env=self._variables, stdin=stdin, stdout=stdout, stderr=stderr
        )
        self.programs.append(program)
        return program

    def inspect_host(self, name: str) -> HostState:
        return HostState(name=name, address="", running=True)

    def close(self) -> None:
        """Nothing is held."""


class Bench:
    """Faults as a session has them: the undo on disk first, then the injection, the proof, the healing."""

    def __init__(self, folder: Path) -> None:
        self.local = Local(folder)
        self.stage = self.another_stage()
        self._ledger = Ledger(folder / "ledger.jsonl")

    def another_stage(self) -> Stage:
        """The same host seen by another harness, with a limb of its own."""
        environment = Environment(stack="alone", chaos=True, fleet="", state_dir="")
        return Stage(environment, substrate=self.local, fleet=FLEET)  # type: ignore[arg-type]

    def view(self) -> m.GpuView:
        return ask_gpu(self.stage, HOST, DEVICE)

    def begin(self, fault: GpuFault) -> Trial:
        fault.check(self.stage)
        trial = Trial(secrets.token_hex(4))
        undo = fault.undo(self.stage, trial)
        self._ledger.open_fault(trial.id, str(fault), tuple(fault.targets(self.stage)), undo)
        fault.inject(self.stage, trial)
        return trial

    def prove(self, fault: GpuFault, trial: Trial) -> Proof:
        return self.stage.until(partial(fault.effect, self.stage, trial), fault.effect_within_s)

    def heal(self, stage: Stage | None = None) -> tuple[Proof, ...]:
        """Undoes everything that is open, as it stands on disk, and measures that all is as before."""
        stage, opened = stage or self.stage, self._ledger.read().open
        assert [one.trouble for one in heal(stage, self._ledger, opened, "harness")] == [()] * len(opened)
        return restored(stage, [undo for entry in opened for undo in entry.undo])

    def kill_limb(self) -> None:
        self.local.programs[-1].kill()
        self.local.programs[-1].wait()

    def until(self, look: Callable[[], bool]) -> bool:
        return self.stage.until(lambda: Proof(look()), PATIENCE_S).holds


Note = Callable[..., None]


@pytest.fixture(scope="module")
def no_driver() -> bool:
    """Whether no driver can be loaded, found out without anything of ours."""
    variables = {name: value for name, value in os.environ.items() if name != nvml.STUB}
    done = subprocess.run((sys.executable, "-c", _NO_DRIVER), env=variables, capture_output=True, check=False)
    if done.returncode != 0 and not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("there is no GPU driver, and no C compiler for a stand-in")
    return done.returncode != 0


@pytest.fixture
def bench(tmp_path: Path, no_driver: bool) -> Iterator[Bench]:
    device = Path(tempfile.gettempdir()) / f"threenines-gpu-{os.geteuid()}.lock"
    alone = contextlib.nullcontext(True) if no_driver else held_for(device, 250.0)
    with alone as ours:
        assert ours
        bench = Bench(tmp_path)
        try:
            yield bench
            bench.heal()
        finally:
            bench.stage.close()


@pytest.fixture
def note(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Note:
    """Keeps what a case has measured."""

    def write(**figures: object) -> None:
        for name, value in figures.items():
            record_property(name, value)
        path = os.environ.get("THREENINES_GPU_FIGURES")
        if path:
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"case": request.node.name, **figures}) + "\n")

    return write


def takers(trial: Trial) -> frozenset[census.Process]:
    return census.marked(lambda environ: environ.get(FAULT) == trial.id)


def figures(proof: Proof) -> dict[str, object]:
    shown: dict[str, object] = {f"{one.name} {one.unit}".strip(): one.value for one in proof.measures}
    return shown | {"simulated": proof.simulated, "holds": proof.holds}


def test_the_stand_in_is_there_exactly_where_no_driver_is(bench: Bench, no_driver: bool, note: Note) -> None:
    view = bench.view()
    note(device=view.name, total_mb=view.total_mb, used_mb=view.used_mb, busy_percent=view.busy_percent)
    assert view.simulated == no_driver
    assert 0 < view.used_mb < view.total_mb


@pytest.mark.parametrize("memory_mb", [1024, 2048, 8192])
def test_memory_is_taken_and_comes_back(bench: Bench, no_driver: bool, note: Note, memory_mb: int) -> None:
    view = bench.view()
    if view.total_mb - view.used_mb < memory_mb + 1024:
        pytest.skip(f"{view.name} has less than that free")
    fault = GpuMemory(host=HOST, memory_mb=memory_mb)
    begin = time.monotonic()
    trial = bench.begin(fault)
    proof = bench.prove(fault, trial)
    proved_s = time.monotonic() - begin
    begin = time.monotonic()
    back = bench.heal()
    note(**figures(proof), proved_s=proved_s, back_s=time.monotonic() - begin, back=str(back[0]))
    assert proof.holds, proof
    assert proof.simulated == no_driver
    achieved = {one.name: one.value for one in proof.measures}["achieved"]
    assert isinstance(achieved, float)
    assert memory_mb * 0.95 <= achieved <= memory_mb + 256  # what its own context takes is part of it
    assert [one.holds for one in back] == [True], back
    assert back[0].simulated == no_driver
    assert not takers(trial)


@pytest.mark.parametrize("busy_percent", [30, 60, 90])
def test_a_device_computes_and_rests_again(
    bench: Bench, no_driver: bool, note: Note, busy_percent: int
) -> None:
    if not bench.until(lambda: bench.view().busy_percent < busy_percent / 2):
        pytest.skip("the device does not rest")
    fault = GpuCompute(host=HOST, busy_percent=busy_percent)
    begin = time.monotonic()
    trial = bench.begin(fault)
    proof = bench.prove(fault, trial)
    proved_s = time.monotonic() - begin
    later = [bench.view().busy_percent for _ in range(3)]
    begin = time.monotonic()
    back = bench.heal()
    back_s = time.monotonic() - begin
    before = trial.numbers["busy_percent"]
    rests = bench.until(lambda: bench.view().busy_percent <= before)
    rests_s = time.monotonic() - begin
    note(**figures(proof), before=before, later=later, proved_s=proved_s, back_s=back_s, rests_s=rests_s)
    assert proof.holds, proof
    assert proof.simulated == no_driver
    assert [one.holds for one in back] == [True], back
    assert rests
    assert not takers(trial)


def test_both_at_once(bench: Bench, note: Note) -> None:
    faults = (GpuMemory(host=HOST, memory_mb=2048), GpuCompute(host=HOST, busy_percent=90))
    assert bench.until(lambda: bench.view().busy_percent < 45)
    trials = [bench.begin(fault) for fault in faults]
    proofs = [bench.prove(fault, trial) for fault, trial in zip(faults, trials, strict=True)]
    begin = time.monotonic()
    back = bench.heal()
    note(memory=str(proofs[0]), compute=str(proofs[1]), back_s=time.monotonic() - begin)
    assert all(proof.holds for proof in proofs), proofs
    assert all(proof.holds for proof in back), back


@pytest.mark.parametrize("fault", [GpuMemory(host=HOST), GpuCompute(host=HOST)], ids=["memory", "compute"])
def test_a_taker_ends_with_a_limb_that_is_killed(bench: Bench, note: Note, fault: GpuFault) -> None:
    assert bench.until(lambda: bench.view().busy_percent < 45)
    trial = bench.begin(fault)
    assert bench.prove(fault, trial).holds
    found = takers(trial)
    begin = time.monotonic()
    bench.kill_limb()
    assert len(found) == 1
    assert census.wait_gone(found, PATIENCE_S)
    ended_s = time.monotonic() - begin
    used_mb = trial.numbers["used_mb"]
    assert bench.until(lambda: bench.view().used_mb <= used_mb + 64)
    note(ended_s=ended_s, back_s=time.monotonic() - begin)


@pytest.mark.parametrize("after_s", [0.0, 0.03, 0.1])
def test_a_taker_that_only_starts_ends_with_its_limb_too(bench: Bench, after_s: float) -> None:
    bench.view()  # the limb is warm: what is asked next is done at once
    trial = bench.begin(GpuMemory(host=HOST))
    time.sleep(after_s)
    bench.kill_limb()
    assert bench.until(lambda: not takers(trial))
    assert all(proof.holds for proof in bench.heal())


def test_a_taker_ends_with_the_limb_s_input(bench: Bench) -> None:
    fault = GpuMemory(host=HOST)
    trial = bench.begin(fault)
    assert bench.prove(fault, trial).holds
    bench.stage.close()
    assert bench.until(lambda: not takers(trial))
    assert all(proof.holds for proof in bench.heal())


def test_a_taker_ends_after_its_time(bench: Bench) -> None:
    trial = Trial(secrets.token_hex(4))
    take = m.Take(id=trial.id, resource=m.Resource.GPU_MEMORY, amount=512, device=DEVICE, seconds=0.5)
    assert bench.stage.ask(HOST, take, int) == 1
    # A driver may take a while to let go of a process that has ended otherwise.
    ask = m.Taken(id=trial.id)
    assert bench.until(lambda: bench.stage.ask(HOST, ask, m.TakenView).processes == 0)
    assert bench.stage.ask(HOST, ask, m.TakenView).trouble == ""
    assert not takers(trial)


def test_another_harness_gives_it_back(bench: Bench) -> None:
    fault = GpuMemory(host=HOST)
    trial = bench.begin(fault)
    assert bench.prove(fault, trial).holds
    other = bench.another_stage()
    try:
        assert [proof.holds for proof in bench.heal(other)] == [True]
    finally:
        other.close()
    assert not takers(trial)


def test_more_than_is_free_is_refused_in_one_line(bench: Bench) -> None:
    view = bench.view()
    free_mb = int(view.total_mb - view.used_mb)
    for memory_mb in (free_mb + 1024, free_mb - 100):
        fault = GpuMemory(host=HOST, memory_mb=memory_mb)
        with pytest.raises(Refused) as refused:
            fault.undo(bench.stage, Trial("none"))
        said = str(refused.value)
        assert said == f"gpu-memory a: only {said.split()[3]} MiB of the GPU are free; ask for less"
    assert not census.marked(lambda environ: environ.get(FAULT) == "none")


@pytest.mark.parametrize("kind", [GpuMemory, GpuCompute])
def test_a_device_that_is_not_there_is_said_in_one_line(bench: Bench, kind: type[GpuFault]) -> None:
    fault = kind(host=HOST, device=NO_DEVICE)
    with pytest.raises(ChaosError, match=r"^host a: there is no GPU 63: NVML has \d+, counted from 0; .*$"):
        fault.undo(bench.stage, Trial("none"))


@pytest.mark.parametrize("resource", [m.Resource.GPU_MEMORY, m.Resource.GPU_COMPUTE])
def test_a_taker_s_trouble_stays_said(bench: Bench, resource: m.Resource) -> None:
    take = m.Take(id="none", resource=resource, amount=64, device=NO_DEVICE, seconds=60)
    assert bench.stage.ask(HOST, take, int) == 1

    def trouble() -> str:
        return bench.stage.ask(HOST, m.Taken(id="none"), m.TakenView).trouble

    assert bench.until(lambda: bool(trouble()))
    assert trouble().startswith("there is no GPU 63")
    assert trouble().count("\n") == 0
    with pytest.raises(Refused, match="there is no GPU 63"):
        GpuMemory(host=HOST).effect(bench.stage, Trial("none"))
