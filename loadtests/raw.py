"""Which operations of a load are written one by one."""

from __future__ import annotations

from enum import StrEnum


class Raw(StrEnum):
    """Which operations are written one by one, beside the seconds: all, those that did not go well, none."""

    ALL = "all"
    FAILURES = "failures"
    NONE = "none"
