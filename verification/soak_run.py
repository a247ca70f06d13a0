"""A soak from its start to its grades: the shell around `verification.soak`.

    start: plan, hash, a unit on every worker host → the units write → look: fetch what they wrote, judge it

The run's folder is made at the start and grows; it can be judged at any moment, here or elsewhere, with the
stack and the units long gone. The harness need not run meanwhile.
"""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from infra.plan import Environment, UnitSpec
from infra.substrates.base import Substrate, SubstrateError
from infra.topology import AgentSpec, Criticality, Fleet
from loadtests.soak import Config, Watched
from reports import model
from reports.model import Run, RunState, Verdicts
from verification import machine, soak_history, soak_prometheus
from verification.catalogue import load_catalogue
from verification.errors import HarnessError
from verification.evidence import instant, read_run
from verification.evidence_keys import EvidenceError
from verification.history import Journal
from verification.judge import JudgeError, write_file
from verification.plan import PLAN_FILE, PlanError
from verification.scenario_run import fresh_folder
from verification.soak import PROFILE, Judged, SoakPlan, instant_of, judge, make_plan
from verification.soak_history import FOLDER, Started

UNIT = "soak"
FETCH_TIMEOUT_S = 60.0
FIRST_LOOK_S = 30.0
EVERY_S = {Criticality.CRITICAL: 4.0, Criticality.STANDARD: 10.0, Criticality.UTILITY: 20.0}
"""How often a host calls an agent; two hosts do."""
CALLS_PER_S = 12.0
"""The most calls that a host makes in a second: a larger fleet is called less often."""
_LEAN = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}


class SoakError(HarnessError):
    """A soak that cannot be started or found: where, what, mend."""


@dataclass(frozen=True)
class Begun:
    """What `start` did. `fresh`: a new soak; `ran`: it ran already, on every host and just like this."""

    folder: Path
    fresh: bool
    ran: bool


@dataclass(frozen=True)
class Graded:
    """How a soak stands. `away`: hosts that could not be asked now, and why; `running`: hosts that watch."""

    folder: Path
    run: Run
    judged: Judged
    running: tuple[str, ...]
    away: tuple[str, ...] = ()


def start(
    environment: Environment, fleet: Fleet, substrate: Substrate, out: Path, *, new: bool = False
) -> Begun:
    """Begins a soak, or goes on with the one that is not decided yet (unless `new`).

    Raises SoakError when the stack is not up or a host does not begin to look, SubstrateError.
    """
    hosts = [host.name for host in fleet.workers]
    _check_up(environment, substrate, hosts)
    folder = find(environment.stack, out)
    if folder is not None:
        graded = grade(folder, substrate, hosts)
        if new or graded.run.state is RunState.FINISHED:
            _settle(folder, graded.judged, running=False)
            folder = None
    fresh = folder is None
    if folder is None:
        folder = _create(environment, fleet, hosts, out)
    units = [unit_of(host, folder.name, fleet.agents) for host in hosts]
    ran = all(_runs(substrate, unit) for unit in units)
    if not ran:
        _note_start(folder, environment)
        for unit in units:  # one after the other: the others watch meanwhile
            substrate.create_unit(unit)
            _await_look(substrate, unit.host, folder.name)
    return Begun(folder, fresh, ran)


def stop(folder: Path, substrate: Substrate, hosts: Sequence[str]) -> Graded:
    """Ends the units; what they wrote stays and is fetched. Going on later leaves a gap."""
    for host in hosts:
        if _unit(substrate, host) is not None:
            substrate.delete_unit(host, UNIT)
    return grade(folder, substrate, hosts)


def grade(folder: Path, substrate: Substrate | None, hosts: Sequence[str]) -> Graded:
    """Fetches what is new, where it can be had, judges all of it, and writes down how the soak stands.

    `substrate` None: with what is here. Raises EvidenceError, PlanError, JudgeError.
    """
    away: list[str] = []
    running: tuple[str, ...] = ()
    if substrate is not None:
        for host in hosts:
            try:
                _merge(folder / FOLDER / f"{host}.jsonl", _fetch(substrate, host, folder.name))
                soak_prometheus.collect(folder, substrate, host, _began_s(folder), time.time())
            except SubstrateError as error:
                away.append(f"{host}: {error.what}")
        running = tuple(host for host in hosts if _running(substrate, host))
    judged = judge_folder(folder)
    run = _settle(folder, judged, running=bool(running))
    return Graded(folder, run, judged, running, tuple(away))


