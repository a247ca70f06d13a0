"""Every fault that this machine can have, on a stack that really runs: proved, healed, as before."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from chaos.errors import Refused
from chaos.journal import Journal, read_journal
from chaos.parameters import make_fault
from chaos.session import Session
from infra.substrates.base import Capability
from tests.chaos.conftest import Standing

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]

WAY = {"host": "a", "to": "etcd-b"}
FAULTS: list[tuple[str, dict[str, object]]] = [
    ("link-latency", {**WAY, "latency_ms": 200, "jitter_ms": 20}),
    ("link-latency", {"host": "b", "to": "gateway-a", "latency_ms": 300, "streams": "there"}),
    ("link-bandwidth", {**WAY, "rate_kb_s": 4}),
    ("link-reset", WAY),
    ("link-slow-close", {**WAY, "delay_ms": 800}),
    ("link-slicer", WAY),
    ("link-limit", WAY),
    ("link-timeout", WAY),
    ("link-timeout", {**WAY, "after_ms": 300}),
    ("link-lost-connections", WAY),
    ("link-down", WAY),
    ("database-down", {"host": "b", "to": "redis-a"}),
    ("database-slow", {"host": "a", "to": "redis-a", "latency_ms": 300}),
    ("database-errors", {"host": "a"}),
    ("link-cut", {"host": "w", "peer": "b"}),
    ("host-cut-off", {"host": "w"}),
    ("link-packet-loss", {"host": "w", "share": 0.4}),
    ("process-kill", {"target": "agent/one"}),
    ("process-kill", {"target": "b/gateway"}),
    ("process-freeze", {"target": "agent/four"}),
    ("process-freeze", {"target": "b/redis"}),
    ("process-stop", {"target": "b/redis"}),
    ("process-restart", {"target": "a/toxiproxy"}),
    ("process-open-files", {"target": "a/redis"}),
    ("process-crash-loop", {"target": "b/redis", "every_ms": 0}),
    ("process-slow-start", {"target": "b/redis", "delay_ms": 300}),
    ("cpu-burn", {"host": "w", "processes": 1}),
    ("memory-fill", {"host": "a", "memory_mb": 64}),
    ("loop-stall", {"agent": "three", "for_s": 5}),
    ("agent-errors", {"agent": "one"}),
    ("agent-slow", {"agent": "four"}),
    ("agent-wrong", {"agent": "two"}),
    ("agent-garbage", {"agent": "three"}),
    ("model-load-failure", {"agent": "five"}),
    ("gpu-memory", {"host": "a", "memory_mb": 512}),
    ("gpu-compute", {"host": "b", "busy_percent": 60}),
    ("host-freeze", {"host": "w"}),
    ("host-restart", {"host": "w"}),
    ("host-kill", {"host": "w"}),
]


@pytest.fixture(scope="module")
def sessions(standing: Standing, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Session]]:
    """One for all tests, and another after it has lost its lease: that fails one test, not all."""
    journal = Journal(tmp_path_factory.mktemp("journal") / "journal.jsonl")
    opened: list[Session] = []

    def current() -> Session:
        if opened and opened[-1].lost:
            opened.pop().close()
        if not opened:
            stage = standing.stage()
            opened.append(
                Session.open(standing.environment, journal=journal, fleet=standing.fleet, stage=stage)
            )
        return opened[-1]

    yield current
    for session in opened:
        session.close()


@pytest.fixture
def session(sessions: Callable[[], Session]) -> Session:
    return sessions()


@pytest.mark.parametrize(
    ("name", "given"), FAULTS, ids=[f"{name}-{number}" for number, (name, _) in enumerate(FAULTS)]
)
def test_a_fault_is_proved_and_leaves_nothing(session: Session, name: str, given: dict[str, object]) -> None:
    fault = make_fault(name, given)
    cuts = name in ("link-cut", "host-cut-off", "link-packet-loss")
    if cuts and Capability.CUT_LINKS not in session.stage.substrate.capabilities():
        pytest.skip("hosts have no links of their own here")
    outcome = session.run(fault, 0.1)
    assert outcome.effect.holds, outcome
    assert outcome.whole, outcome
    lines = [line for line in read_journal(session.journal.path) if line.trial == outcome.trial]
    assert [line.event for line in lines][:5] == ["planned", "injected", "effect", "healing", "healed"]
    assert {line.event for line in lines[5:]} == {"restored"}


@pytest.mark.parametrize("name", ["clock-step", "clock-skew", "disk-slow"])
def test_what_this_substrate_cannot_do_is_refused(session: Session, name: str) -> None:
    with pytest.raises(Refused, match=r"has no (set-clock|slow-disk)"):
        session.run(make_fault(name, {"host": "a"}), 0.1)
