"""Made-up run directories for tests and for looking at pages before a live run exists.

Everything written here is marked `synthetic` in its run.json, and the report says so at its top. The rows are
those of the requirement catalogue; the figures come from a seeded generator and mean nothing.

    python -m tests.reports.synthetic OUT [passing|failing|mixed|hostile]
"""

from __future__ import annotations

import math
import random
import sys
from pathlib import Path

from reports.model import (
    Category,
    CriterionResult,
    Deviation,
    Direction,
    Evidence,
    FaultRate,
    Gap,
    InstrumentError,
    Level,
    Line,
    Lines,
    Mark,
    OutageEpisode,
    Outages,
    Phase,
    Plan,
    PlannedCriterion,
    Projection,
    Quantiles,
    Run,
    RunOrder,
    RunState,
    Samples,
    SelfTest,
    SelfTestRate,
    Series,
    SeriesFile,
    Stage,
    TimeLine,
    Verdict,
    Verdicts,
    Void,
    encode,
)

CATEGORIES = (
    Category(id="service-discovery", title="Service discovery", threshold=0.95),
    Category(id="performance", title="Performance", threshold=0.90),
    Category(id="monitoring", title="Monitoring", threshold=0.95),
    Category(id="reliability", title="Reliability", threshold=0.99),
    Category(id="enhancement", title="Overall enhancement", threshold=0.95),
)

