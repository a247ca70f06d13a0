"""Steps: order, side by side, what is skipped, and what an error ends."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from infra.tools.children import Children, Stopped
from infra.tools.errors import SetupError
from infra.tools.steps import Progress, Step, pending_steps, run_steps

PATIENCE_S = 20.0


def quiet() -> Progress:
    return Progress(lambda line: None)


@pytest.fixture
def children(tmp_path: Path) -> Children:
    return Children(tmp_path / "log")


def noting(done: list[str], name: str, after: tuple[str, ...] = ()) -> Step:
    def bring() -> str:
        done.append(name)
        return "came"

    return Step(name, lambda: False, bring, after)


def test_steps_come_after_what_they_need(children: Children) -> None:
    done: list[str] = []
    steps = (noting(done, "c", ("a", "b")), noting(done, "b", ("a",)), noting(done, "a", ("done before",)))
    run_steps(steps, children, quiet())
    assert done == ["a", "b", "c"]


def test_independent_steps_run_side_by_side(children: Children) -> None:
    meet = threading.Barrier(2, timeout=PATIENCE_S)

    def bring() -> str:
        meet.wait()  # breaks when the other one is not running at the same time
        return "met"

    run_steps([Step(name, lambda: False, bring) for name in "ab"], children, quiet())


def test_steps_that_wait_for_one_another_are_told(children: Children) -> None:
    steps = (noting([], "a", ("b",)), noting([], "b", ("a",)))
    with pytest.raises(ValueError, match="wait for one another: a, b"):
        run_steps(steps, children, quiet())


def test_the_first_error_ends_the_others_and_starts_nothing_more(children: Children) -> None:
    done: list[str] = []
    asleep = threading.Event()

    def hang() -> str:
        asleep.set()
        children.run("hang", ["sleep", "300"])
        return "never"

    def fail() -> str:
        assert asleep.wait(PATIENCE_S)
        raise SetupError("tools.x", "broken", "mend it")

    steps = (Step("hang", lambda: False, hang), Step("x", lambda: False, fail), noting(done, "later", ("x",)))
    with pytest.raises(SetupError, match="broken"):
        run_steps(steps, children, quiet())
    assert done == []
    with pytest.raises(Stopped):
        children.run("after", ["true"])


def test_what_is_ready_is_skipped_and_what_only_serves_it_too() -> None:
    def step(name: str, ready: bool, needed_for: tuple[str, ...] = ()) -> Step:
        return Step(name, lambda: ready, lambda: "", (), needed_for)

    def names(*steps: Step) -> list[str]:
        return [s.name for s in pending_steps(steps)]

    venv, go = step("venv", False, ("packages", "go")), step("go", False, ("tool",))
    assert names(venv, step("packages", True), go, step("tool", True)) == []
    assert names(venv, step("packages", True), go, step("tool", False)) == ["venv", "go", "tool"]
    assert names(venv, step("packages", False), go, step("tool", True)) == ["venv", "packages"]
    assert names(venv, step("go", True, ("tool",)), step("tool", False)) == ["tool"]


def test_progress_says_how_long_things_take() -> None:
    now = [100.0]
    lines: list[str] = []
    progress = Progress(lines.append, lambda: now[0])
    progress.begin("tools.etcd")
    now[0] += 12.5
    progress.tick()
    progress.end("tools.etcd", "3.7.3, built")
    progress.tick()  # nobody is at work: nothing to say
    assert lines == [
        "[   0.0 s] tools.etcd …",
        "[  12.5 s] still: tools.etcd (12 s)",
        "[  12.5 s] tools.etcd: 3.7.3, built (12.5 s)",
    ]
