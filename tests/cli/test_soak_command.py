"""`threenines soak`: what it says without a stack, without a soak, and with a bad one."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from infra.topology import AgentSpec, Criticality
from loadtests.soak_lines import Life, encode
from reports.model import Run, RunState
from reports.model import encode as encode_model
from tests.verification.evidence_runs import COMMIT, catalogue
from tests.verification.soak_story import EPOCH_S, WEEK_S, down, life, moved, plan, well
from threenines.__main__ import run
from verification import evidence, evidence_keys, gate_sources, soak_run
from verification.gate import Decision
from verification.policy import load_policy


@pytest.fixture(autouse=True)
def nothing_is_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The commands see the environment `local` with a state directory where nothing is."""
    from infra import project
    from infra.environment import load_environment

    monkeypatch.setattr(
        project, "deployed_environment", lambda stack: load_environment(stack, state_dir=tmp_path / "state")
    )


def soak_folder(out: Path, story=well, length_s: float = 3600.0, ended: datetime | None = None) -> Path:
    """A soak that was stopped: its plan, its lines, nothing judged yet."""
    folder = out / "2026-01-01T000000Z-soak"
    (folder / "soak").mkdir(parents=True)
    data = plan().encode()
    (folder / "plan.json").write_bytes(data)
    for host in ("mainpc", "pc2"):
        off_s = 0.0 if ended is None else ended.timestamp() - EPOCH_S - length_s
        lines = moved(life(host, (0.0, length_s), story, wall_off=lambda _, off_s=off_s: off_s))
        (folder / "soak" / f"{host}.jsonl").write_bytes(b"".join(map(encode, lines)))
    told = Run(
        id=folder.name,
        started="2026-01-01T00:00:00Z",
        profile="soak",
        environment="local",
        seed=0,
        plan_sha256=hashlib.sha256(data).hexdigest(),
        commit=COMMIT,
        state=RunState.RUNNING,
    )
    (folder / "run.json").write_bytes(encode_model(told))
    return folder


@pytest.mark.parametrize("command", ["status", "stop", "report"])
def test_without_a_soak(tmp_path, capsys, command):
    assert run(["soak", command, "--out", str(tmp_path)]) == 64
    told = capsys.readouterr()
    assert told.err.startswith("threenines: stack local: there is no soak of it; begin one with")
    assert told.out == ""


def test_start_refuses_a_stack_that_is_not_up(tmp_path, capsys):
    assert run(["soak", "start", "--out", str(tmp_path)]) == 3
    assert "host mainpc is not up; bring it up with `threenines up" in capsys.readouterr().err
    assert list(tmp_path.glob("*-soak")) == []
    assert run(["soak", "start", "--stack", "nowhere"]) == 64
    assert run(["soak", "begin"]) == 64


def test_status_grades_what_is_there(tmp_path, capsys):
    folder = soak_folder(tmp_path, down((1000, 1012)))
    assert run(["soak", "status", "--out", str(tmp_path)]) == 2
    told = capsys.readouterr().out
    assert "day 0.0 of 7: 16.0 s of 604.8 s used; 7.0 more days" in told
    assert "nobody served memory" in told
    assert "could not be asked: mainpc" in told
    assert run(["soak", "status", "--json", "--out", str(tmp_path)]) == 2
    found = json.loads(capsys.readouterr().out)
    assert found["state"] == "interrupted"
    assert found["budget"]["used_s"] == pytest.approx(16)
    assert found["outages"][0]["cause"] == "nobody served memory"
    assert [one["id"] for one in found["criteria"]] == ["SD-3", "RL-1", "RL-7"]
    assert soak_run.read_run(folder).state is RunState.INTERRUPTED


@pytest.mark.parametrize(
    ("story", "length_s", "status"),
    [(well, WEEK_S + 60.0, 0), (down((100, 800)), 3600.0, 1), (well, 3600.0, 2)],
)
def test_the_exit_status_is_the_verdict(tmp_path, capsys, story, length_s, status):
    soak_folder(tmp_path, story, length_s)
    assert run(["soak", "status", "--out", str(tmp_path)]) == status
    assert run(["soak", "report", "--json", "--out", str(tmp_path)]) == status
    capsys.readouterr()


def test_bad_folders_are_one_line(tmp_path, capsys):
    folder = soak_folder(tmp_path)
    path = folder / "plan.json"
    path.write_bytes(path.read_bytes().replace(b"604800", b"3600"))
    assert run(["soak", "status", "--out", str(tmp_path)]) == 64
    assert "not the plan that was hashed" in capsys.readouterr().err
    path.write_bytes(b"{")
    assert run(["soak", "status", "--out", str(tmp_path)]) == 64
    assert capsys.readouterr().err.count("\n") == 1