# id, title, category, target in words: the rows that nothing here measures.
REST = (
    (
        "SD-3",
        "Discovery availability over seven days",
        "service-discovery",
        "99.9 %, zero failures over 7 days",
    ),
    ("SD-5", "Discovery cache in three tiers", "service-discovery", "≥ 80 % lower latency than uncached"),
    ("SD-7", "Load balancer by health, load and locality", "service-discovery", "works"),
    ("SD-8", "Rollout of discovery by risk", "service-discovery", "77/77 validated"),
    ("PF-1", "System-wide improvement", "performance", "≥ 20 %"),
    ("PF-2", "VRAM saved over the model agents", "performance", "≥ 2–3 GB"),
    ("PF-3", "Model operations", "performance", "≥ 30 % faster"),
    ("PF-4", "Memory footprint per agent", "performance", "30–40 % lower (PSS)"),
    ("PF-5", "CPU efficiency", "performance", "≥ 25 % better"),
    ("PF-6", "Communication between agents", "performance", "≥ 40 % better"),
    ("PF-7", "Database connection pool", "performance", "50–60 % less overhead"),
    ("PF-8", "Tokenizer pool", "performance", "40–50 % less tokenizer memory"),
    ("PF-9", "HTTP session pool", "performance", "30–40 % less connection overhead"),
    ("PF-10", "File handler pool", "performance", "25–35 % faster file operations"),
    ("OB-1", "Dashboards for every agent and category", "monitoring", "100 %"),
    ("OB-2", "Anomaly detection", "monitoring", "> 95 % detection accuracy"),
    ("OB-3", "False positives of alerts", "monitoring", "< 1 %"),
    ("OB-4", "Alert correlation", "monitoring", "70–80 % fewer alerts"),
    ("OB-5", "Predictive alerts", "monitoring", "> 80 % preventable"),
    ("OB-6", "SLO tracking", "monitoring", "works"),
    ("OB-7", "Observability survives the loss of a host", "monitoring", "works"),
    ("RL-1", "Uptime", "reliability", "99.9 % over 7 days"),
    ("RL-2", "Circuit breakers", "reliability", "100 % of critical paths"),
    ("RL-4", "Service failover", "reliability", "detect < 1 s, fail over < 2 s, reroute < 1 s"),
    ("RL-5", "Cross-host failover", "reliability", "detect < 3 s, fail over < 5 s, synchronise < 3 s"),
    ("RL-6", "Disaster recovery", "reliability", "all exercised"),
    ("RL-7", "Zero unplanned downtime", "reliability", "0"),
    ("RL-8", "Never two primaries", "reliability", "0"),
    ("RK-1", "Performance watch", "enhancement", "rollback < 5 s"),
    ("RK-2", "Stability watch", "enhancement", "works"),
    ("RK-3", "Host-to-host health", "enhancement", "mean < 50 ms; failover ≤ 10 s"),
    ("RK-4", "Observation of critical changes", "enhancement", "works"),
    ("RK-5", "Zero regressions", "enhancement", "works"),
    ("VR-1", "Five categories with thresholds", "enhancement", "0.95, 0.90, 0.95, 0.99, 0.95"),
    ("VR-2", "Evidence named", "enhancement", "every verdict"),
    ("VR-3", "Statistical verdicts", "enhancement", "every measured verdict"),
    ("VR-4", "Graded report", "enhancement", "works"),
    ("VR-5", "Profiles", "enhancement", "four profiles"),
    ("EV-1", "Monthly performance review", "enhancement", "works"),
    ("EV-2", "Quarterly capacity review", "enhancement", "works"),
    ("EV-3", "The road ahead", "enhancement", "kept possible"),
)
SELFTEST = SelfTest(
    created="2026-11-19T09:00:00Z",
    verdict=Verdict.PASS,
    runs=2000,
    seed=3,
    rates=tuple(
        SelfTestRate(
            judge=judge,
            estimator="quantile (Wilks 99/95)",
            system=f"failover p99 {'4.9' if keeps else '5.1'} s against < 5 s",
            keeps_target=keeps,
            runs=2000,
            passed=1700 if keeps else wrong,
            failed=wrong if keeps else 1200,
            undecided=300 - wrong if keeps else 800 - wrong,
            error=wrong / 2000,
            low=wrong / 2400,
            high=wrong / 1700,
            limit=0.05 if judge == "threenines" else None,
            holds=True if judge == "threenines" else None,
        )
        for judge, keeps, wrong in (
            ("threenines", True, 4),
            ("threenines", False, 61),
            ("sample p99", False, 790),
        )
    ),
)
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}\x1b[31m$\\frac$"


def _latency(
    rng: random.Random,
    identifier: str,
    title: str,
    claim: str,
    target_ms: float,
    middle_ms: float,
    n: int,
    *,
    statistic: str,
    coverage: float,
    stretch_ms: float | None = None,
    slow: int = 0,
    kept: int | None = None,
) -> tuple[PlannedCriterion, CriterionResult, Samples]:
    """A latency criterion of `n` planned trials of which `slow` break the target and `kept` were run."""
    ran = n if kept is None else kept
    values: list[float | None] = [middle_ms * math.exp(rng.gauss(0, 0.28)) for _ in range(ran)]
    for position in rng.sample(range(ran), slow):
        values[position] = None if position % 3 == 0 else target_ms * rng.uniform(1.02, 1.6)
    shown = sorted(math.inf if v is None else v for v in values)
    estimate = shown[min(ran - 1, math.ceil(coverage * ran) - 1)]
    needed = math.ceil(math.log(0.05) / math.log(coverage))
    bound = shown[-1] if ran >= needed else None
    verdict = (
        Verdict.PASS if not slow and ran >= needed else Verdict.FAIL if slow > 2 else Verdict.INCONCLUSIVE
    )
    family = "RL" if identifier.startswith("RL") else "SD"
    plan = PlannedCriterion(
        id=identifier,
        claim=claim,
        population="crashes of agents drawn from the manifest, under load",
        method="SIGKILL of an agent's process while both hosts call it; the clock starts before the signal",
        n=n,
        allowed_exceedances=0,
        coverage=coverage,
        confidence=0.95,
        statistic=statistic,
        workload="40 calls a second from each host, open loop",
        fault="crash of an agent (SIGKILL)",
        stages=(Stage(n=n, passes_at=0, fails_at=4), Stage(n=2 * n, passes_at=1, fails_at=2))
        if identifier == "RL-3.failover"
        else (),
        alpha=0.05,
        beta=0.1,
        error_shared="Holm over the parts of RL-3" if identifier.startswith("RL-3.") else None,
    )
    result = CriterionResult(
        id=identifier,
        title=title,
        category="reliability" if family == "RL" else "service-discovery",
        claim=claim,
        unit="ms",
        target=target_ms,
        direction=Direction.BELOW,
        verdict=verdict,
        evidence=Evidence.MEASURED,
        estimate=None if math.isinf(estimate) else estimate,
        bound=None if bound is None or math.isinf(bound) else bound,
        n=ran,
        exceedances=slow,
        coverage=coverage,
        confidence=0.95,
        target_text=f"< {target_ms / 1000:g} s",
        stretch=stretch_ms,
        stretch_text=f"< {stretch_ms:g} ms" if stretch_ms else None,
        statistic=statistic,
        method=plan.method,
        reason={
            Verdict.PASS: f"no exceedance in {ran} trials",
            Verdict.FAIL: f"{slow} of {ran} trials exceeded {target_ms / 1000:g} s, none was allowed",
            Verdict.INCONCLUSIVE: f"{slow} of {ran} trials exceeded the target: too few trials to say more",
        }[verdict],
        remedy="Look at the slowest trial's time line, then at hostd's events on the host of that agent",
        trials_to_decide=needed + 41 - ran if verdict is Verdict.INCONCLUSIVE else None,
        voids=1 if family == "RL" else None,
        duration_s=ran * 1.4,
        sources=(f"history/{identifier.lower()}.jsonl",),
        fresh_for_days=30,
        interval=None if math.isinf(estimate) else (estimate * 0.9, estimate * 1.15),
        interval_confidence=0.95,
        stage=1 if plan.stages else None,
        reproduce=f"threenines chaos run crash --agent memory-store --seed {n}",
        panel="Fleet / Failover times",
        facts={"p50": f"{shown[ran // 2]:.1f} ms", "slowest": f"{shown[-1]:.0f} ms"},
    )
    hosts = tuple("mainpc" if rng.random() < 0.7 else "pc2" for _ in values)
    return (
        plan,
        result,
        Samples(
            criterion=identifier,
            title=title,
            unit="ms",
            values=tuple(values),
            groups=hosts,
            run_order=(
                RunOrder(
                    test="Mann-Kendall",
                    statistic=-0.04,
                    p_value=0.61,
                    alpha=0.01,
                    drifts=False,
                    detail="repeats may be counted as independent",
                ),
            ),
        ),
    )


def write_run(
    out: Path,
    name: str,
    *,
    kind: str = "mixed",
    seed: int = 7,
    state: RunState = RunState.FINISHED,
    plots: bool = True,
) -> Path:
    """Write run.json, plan.json, verdicts.json and series.json of one made-up run; returns its folder.

    Without `plots` the data of plots are left out: rendering is then a matter of milliseconds.
    """
    rng = random.Random(seed)
    slow = {"passing": 0, "failing": 4, "mixed": 4, "hostile": 4}[kind]
    few = 41 if kind in {"mixed", "hostile"} else None
    trials = [
        _latency(
            rng,
            "SD-4",
            "Registered on one host, resolvable on the other",
            "p99 of the time from a registration on one host to a usable answer on the other is below 1 s",
            1000,
            6.2,
            300,
            statistic="p99",
            coverage=0.99,
            stretch_ms=50,
        ),
        _latency(
            rng,
            "SD-6",
            "Unhealthy instances leave the answers",
            "p95 of the time from a fault until both hosts' answers are free of the instance is below 1 s",
            1000,
            120,
            59,
            statistic="p95",
            coverage=0.95,
            stretch_ms=1000,
            kept=few,
        ),
        _latency(
            rng,
            "RL-3",
            "Agent crash: detected, failed over and validated",
            "95 % of agent crashes are detected in < 2 s, failed over in < 3 s and validated in < 2 s",
            7000,
            310,
            59,
            statistic="p95",
            coverage=0.95,
            stretch_ms=250,
        ),
        _latency(
            rng,
            "RL-3.detect",
            "Agent crash: detection",
            "p95 of the time to detect a crash is below 2 s",
            2000,
            45,
            59,
            statistic="p95",
            coverage=0.95,
        ),
        _latency(
            rng,
            "RL-3.failover",
            "Agent crash: fail-over",
            "p95 of the time from a crash to the first good call from both hosts is below 3 s",
            3000,
            210,
            59,
            statistic="p95",
            coverage=0.95,
            slow=slow,
        ),
    ]
    census = PlannedCriterion(
        id="SD-1",
        claim="every agent of the fleet resolves to a usable endpoint from every host",
        population="the agents of the manifest, asked from every worker host",
        method="each host resolves each name in its discovery snapshot",
        statistic="share",
    )
    lookups = PlannedCriterion(
        id="SD-2",
        claim="p99 of a look-up (name to usable endpoint) is below 100 ms from either host, under load",
        population="warm look-ups of all names of the manifest under load",
        n=10000,
        allowed_exceedances=0,
        method="a process on each host looks names up in random order",
        coverage=0.99,
        confidence=0.95,
        statistic="p99",
    )
    claim = HOSTILE if kind == "hostile" else census.claim
    criteria = [
        CriterionResult(
            id="SD-1",
            title="Every agent is registered, on both hosts",
            category="service-discovery",
            claim=claim,
            unit="%",
            target=100,
            direction=Direction.EXACTLY,
            verdict=Verdict.PASS,
            evidence=Evidence.MEASURED,
            estimate=100,
            n=154,
            exceedances=0,
            target_text="77/77 (100 %)",
            statistic="share",
            stretch_text="any fleet size; 10,000 in simulation",
            method=census.method,
            reason="154 of 154 answers named an instance that is up",
            duration_s=0.4,
            sources=("history/sd-1.jsonl",),
            notes=(HOSTILE,) if kind == "hostile" else (),
        ),
        CriterionResult(
            id="SD-2",
            title="Discovery latency, warm (p99)",
            category="service-discovery",
            claim=lookups.claim,
            unit="ms",
            target=100,
            direction=Direction.BELOW,
            verdict=Verdict.PASS,
            evidence=Evidence.MEASURED,
            estimate=0.021,
            bound=0.024,
            n=20000,
            exceedances=0,
            coverage=0.99,
            confidence=0.95,
            target_text="< 100 ms",
            stretch=1,
            stretch_text="p99 < 1 ms warm",
            statistic="p99",
            method=lookups.method,
            reason="no exceedance in 20,000 look-ups",
            duration_s=61.0,
            sources=("history/sd-2.jsonl",),
            facts={"mean": "9.1 µs", "p99.9": "88 µs"},
        ),
        *(result for _, result, _ in trials),
        *(
            CriterionResult(
                id=i,
                title=title,
                category=category,
                claim=title,
                target_text=target,
                reason="not planned by the quick profile",
                remedy="Run the soak profile" if i in {"SD-3", "RL-1"} else "Build its campaign",
            )
            for i, title, category, target in REST
        ),
    ]
    order = [
        i for p in ("SD", "PF", "OB", "RL", "RK", "VR", "EV") for i in range(1, 11) for i in [f"{p}-{i}"]
    ]
    criteria.sort(key=lambda c: (order.index(c.id.partition(".")[0]), c.id))
    plan = Plan(
        profile="quick",
        seed=seed,
        categories=CATEGORIES,
        created="2026-11-20T09:00:01Z",
        criteria=(census, lookups, *(p for p, _, _ in trials)),
    )
    folder = out / name
    folder.mkdir(parents=True)
    run = Run(
        id=name,
        started="2026-11-20T09:00:00Z",
        ended=None if state is RunState.RUNNING else "2026-11-20T09:06:42Z",
        profile="quick",
        environment="local",
        seed=seed,
        plan_sha256=plan.sha256(),
        state=state,
        commit="2cd7b9e41f0c6a7d55a1c2f4b7b1f0a7d1c0ffee",
        synthetic=True,
        fleet="fleet.yaml",
        command=f"threenines verify --profile quick --seed {seed}",
        versions={
            "threenines": "0.1.0",
            "python": "3.11.2",
            "etcd": "3.7.3",
            "prometheus": "2.42.0",
            "redis": "7.0.15",
        },
        machine={"processors": "2", "memory": "8 GB", "kernel": "Linux 6.1", "hosts": "network namespaces"},
        configuration={
            "agents": "77",
            "hosts": "mainpc, pc2, witness",
            "load": "40 calls a second from each host",
        },
    )
    verdicts = Verdicts(
        criteria=tuple(criteria),
        voids=(Void(criterion="RL-3", count=1, reason="the process had ended by itself before the signal"),),
        deviations=(
            Deviation(
                what="SD-6 stopped after 41 of 59 trials",
                why="the time limit of the run was reached",
                effect="SD-6 stays open",
            ),
        )
        if few
        else (),
        instruments=(
            InstrumentError(
                name="clock reads",
                value=0.0001,
                unit="ms",
                detail="CLOCK_BOOTTIME, two reads back to back, p99",
            ),
            InstrumentError(
                name="probe interval", value=2, unit="ms", detail="a fault's end is seen at most this late"
            ),
        ),
        projections=(
            Projection(
                criterion="RL-1",
                downtime_s=41,
                low_s=12,
                high_s=96,
                confidence=0.9,
                budget_s=604.8,
                draws=100_000,
                rates=(
                    FaultRate(
                        fault="crash of an agent",
                        per_week=20,
                        source="assumed",
                        n=59,
                        median_s=0.31,
                        longest_s=1.1,
                    ),
                    FaultRate(
                        fault="loss of a host",
                        per_week=0.25,
                        source="assumed",
                        n=0,
                        median_s=2,
                        longest_s=5,
                    ),
                ),
                assumptions=("faults come independently", "an outage takes as long in a week as in the run"),
            ),
        ),
    )
    quantiles = (0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 0.9999)
    curve = (0.004, 0.006, 0.008, 0.010, 0.013, 0.016, 0.021, 0.088, 0.41)
    series: tuple[Series, ...] = (
        *(
            Quantiles(
                criterion="SD-2",
                title="Look-ups",
                unit="ms",
                quantiles=quantiles,
                values=tuple(v * f for v in curve),
                count=10000,
                group=g,
            )
            for g, f in (("mainpc", 1.0), ("pc2", 1.13))
        ),
        *(samples for _, _, samples in trials),
        TimeLine(
            criterion="RL-3",
            title=HOSTILE if kind == "hostile" else "The slowest crash: agent memory-store on mainpc",
            level=Level.AGENT,
            fault="SIGKILL of its process",
            phases=(
                Phase(name="detect", start_ms=0, end_ms=61, target_ms=2000),
                Phase(name="decide", start_ms=61, end_ms=64),
                Phase(name="promote", start_ms=64, end_ms=310),
                Phase(name="reroute", start_ms=310, end_ms=402, target_ms=70),
                Phase(name="validate", start_ms=402, end_ms=655, target_ms=2000),
            ),
            marks=(
                Mark(name="SIGKILL", at_ms=0),
                Mark(name="old process gone", at_ms=0.4),
                Mark(name="forked again", at_ms=148),
                Mark(name="first answer", at_ms=402),
            ),
        ),
        Outages(
            criterion="run",
            title="Outages seen by the probes",
            watched_s=400,
            episodes=(
                OutageEpisode(start_s=61, length_s=0.4, cause="crash (injected)", planned=True),
                OutageEpisode(
                    start_s=190,
                    length_s=2.6,
                    cause=HOSTILE if kind == "hostile" else "unknown",
                    seen_by=("pc2",),
                ),
                OutageEpisode(start_s=301, length_s=1.1, cause="unknown"),
            ),
            gaps=(Gap(start_s=330, length_s=22, reason="the harness was stopped"),),
            budget_s=6,
            probes=("mainpc", "pc2"),
        ),
        Lines(
            criterion="run",
            title="Calls a second",
            unit="calls/s",
            at_s=tuple(float(s) for s in range(0, 400, 5)),
            lines=(
                Line(name="answered", values=tuple(80 + rng.gauss(0, 1.2) for _ in range(80))),
                Line(name="failed", values=tuple(0.0 if i % 9 else 0.6 for i in range(80))),
            ),
        ),
    )
    (folder / "run.json").write_bytes(encode(run))
    (folder / "plan.json").write_bytes(plan.encode())
    (folder / "verdicts.json").write_bytes(encode(verdicts))
    if kind != "passing":
        (folder / "selftest.json").write_bytes(encode(SELFTEST))
    if plots:
        (folder / "series.json").write_bytes(encode(SeriesFile(series=series)))
    return folder


if __name__ == "__main__":
    from reports.render import render

    wanted = sys.argv[2] if len(sys.argv) > 2 else "mixed"
    print(render(write_run(Path(sys.argv[1]), f"2026-11-20T090000Z-quick-{wanted}", kind=wanted)))
