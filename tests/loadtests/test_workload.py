"""Workloads are data, and wrong data is told."""

from __future__ import annotations

import pytest

from loadtests.workload import Operation, WorkloadError, load_workload


def test_the_reference_workload_holds_together():
    workload = load_workload()
    assert workload.per_s == 100
    assert {task.operation for task in workload.tasks} == set(Operation)
    for task in workload.tasks:
        for body in task.bodies.values():
            for value in body.values():
                if isinstance(value, str):
                    assert "{" not in value.format(n=1, agent="planner")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (
            "name: x\nper_s: 0\nusers: 1\ntimeout_s: 1\ntasks: [{operation: look-up, share: 1}]",
            "> 0.0 - at `..per_s`",
        ),
        ("name: x\nper_s: 1\nusers: 1\ntimeout_s: 1\ntasks: []", "needs tasks"),
        (
            "name: x\nper_s: 1\nusers: 1\ntimeout_s: 1\ntasks: [{operation: look-up, share: 0}]",
            "> 0.0 - at `..tasks.0..share`",
        ),
        ("name: x\nper_s: 1\nusers: 1\ntimeout_s: 1\ntasks: [{operation: call, share: 1}]", "needs bodies"),
        ("name: x\nper_s: 1\nusers: 1\ntimeout_s: 1\ntasks: [{operation: sing, share: 1}]", "Invalid enum"),
        ("name: x\nwish: 1", "unknown field"),
        ("name: [", "."),
    ],
)
def test_wrong_workloads_are_told_with_their_place(tmp_path, text, what):
    path = tmp_path / "w.yaml"
    path.write_text(text)
    with pytest.raises(WorkloadError, match=what) as caught:
        load_workload(str(path))
    assert str(path) in caught.value.where
    assert caught.value.mend


def test_an_unknown_workload_is_told(tmp_path):
    with pytest.raises(WorkloadError, match="cannot be read"):
        load_workload("nope")
