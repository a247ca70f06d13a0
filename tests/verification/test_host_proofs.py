"""What proves faults on the servers of a host: the process itself, not that a signal was sent."""

from __future__ import annotations

from typing import cast

import pytest

from infra.substrates.base import ProcessView, Substrate
from verification.campaigns.host_faults import KINDS, Scene


class Deaf:
    """A substrate whose processes only change when the test says so."""

    def __init__(self) -> None:
        self.view: ProcessView | None = view("1")

    def process(self, _host: str, _target: str) -> ProcessView | None:
        return self.view

    def signal(self, _host: str, _target: str, _signal: str) -> None:
        """Nothing comes of it."""


def view(instance: str, *, stopped: bool = False) -> ProcessView:
    return ProcessView(instance=instance, stopped=stopped, open_files=1, open_files_limit=2)


@pytest.mark.parametrize(
    ("name", "after", "proved"),
    [
        ("hostd-freeze", view("1"), False),
        ("hostd-freeze", None, False),
        ("hostd-freeze", view("1", stopped=True), True),
        ("gateway-kill", view("1"), False),
        ("gateway-kill", None, True),
        ("gateway-kill", view("2"), True),
    ],
)
def test_a_signal_is_no_proof(name: str, after: ProcessView | None, proved: bool) -> None:
    deaf = Deaf()
    scene = Scene(cast(Substrate, deaf), "mainpc", "pc2", None)
    assert not KINDS[name].proof(scene)
    KINDS[name].inject(scene)
    assert not KINDS[name].proof(scene)
    deaf.view = after
    assert KINDS[name].proof(scene) is proved


def test_what_did_not_run_was_not_killed() -> None:
    deaf = Deaf()
    deaf.view = None
    scene = Scene(cast(Substrate, deaf), "mainpc", "pc2", None)
    KINDS["gateway-kill"].inject(scene)
    assert not KINDS["gateway-kill"].proof(scene)
