"""How sessions of a host are weighed against each other (sched(7), the autogroup feature)."""

from __future__ import annotations

from typing import Final

FIRST: Final = -20
"""The nice value of the sessions of those who decide who serves."""
