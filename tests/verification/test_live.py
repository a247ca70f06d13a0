"""A run on a small fleet of real servers: real faults, real history, real verdicts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from infra import automation
from infra.exclusive import Occupied, exclusive
from infra.plan import Environment
from infra.substrates import open_substrate
from infra.synthetic import manifest_of, synthetic_fleet
from infra.tools.paths import ToolMissing, tool_path
from reports import render
from reports.model import Evidence, Run, RunState, SeriesFile, TimeLine, Verdict
from tests.verification.test_runner import small
from verification import runner
from verification.deployment import LiveDeployment
from verification.progress import NoProgress

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    try:
        tool_path("pulumi")
        tool_path("etcd")
    except ToolMissing as missing:
        pytest.skip(str(missing))
    folder: Path = tmp_path_factory.mktemp("verify")
    (folder / "fleet.yaml").write_bytes(manifest_of(synthetic_fleet(12, seed=3, commands=False)))
    made = Environment(
        stack=f"verify{os.getpid()}",
        fleet=str(folder / "fleet.yaml"),
        state_dir=str(folder / "state"),
        chaos=True,
        failover=True,
        subnet_index=130 + os.getpid() % 60,
    )
    try:
        yield made
    finally:
        automation.down(made)
        shutil.rmtree(folder, ignore_errors=True)


def test_a_small_fleet_is_measured(environment: Environment, tmp_path: Path) -> None:
    request = runner.Request(profile="quick", out=tmp_path / "out", seed=5)
    folder = runner.run(request, LiveDeployment(environment), NoProgress(), small(hosts=True))
    assert msgspec.json.decode((folder / "run.json").read_bytes(), type=Run).state is RunState.FINISHED

    report = render.render(folder)
    planned = {c.id: c for c in report.criteria if c.planned}
    for name, criterion in planned.items():
        assert criterion.evidence in criterion.accepts, (name, criterion.reason)
        assert criterion.evidence is Evidence.MEASURED or name == "RL-1.projected"
        assert criterion.n, (name, criterion.reason)
    # What does not hang on how fast this machine is today.
    for name in ("SD-1", "SD-3.run", "OB-1.targets"):
        assert planned[name].verdict is Verdict.PASS, (name, planned[name].reason)
    assert planned["RL-3"].n == 6
    assert planned["SD-6"].n == 12
    # Hosts were lost and agents handed over, and nobody served twice or forgot what was acknowledged.
    assert planned["RL-5"].n == 3
    for name in ("RL-8.owners", "RL-8.writes", "RL-8.linearizable"):
        assert planned[name].exceedances == 0, (name, planned[name].reason)
    drawn = [one for one in read_series(folder) if isinstance(one, TimeLine)]
    assert {one.criterion for one in drawn} >= {"RL-3", "RL-4", "RL-5"}
    assert all([phase.name for phase in one.phases][-1] == "validate" for one in drawn)
    # The harness' own lock is free again, and whoever comes meanwhile is told who works with the stack.
    with exclusive(environment, "test"), pytest.raises(Occupied, match="test"):
        runner.run(request, LiveDeployment(environment), NoProgress(), small())

    # It was brought up for the run, so it is gone after it.
    substrate = open_substrate(environment)
    try:
        assert substrate.inspect_host("mainpc") is None
    finally:
        substrate.close()


def read_series(folder: Path):
    return msgspec.json.decode((folder / "series.json").read_bytes(), type=SeriesFile).series
