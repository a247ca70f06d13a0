"""Ctrl-C while the engine works."""

from __future__ import annotations

import os
import signal

import pytest
from pulumi import automation as pulumi_automation

from infra import automation


class _Done:
    stdout, stderr, code = "", "error: update canceled", 255

    def __str__(self) -> str:
        return self.stderr


def _engine_error() -> pulumi_automation.CommandError:
    return pulumi_automation.CommandError(_Done())  # type: ignore[arg-type]


def _interrupt(times: int) -> None:
    """What the engine's part of a command sees: Ctrl-C, and then the engine's own end."""
    with automation._told(automation._Watcher(None, 0)):
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)
        raise _engine_error()


def test_the_engine_ends_its_step_and_the_user_reads_one_line() -> None:
    with pytest.raises(automation.DeploymentInterrupted) as caught:
        _interrupt(1)
    assert caught.value.exit_status == 130
    assert "threenines down" in caught.value.mend
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_one_ends_the_wait() -> None:
    with pytest.raises(KeyboardInterrupt):
        _interrupt(2)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_without_one_a_failure_is_a_failure() -> None:
    with pytest.raises(automation.DeploymentError):
        _interrupt(0)
