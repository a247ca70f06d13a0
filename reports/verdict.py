"""What a judgement can say. Import it from `reports.model`."""

from __future__ import annotations

from enum import StrEnum


class Verdict(StrEnum):
    """What a judgement can say. Unknown is a verdict; it never counts as a pass."""

    PASS = "pass"  # noqa: S105  a verdict, not a secret
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    NOT_MEASURED = "not measured"
    VOID = "void"