def judge_folder(folder: Path) -> Judged:
    """Judges a soak from its folder alone and writes `verdicts.json` and `series.json`.

    Raises PlanError, and JudgeError when the plan is not the one that was hashed.
    """
    plan, sha256 = read_plan(folder)
    if read_run(folder).plan_sha256 != sha256:
        raise JudgeError(
            str(folder / PLAN_FILE), "is not the plan that was hashed before the first look", "restore it"
        )
    judged = judge(plan, soak_history.read(folder, plan.soak, plan.hosts))
    write_file(folder / "verdicts.json", model.encode(judged.verdicts))
    strips = () if judged.outages is None else (judged.outages,)
    write_file(folder / "series.json", model.encode(model.SeriesFile(series=strips)))
    return judged


def judge_history(folder: Path) -> Verdicts:
    """The verdicts of a soak's lines, for the gate. Raises PlanError."""
    plan, _ = read_plan(folder)
    return judge(plan, soak_history.read(folder, plan.soak, plan.hosts)).verdicts


def read_plan(folder: Path) -> tuple[SoakPlan, str]:
    """The plan of a soak, and the SHA-256 of its file. Raises PlanError."""
    path = folder / PLAN_FILE
    try:
        data = path.read_bytes()
        return msgspec.json.decode(data, type=SoakPlan), hashlib.sha256(data).hexdigest()
    except OSError as error:
        raise PlanError(str(path), f"cannot be read ({error.strerror})", "name a soak's folder") from error
    except msgspec.MsgspecError as error:
        raise PlanError(str(path), f"is no soak's plan ({error})", "use the version that wrote it") from error


def find(stack: str, out: Path) -> Path | None:
    """The newest soak of a stack, None without any."""
    for path in sorted(out.glob(f"*-{PROFILE}*/run.json"), reverse=True):
        with contextlib.suppress(EvidenceError):
            run = read_run(path.parent)
            if (run.profile, run.environment) == (PROFILE, stack) and not path.parent.is_symlink():
                return path.parent
    return None


def unit_of(host: str, soak: str, agents: Iterable[AgentSpec]) -> UnitSpec:
    """The unit that watches from a host."""
    config = Config(soak=soak, agents=calls_of(agents))
    return UnitSpec(
        host=host,
        name=UNIT,
        program="python",
        args=("-m", "loadtests.soak"),
        env={"THREENINES_CONFIG": "{config}/soak.json", **_LEAN},
        files={"soak.json": msgspec.json.encode(config).decode() + "\n"},
    )


def calls_of(agents: Iterable[AgentSpec]) -> tuple[Watched, ...]:
    """How often each agent is called: by criticality, and all less often where they are many."""
    every = {agent.name: EVERY_S[agent.criticality] for agent in agents}
    slower = max(1.0, sum(1.0 / every_s for every_s in every.values()) / CALLS_PER_S)
    return tuple(Watched(name=name, every_s=round(slower * one, 3)) for name, one in every.items())


# -------------------------------------------------------------------------------------------------- units


def _check_up(environment: Environment, substrate: Substrate, hosts: Sequence[str]) -> None:
    for host in hosts:
        found = substrate.inspect_host(host)
        if found is None or not found.running:
            raise SoakError(
                f"stack {environment.stack}",
                f"host {host} is not up",
                f"bring it up with `threenines up --stack {environment.stack}`",
                exit_status=3,
            )


def _unit(substrate: Substrate, host: str) -> str | None:
    """The fingerprint of a host's unit, "" while it does not run; None without one."""
    try:
        found = substrate.inspect_unit(host, UNIT)
    except SubstrateError:
        return None
    return None if found is None else found.spec_sha256 if found.running else ""


def _runs(substrate: Substrate, unit: UnitSpec) -> bool:
    return _unit(substrate, unit.host) == unit.sha256


def _running(substrate: Substrate, host: str) -> bool:
    return bool(_unit(substrate, host))


