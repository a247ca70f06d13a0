"""A run's folder while it is being filled; `run.json` in it says at any time how far it came."""

from __future__ import annotations

import contextlib
import hashlib
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from reports import model
from reports.model import Run, RunState
from verification import machine, seal
from verification.deployment import Deployment
from verification.judge import write_file
from verification.plan import PLAN_FILE, PlanError, RunPlan


class RunFolder:
    """The folder of a run."""

    def __init__(self, path: Path, run: Run) -> None:
        self.path = path
        self.run = run

    @classmethod
    def create(cls, out: Path, command: str, deployment: Deployment, plan: RunPlan) -> RunFolder:
        """Makes the folder with the plan, hashed, and `run.json`. Raises PlanError."""
        started = datetime.now(UTC)
        path = fresh(out, f"{started:%Y-%m-%dT%H%M%SZ}-{plan.profile}")
        encoded = plan.encode()
        found = machine.commit()
        run = Run(
            id=path.name,
            started=iso(started),
            profile=plan.profile,
            environment=deployment.environment.stack,
            seed=plan.seed,
            plan_sha256=hashlib.sha256(encoded).hexdigest(),
            commit=found.sha,
            commit_dirty=found.dirty,
            state=RunState.RUNNING,
            command=command,
            fleet=deployment.fleet.name,
            fleet_sha256=fleet_sha256(deployment),
            versions=machine.versions(),
            machine=machine.machine(),
            configuration={
                "agents": str(len(plan.agents)),
                "hosts": ", ".join(plan.hosts),
                "substrate": deployment.environment.substrate,
                "network": deployment.environment.network,
                "load": f"{plan.load.workload}: {plan.load.per_s:g} operations/s on each host",
                "fault trials": str(sum(not trial.reserve for trial in plan.faults)),
                **({"scenarios": str(len(plan.scenarios))} if plan.scenarios else {}),
                **({"left out": ", ".join(one.name for one in plan.left_out)} if plan.left_out else {}),
            },
        )
        write_file(path / PLAN_FILE, encoded)
        folder = cls(path, run)
        folder._write()
        return folder

    @classmethod
    def read(cls, path: Path) -> RunFolder:
        """The folder of an earlier run. Raises PlanError."""
        file = path / "run.json"
        try:
            return cls(path, msgspec.json.decode(file.read_bytes(), type=Run))
        except OSError as error:
            raise PlanError(str(file), f"cannot be read ({error.strerror})", "name a run's folder") from None
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise PlanError(str(file), f"is damaged ({error})", "name another run") from None

    def begin_again(self) -> None:
        """The run goes on. Raises SealError when what it left was changed meanwhile."""
        seal.check(self.path, self.run.seal_sha256)
        self.run = msgspec.structs.replace(
            self.run, state=RunState.RUNNING, detail=None, ended=None, seal_sha256=None
        )
        self._write()

    def end(self, state: RunState, detail: str | None) -> None:
        """The run is over, one way or another: what it left is sealed."""
        sealed = seal.make(self.path)
        write_file(self.path / seal.FILE, sealed)
        self.run = msgspec.structs.replace(
            self.run,
            state=state,
            detail=detail,
            ended=now(),
            seal_sha256=hashlib.sha256(sealed).hexdigest(),
        )
        self._write()

    def _write(self) -> None:
        write_file(self.path / "run.json", model.encode(self.run))


def fleet_sha256(deployment: Deployment) -> str | None:
    """Of the manifest's file; None where there is none."""
    fleet = Path(deployment.environment.fleet)
    return hashlib.sha256(fleet.read_bytes()).hexdigest() if fleet.is_file() else None


def fresh(out: Path, stem: str) -> Path:
    """A new folder below `out`, with an empty `history/`. Raises PlanError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for suffix in ("", *(f"-{number}" for number in range(2, 100))):
            path = out / f"{stem}{suffix}"
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                (path / "history").mkdir()
                return path
    except OSError as error:
        raise PlanError(
            str(out), f"cannot be written ({error.strerror})", "name another folder with --out", exit_status=3
        ) from error
    raise PlanError(str(out), f"has too many runs called {stem}", "wait a second", exit_status=3)


def now() -> str:
    """ISO 8601, UTC, to the second."""
    return iso(datetime.now(UTC))


def iso(instant: datetime) -> str:
    """The same for an instant of UTC."""
    return f"{instant:%Y-%m-%dT%H:%M:%SZ}"