def test_a_soak_is_a_run_like_any_other(tmp_path, capsys, monkeypatch):
    """It is rendered, carried to another machine, and opens the gate; with one line less it does not."""
    out, there = tmp_path / "out", tmp_path / "there"
    now = datetime.now(UTC)
    folder = soak_folder(out, length_s=WEEK_S + 60.0, ended=now)
    assert run(["soak", "report", "--out", str(out)]) == 0
    report = json.loads((folder / "report.json").read_bytes())
    told = {one["id"]: one["verdict"] for one in report["criteria"]}
    assert (told["SD-3"], told["RL-1"], told["RL-7"]) == ("pass", "pass", "pass")
    assert run(["report", folder.name, "--out", str(out)]) == 0
    capsys.readouterr()
    keys = tmp_path / "keys"
    evidence_keys.make_key(keys)
    manifest = evidence.export_bundle(folder, keys, tmp_path / "x.zip", now)
    assert {"soak/mainpc.jsonl", "soak/pc2.jsonl"} <= {one.path for one in manifest.files}
    trust = evidence_keys.trusted(keys)
    imported, _, _ = evidence.import_bundle(tmp_path / "x.zip", trust, there, now)
    assert soak_run.judge_history(imported) == soak_run.judge_history(folder)

    monkeypatch.setattr(gate_sources, "resolve_commit", lambda name: COMMIT)
    policy = tmp_path / "policy.yaml"
    asked = msgspec.structs.replace(
        load_policy("staging", catalogue()),
        must=("RL-1",),
        environments=("local",),
        profiles=("soak",),
        fresh_for_days=14.0,
    )
    policy.write_bytes(msgspec.json.encode(asked))

    def gate() -> Decision:
        run(["gate", "--policy", str(policy), "--out", str(out), "--keys", str(keys), "--json"])
        return msgspec.json.decode(capsys.readouterr().out, type=Decision)

    def standing() -> str:
        return next(one.standing.value for one in gate().criteria if one.id == "RL-1")

    assert gate().refused == ()
    assert standing() == "proven"
    path = folder / "soak" / "pc2.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-400]))
    assert "not what its history says" in gate().refused[0].reason
    assert standing() == "missing"


def test_the_gate_names_the_soak_for_what_only_time_shows(tmp_path, capsys):
    arguments = ["--out", str(tmp_path), "--keys", str(tmp_path / "keys")]
    assert run(["gate", "--environment", "production", "--json", *arguments]) == 2
    told = msgspec.json.decode(capsys.readouterr().out, type=Decision)
    (soak,) = [one for one in told.runs if one.profile == "soak"]
    assert soak.command == "threenines soak start --stack staging"
    assert set(soak.decides) == {"SD-3", "RL-1", "RL-7"}


def test_every_agent_is_called_and_many_less_often():
    def fleet(number: int) -> list[AgentSpec]:
        kinds = tuple(Criticality)
        return [
            AgentSpec(name=f"a{i}", home="a", category="c", handler="x:Y", criticality=kinds[i % 3])
            for i in range(number)
        ]

    few = soak_run.calls_of(fleet(3))
    assert [one.every_s for one in few] == [4.0, 10.0, 20.0]
    for number in (3, 77, 1000):
        calls = soak_run.calls_of(fleet(number))
        assert len(calls) == number
        assert sum(1 / one.every_s for one in calls) <= soak_run.CALLS_PER_S * 1.001
    unit = soak_run.unit_of("a", "s", fleet(3))
    assert unit != soak_run.unit_of("a", "s", fleet(4))
    assert unit == soak_run.unit_of("a", "s", fleet(3))


def test_lines_are_merged_whatever_was_lost_since(tmp_path):
    path = tmp_path / "soak" / "a.jsonl"

    def merge(data: bytes) -> bytes:
        soak_run._merge(path, data)
        return path.read_bytes()

    assert merge(b"1\n2\n3") == b"1\n2\n"
    assert merge(b"1\n2\n3\n") == b"1\n2\n3\n"
    assert merge(b"1\n4\n") == b"1\n2\n3\n4\n"
    assert merge(b"") == b"1\n2\n3\n4\n"


def test_a_life_names_its_soak():
    assert msgspec.json.decode(encode(life("a", (0.0, 9.0))[0]), type=Life).soak == "s"