def _await_look(substrate: Substrate, host: str, soak: str) -> None:
    """Waits for the first line. Raises SoakError."""
    end = time.monotonic() + FIRST_LOOK_S
    while not _fetch(substrate, host, soak):
        if time.monotonic() > end:
            said = substrate.logs(host, UNIT, 1)
            raise SoakError(
                f"host {host}",
                f"its soak has not begun after {FIRST_LOOK_S:g} s; its log says: {said or 'nothing'}",
                "mend that, start it again",
                exit_status=3,
            )


def _fetch(substrate: Substrate, host: str, soak: str) -> bytes:
    """What was written on a host. Raises SubstrateError."""
    child = substrate.spawn(
        host,
        ["python", "-m", "loadtests.soak", "--read", soak],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        data, told = child.communicate(timeout=FETCH_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        raise SubstrateError(f"host {host}", "it does not hand over what it wrote", "try again") from None
    if child.returncode != 0:
        said = " ".join(told.decode(errors="replace").split())[-200:]
        raise SubstrateError(f"host {host}", f"what it wrote cannot be read: {said}", "try again")
    return data


def _merge(path: Path, fetched: bytes) -> None:
    """Appends the whole lines that are not here yet: a host may have lost what was fetched before."""
    here = set(path.read_bytes().splitlines()) if path.exists() else set()
    lines = fetched[: fetched.rfind(b"\n") + 1].splitlines()
    fresh = [line for line in lines if line not in here]
    if fresh:
        with Journal(path) as journal:
            journal.write(b"\n".join(fresh) + b"\n")


# ------------------------------------------------------------------------------------------------- folder


def _create(environment: Environment, fleet: Fleet, hosts: Sequence[str], out: Path) -> Path:
    folder = fresh_folder(out, PROFILE)
    (folder / FOLDER).mkdir()
    now = instant_of(time.time())
    data = make_plan(folder.name, hosts, load_catalogue(), now).encode()
    write_file(folder / PLAN_FILE, data)
    found = machine.commit()
    run = Run(
        id=folder.name,
        started=now,
        profile=PROFILE,
        environment=environment.stack,
        seed=0,
        plan_sha256=hashlib.sha256(data).hexdigest(),
        commit=found.sha,
        commit_dirty=found.dirty,
        state=RunState.RUNNING,
        command=f"threenines soak start --stack {environment.stack}",
        fleet=fleet.name,
        fleet_sha256=_fleet_sha256(environment),
        versions=machine.versions(),
        machine=machine.machine(),
        configuration={
            "agents": str(len(fleet.agents)),
            "hosts": ", ".join(hosts),
            "substrate": environment.substrate,
            "network": environment.network,
        },
    )
    write_file(folder / "run.json", model.encode(run))
    return folder


def _note_start(folder: Path, environment: Environment) -> None:
    """Writes down from which source it is started; one that was changed makes the whole soak that of none."""
    found = machine.commit()
    started = Started(
        at=instant_of(time.time()),
        commit=found.sha,
        dirty=found.dirty,
        fleet_sha256=_fleet_sha256(environment),
    )
    with Journal(folder / "journal.jsonl") as journal:
        journal.write(msgspec.json.encode(started) + b"\n")
    run = read_run(folder)
    changed = msgspec.structs.replace(run, commit_dirty=run.commit_dirty or found.dirty)
    write_file(folder / "run.json", model.encode(changed))


def _settle(folder: Path, judged: Judged, *, running: bool) -> Run:
    """Writes how far the soak came: finished once nothing can change its verdicts."""
    run = read_run(folder)
    if run.state is RunState.FINISHED:
        return run
    state = RunState.RUNNING if running else RunState.INTERRUPTED
    detail = None if running else "stopped before it was decided; `threenines soak start` goes on with it"
    if judged.decided:
        state, detail = RunState.FINISHED, None
    ended = run.started
    if judged.watched is not None:
        ended = max(ended, instant_of(judged.watched.end_s))
    settled = msgspec.structs.replace(run, state=state, detail=detail, ended=ended)
    write_file(folder / "run.json", model.encode(settled))
    return settled


def _began_s(folder: Path) -> float:
    began = instant(read_run(folder).started)
    return 0.0 if began is None else began.timestamp()


def _fleet_sha256(environment: Environment) -> str | None:
    path = Path(environment.fleet)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
