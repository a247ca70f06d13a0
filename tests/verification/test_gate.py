"""The gate: what lets a release pass, and all that does not."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.record import encode_line
from reports.model import CriterionResult, Evidence, LeftOut, Run, RunState, Verdict, Verdicts, encode
from tests.verification import stories
from tests.verification.evidence_runs import COMMIT, catalogue, run_folder
from threenines.__main__ import run as run_command
from verification import evidence, evidence_keys, gate_sources
from verification.evidence_keys import EvidenceError, Trust
from verification.gate import Decision, Standing, Stored, admit, decide
from verification.judge import judge_run
from verification.policy import Policy, PolicyError, known, load_policy, parse_policy

NOW = datetime(2026, 3, 2, tzinfo=UTC)
EXTRA = {"soak": ("SD-3", "RL-1")}
POLICY = msgspec.structs.replace(
    load_policy("staging", catalogue()),
    must=("SD-4",),
    environments=("staging",),
    profiles=("nightly", "soak"),
)


def word(
    name: str,
    day: float,
    verdict: Verdict | None,
    *,
    criterion: str = "SD-4",
    environment: str = "staging",
    profile: str = "nightly",
    kind: Evidence = Evidence.MEASURED,
    imported: bool = False,
    n: int = 60,
    other_rules: frozenset[str] = frozenset(),
    **run: object,
) -> Stored:
    """A run with one word about one criterion; day 29 is the day before NOW."""
    ended = datetime.fromtimestamp(NOW.timestamp() - (30 - day) * 86_400, UTC)
    told = (
        ()
        if verdict is None
        else (
            CriterionResult(
                id=criterion, title="t", category="c", claim="x", verdict=verdict, evidence=kind, n=n
            ),
        )
    )
    fields = {
        "id": name,
        "started": ended.isoformat(),
        "ended": ended.isoformat(),
        "profile": profile,
        "environment": environment,
        "seed": 1,
        "plan_sha256": "",
        "commit": COMMIT,
        **run,
    }
    return Stored(Run(**fields), Verdicts(criteria=told), imported, other_rules)


def answer(*stored: Stored, policy: Policy = POLICY, distance=lambda commit: 0) -> Decision:
    kept, refused = admit(stored, policy, distance, NOW)
    return decide(catalogue(), policy, kept, refused, COMMIT, NOW, extra=EXTRA)


def standing(decision: Decision, name: str = "SD-4") -> Standing:
    return next(one.standing for one in decision.criteria if one.id == name)


PASS, FAIL, OPEN = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("words", "verdict"),
    [
        ([], OPEN),
        ([(1, None)], OPEN),
        ([(29, PASS)], PASS),
        ([(29, FAIL)], FAIL),
        ([(28, PASS), (29, FAIL)], FAIL),
        ([(28, FAIL), (29, PASS)], PASS),
        ([(28, PASS), (29, OPEN)], OPEN),
        ([(28, PASS), (29, Verdict.VOID)], PASS),
        ([(28, PASS), (29, Verdict.NOT_MEASURED)], PASS),
        ([(29, Verdict.VOID)], OPEN),
        ([(22, PASS)], OPEN),
        ([(22, FAIL)], OPEN),
        ([(22, FAIL), (29, PASS)], PASS),
    ],
)
def test_the_newest_word_wins_and_old_ones_say_nothing(words, verdict):
    assert answer(*(word(f"r{i}", day, what) for i, (day, what) in enumerate(words))).verdict is verdict


@pytest.mark.parametrize(
    "circumstances",
    [
        {"environment": "local"},
        {"profile": "quick"},
        {"kind": Evidence.SIMULATED},
        {"kind": Evidence.NONE},
        {"kind": Evidence.ACCELERATED},  # SD-4 takes measurements alone
        {"imported": True},  # and none from elsewhere
        {"n": 0},
        {"other_rules": frozenset({"SD-4"})},
    ],
)
def test_a_pass_from_elsewhere_proves_nothing_and_a_failure_still_fails(circumstances):
    decision = answer(word("r", 29, PASS, **circumstances))
    assert decision.verdict is OPEN
    assert standing(decision) is Standing.MISSING
    assert answer(word("r", 29, FAIL, **circumstances)).verdict is FAIL


@pytest.mark.parametrize(
    ("run", "told"),
    [
        ({"state": RunState.RUNNING}, "running, not finished"),
        ({"state": RunState.BROKEN}, "broken, not finished"),
        ({"commit": None}, "which commit"),
        ({"commit_dirty": True}, "changes of its own"),
        ({"synthetic": True}, "made up"),
        ({"ended": None}, "nobody knows when"),
        ({"ended": "soon"}, "nobody knows when"),
        ({"ended": "2026-05-01T00:00:00Z"}, "in the future"),
        ({"started": "2026-03-01T18:00:00Z"}, "ended before it began"),
    ],
)
@pytest.mark.parametrize("verdict", [PASS, FAIL])
def test_runs_that_count_not_at_all(run, told, verdict):
    decision = answer(word("r", 29, verdict, **run))
    assert decision.verdict is OPEN
    assert told in decision.refused[0].reason


def test_two_runs_with_one_id_count_neither():
    decision = answer(word("r", 29, PASS), word("r", 28, FAIL))
    assert decision.verdict is OPEN
    assert [one.reason for one in decision.refused] == ["two runs have this id"] * 2


@pytest.mark.parametrize(
    ("profile", "behind", "counts"),
    [
        ("nightly", 0, True),
        ("nightly", 1, False),
        ("soak", 3, True),
        ("soak", 4, False),
        ("nightly", None, False),
    ],
)
def test_the_commit_has_to_be_the_released_one_or_near(profile, behind, counts):
    policy = msgspec.structs.replace(POLICY, commits_behind={"soak": 3})
    decision = answer(word("r", 29, PASS, profile=profile), policy=policy, distance=lambda _: behind)
    assert (decision.verdict is PASS) is counts
    assert len(decision.refused) == (0 if counts else 1)


def test_imported_evidence_counts_where_the_catalogue_takes_it():
    policy = msgspec.structs.replace(POLICY, must=("SD-3",))
    run = word("r", 29, PASS, criterion="SD-3", profile="soak", imported=True)
    rest = word("n", 29, PASS, criterion="SD-3.run")
    decision = answer(run, rest, policy=policy)
    assert decision.verdict is PASS
    known_one = next(one for one in decision.criteria if one.id == "SD-3")
    assert known_one.evidence is Evidence.IMPORTED
    assert answer(run, policy=policy).verdict is OPEN  # a row is as good as the worst of its parts


def test_a_regression_fails_what_the_policy_does_not_name():
    assert answer(word("p", 29, PASS), word("a", 29, FAIL, criterion="SD-1")).verdict is PASS
    decision = answer(
        word("p", 29, PASS), word("a", 28, PASS, criterion="SD-1"), word("b", 29, FAIL, criterion="SD-1")
    )
    assert decision.verdict is FAIL
    assert "SD-1" in decision.reason


def test_the_shortest_list_of_runs():
    decision = answer(policy=msgspec.structs.replace(POLICY, profiles=("quick", "nightly", "soak")))
    assert [one.profile for one in decision.runs] == ["quick"]
    assert decision.runs[0].command == "threenines verify --profile quick --stack staging"
    decision = answer(policy=load_policy("production", catalogue()))
    assert [one.profile for one in decision.runs] == ["nightly", "soak"]
    assert {"SD-3", "RL-1"} <= set(decision.runs[1].decides)
    assert {"PF-1", "RL-7"} <= set(decision.undecidable)
    assert answer(word("r", 29, PASS)).runs == ()


def test_how_long_a_run_takes_is_what_it_took():
    slow = word("r", 29, OPEN, started="2026-02-28T19:00:00Z", ended="2026-03-01T00:00:00Z")
    assert answer(slow).runs[0].expected_minutes == 300.0
    assert answer().runs[0].expected_minutes == POLICY.expected_minutes["nightly"]


def test_categories_need_their_thresholds():
    policy = msgspec.structs.replace(load_policy("production", catalogue()), must=())
    everything = [
        word(f"r{i}", 29, PASS, criterion=entry.id, kind=entry.accepts[0])
        for i, entry in enumerate(catalogue().criteria)
    ]
    assert answer(*everything, policy=policy).verdict is PASS
    short = [one for one in everything if one.verdicts.criteria[0].id != "PF-1"]
    assert answer(*short, policy=policy).verdict is PASS  # nine of ten rows are 90 %
    shorter = [one for one in short if one.verdicts.criteria[0].id != "PF-2"]
    assert answer(*shorter, policy=policy).verdict is OPEN
    failed = [word(f"f{i}", 29, FAIL, criterion=name) for i, name in enumerate(("PF-1", "PF-2"))]
    assert answer(*shorter, *failed, policy=policy).verdict is FAIL


@given(
    st.lists(
        st.tuples(
            st.floats(20, 30, exclude_max=True),
            st.sampled_from(list(Verdict)),
            st.sampled_from(["staging", "local"]),
        ),
        max_size=8,
    )
)
def test_against_a_naive_reading(words):
    stored = [word(f"r{i}", day, what, environment=where) for i, (day, what, where) in enumerate(words)]
    newest = sorted(enumerate(words), key=lambda one: (stored[one[0]].run.ended, f"r{one[0]}"), reverse=True)
    expected, failed_since = OPEN, False
    for _, (day, what, where) in newest:
        if what in {Verdict.VOID, Verdict.NOT_MEASURED}:
            continue
        if 30 - day > 7.0:
            break
        if what is FAIL:
            expected, failed_since = FAIL, True
            break
        if where == "staging":
            expected = what
            break
    decision = answer(*stored)
    assert decision.verdict is expected
    assert (standing(decision) is Standing.FAILED) is failed_since


# -------------------------------------------------------------------------------------------- policies


@pytest.mark.parametrize("name", known())
def test_policies_of_this_version_fit_the_catalogue(name):
    assert load_policy(name, catalogue()).environment == name


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"must": ["SD-99"]}, "SD-99"),
        ({"must": [], "categories": False}, "asks for nothing"),
        ({"environments": []}, "no environment"),
        ({"evidence": ["simulated"]}, "neither none nor simulated"),
        ({"evidence": []}, "classes of evidence"),
        ({"fresh_for_days": 0}, "fresh_for_days"),
        ({"fresh_for_days": -1}, "fresh_for_days"),
        ({"commits_behind": {"soak": -1}}, "negative"),
        ({"expected_minutes": {"soak": 0}}, "above 0"),
        ({"schema": "threenines.policy/2"}, "this version reads"),
        ({"surplus": 1}, "is no policy"),
    ],
)
def test_policies_that_cannot_be_used(changes, told):
    text = json.dumps({**msgspec.to_builtins(POLICY), **changes}).encode()
    with pytest.raises(PolicyError, match=told):
        parse_policy(text, "x", catalogue())


def test_an_unknown_environment_is_told():
    with pytest.raises(PolicyError, match="did you mean production"):
        load_policy("prodution", catalogue())


# --------------------------------------------------------------------------------------- runs on disk


def sources(out: Path, trust: Trust | None = None):
    return gate_sources.read_sources(out, trust or Trust(), catalogue())


def test_whole_runs_are_read(tmp_path):
    run_folder(tmp_path, "a", {"SD-4": PASS})
    run_folder(tmp_path, "b", state=RunState.RUNNING)
    (tmp_path / "latest").symlink_to("a")
    found, refused = sources(tmp_path)
    assert [one.run.id for one in found] == ["a", "b"]
    assert refused == ()


def edit_plan(folder: Path) -> None:
    (folder / "plan.json").write_bytes(
        (folder / "plan.json").read_bytes().replace(b'"seed": 7', b'"seed": 8')
    )


def replan(folder: Path, **changes: object) -> None:
    """Another plan, its hash in `run.json` put right: what a hash cannot tell."""
    plan = {**json.loads((folder / "plan.json").read_bytes()), **changes}
    data = json.dumps(plan).encode()
    (folder / "plan.json").write_bytes(data)
    run = msgspec.json.decode((folder / "run.json").read_bytes(), type=Run)
    changed = msgspec.structs.replace(run, plan_sha256=hashlib.sha256(data).hexdigest())
    (folder / "run.json").write_bytes(encode(changed))


def test_a_row_of_a_scenario_that_was_left_out_is_not_proven(tmp_path):
    folder = run_folder(tmp_path, "night", {"SD-4": PASS}, profile="nightly")
    left_out = LeftOut(
        name="slow-disk", title="t", rows=("RK-2",), lacks=("slow-disk",), substrate="process", where="hosts"
    )
    replan(folder, profile="nightly", left_out=[msgspec.to_builtins(left_out)])
    found, refused = sources(tmp_path)
    assert refused == ()
    now = datetime(2026, 3, 1, 2, tzinfo=UTC)
    policy = msgspec.structs.replace(POLICY, must=("SD-4", "RK-2"))
    kept, _ = admit(found, policy, lambda commit: 0, now)
    decision = decide(catalogue(), policy, kept, (), COMMIT, now, extra=EXTRA)
    assert (decision.verdict, decision.reason) == (OPEN, "not proven: RK-2")
    assert standing(decision) is Standing.PROVEN


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (edit_plan, "not the one that was hashed"),
        (lambda folder: (folder / "verdicts.json").write_bytes(b"{"), "damaged"),
        (lambda folder: (folder / "verdicts.json").write_bytes(b'{"schema": "x/9"}'), "this version reads"),
        (lambda folder: (folder / "verdicts.json").unlink(), "cannot be read"),
        (lambda folder: (folder / "run.json").write_bytes(b'{"seed": NaN}'), "damaged"),
        (lambda folder: replan(folder, profile="soak"), "another profile"),
    ],
)
def test_damaged_and_edited_runs_are_refused(tmp_path, damage, told):
    folder = run_folder(tmp_path, "a", {"SD-4": PASS}, profile="quick")
    damage(folder)
    found, refused = sources(tmp_path)
    assert found == ()
    assert told in refused[0].reason


def test_verdicts_have_to_be_what_the_history_says(tmp_path):
    folder = run_folder(tmp_path, "a", {"SD-4": PASS}, profile="quick")
    judges = {"quick": gate_sources.judge_history}.get
    found, _ = sources(tmp_path)
    kept, refused = gate_sources.check_judged(found, judges)
    assert kept == ()
    assert "not what its history says" in refused[0].reason
    judge_run(folder)
    found, _ = sources(tmp_path)
    assert gate_sources.check_judged(found, judges) == (found, ())
    assert "nothing judges profile quick" in gate_sources.check_judged(found, {}.get)[1][0].reason
    with open(folder / "history" / "nemesis.jsonl", "ab") as file:
        file.write(b"cut\n")
    assert "cannot be judged" in gate_sources.check_judged(found, judges)[1][0].reason


def test_a_plan_with_a_softer_rule_is_noticed(tmp_path):
    folder = run_folder(tmp_path, "a", {"SD-4": PASS}, profile="quick")
    assert sources(tmp_path)[0][0].other_rules == frozenset()
    plan = json.loads((folder / "plan.json").read_bytes())
    for entry in plan["catalogue"]["criteria"]:
        if entry["id"] == "SD-2":
            entry["target"] = 10_000
        if entry["id"] == "SD-4":
            entry["plans"]["quick"]["confidence"] = 0.5
    replan(folder, catalogue=plan["catalogue"])
    assert sources(tmp_path)[0][0].other_rules == {"SD-2", "SD-4"}


def test_imported_runs_are_checked_each_time(tmp_path):
    keys, out = tmp_path / "keys", tmp_path / "out"
    evidence_keys.make_key(keys)
    bundle = tmp_path / "x.zip"
    evidence.export_bundle(run_folder(tmp_path / "there", "a", {"SD-3": PASS}), keys, bundle, NOW)
    trust = evidence_keys.trusted(keys)
    folder, _, _ = evidence.import_bundle(bundle, trust, out, NOW)
    assert [one.imported for one in sources(out, trust)[0]] == [True]
    assert "stranger" in sources(out)[1][0].reason
    (folder / "verdicts.json").write_bytes(b"{}")
    assert "not what was signed" in sources(out, trust)[1][0].reason


def test_distances_between_commits(tmp_path):
    def git(*arguments: str) -> str:
        options = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *options, *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    git("init", "-q", "-b", "main")
    commits = []
    for number in range(3):
        git("commit", "-q", "--allow-empty", "-m", str(number))
        commits.append(git("rev-parse", "HEAD"))
    git("checkout", "-q", "-b", "other", commits[0])
    git("commit", "-q", "--allow-empty", "-m", "elsewhere")
    elsewhere = git("rev-parse", "HEAD")
    distance = gate_sources.distance_to(commits[2], tmp_path)
    assert [distance(one) for one in commits] == [2, 1, 0]
    assert distance(elsewhere) is None
    assert distance("0" * 40) is None
    assert distance("--all") is None
    assert gate_sources.distance_to(commits[0], tmp_path)(commits[2]) is None
    assert gate_sources.resolve_commit("main", tmp_path) == commits[2]
    with pytest.raises(EvidenceError, match="none of this repository"):
        gate_sources.resolve_commit("nowhere", tmp_path)
    with pytest.raises(EvidenceError, match="none of this repository"):
        gate_sources.resolve_commit("--all", tmp_path)


def test_the_command_refuses_what_nobody_measured(tmp_path, capsys):
    asked = ["--out", str(tmp_path), "--keys", str(tmp_path / "keys")]
    assert run_command(["gate", "--environment", "production", "--json", *asked]) == 2
    told = msgspec.json.decode(capsys.readouterr().out, type=Decision)
    assert told.verdict is OPEN
    assert [one.profile for one in told.runs] == ["nightly", "soak"]
    assert {"SD-3", "RL-1", "RL-7"} <= set(told.runs[1].decides)
    assert "PF-1" in told.undecidable
    assert run_command(["gate", "--environment", "prodution", *asked]) == 64
    assert "did you mean production?" in capsys.readouterr().err


def census(out: Path, name: str, *, lost: str | None = None) -> Path:
    """A judged run of just now in which each host was asked for each agent, and one was found nowhere."""
    at = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    folder = run_folder(out, name, started=at, ended=at)
    with open(folder / "history" / "probe.jsonl", "wb") as file:
        for host in stories.HOSTS:
            for agent in stories.plan(catalogue=catalogue()).agents:
                for line in stories.look_ups(
                    "census", host, [1.0], usable=int(agent.name != lost), agent=agent.name
                ):
                    file.write(encode_line(line))
    judge_run(folder)
    return folder


def test_a_real_history_opens_the_gate_and_an_edited_one_does_not(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gate_sources, "resolve_commit", lambda name: COMMIT)
    policy, out = tmp_path / "policy.yaml", tmp_path / "out"
    asked = msgspec.structs.replace(POLICY, must=("SD-1",), profiles=("quick",))
    policy.write_bytes(msgspec.json.encode(asked))  # JSON is YAML

    def status() -> int:
        arguments = ["--policy", str(policy), "--out", str(out), "--keys", str(tmp_path / "keys")]
        found = run_command(["gate", *arguments])
        capsys.readouterr()
        return found

    assert status() == 2
    whole = census(out, "a")
    assert status() == 0
    broken = census(out, "b", lost="agent-0")
    assert status() == 1
    # What failed is painted over: the forged pass counts for nothing, and the older one no longer does.
    told = (broken / "verdicts.json").read_bytes()
    (broken / "verdicts.json").write_bytes((whole / "verdicts.json").read_bytes())
    assert status() == 2
    (broken / "verdicts.json").write_bytes(told)
    assert status() == 1
    with open(broken / "plan.json", "ab") as file:
        file.write(b" ")
    assert status() == 2
    shutil.rmtree(broken)
    assert status() == 0
