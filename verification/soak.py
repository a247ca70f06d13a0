"""A soak: seven days of questions to a running stack, and what they say of its uptime.

What is observed here and nowhere else: RL-1 and SD-3, which only time can show.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from reports.model import Verdicts
from verification.gate_sources import judge_history

PROFILE = "soak"
DECIDES: Mapping[str, tuple[str, ...]] = {PROFILE: ("SD-3", "RL-1")}
"""What the profile decides, beyond what the catalogue plans."""


def judge_for(profile: str) -> Callable[[Path], Verdicts] | None:
    """The judge of a profile's runs; None where there is none."""
    return None if profile == PROFILE else judge_history
