"""Scenarios of faults in a run, as types. Import them from `reports.model`."""

from __future__ import annotations

import msgspec

from reports.verdict import Verdict


class FaultTold(msgspec.Struct, frozen=True, kw_only=True):
    """One fault of a scenario: the proof that it took effect, and whether all is as before."""

    fault: str
    effect: str
    proved: bool
    restored: bool
    lasted_s: float
    simulated: bool = False
    trouble: str = ""


class LookTold(msgspec.Struct, frozen=True, kw_only=True):
    """One look: what had to hold, whether it did, and after how long it held for good (None: it did not).

    `phase` is before, during or after: the steady state, and what must hold through the faults.
    """

    phase: str
    what: str
    verdict: Verdict
    within_s: float
    after_s: float | None = None
    seen: str = ""
    looks: int = 0


class PlannedScenario(msgspec.Struct, frozen=True, kw_only=True):
    """A scenario as the plan has it: `expected` stands there before anything is broken."""

    name: str
    title: str
    rows: tuple[str, ...]
    expected: str
    about_s: float
    sha256: str
    """Of the scenario's file as this version ships it."""


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """A scenario that the plan leaves out, because the stack's hosts cannot do what its faults need.

    Fixed before the first trial. It neither passes nor fails, and exercises no row.
    """

    name: str
    title: str
    rows: tuple[str, ...]
    """What it would exercise elsewhere."""
    lacks: tuple[str, ...]
    """Capabilities."""
    substrate: str
    where: str
    """The hosts on which it can be run."""

    @property
    def why(self) -> str:
        """Why it is left out, in one line."""
        needed = f"needs {' and '.join(self.lacks)}, which the substrate {self.substrate} lacks here"
        return f"{needed}; it takes {self.where}"


class ScenarioResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a planned scenario came to. Not measured: it was not run, and `why` says why not."""

    name: str
    title: str
    rows: tuple[str, ...]
    expected: str
    verdict: Verdict = Verdict.NOT_MEASURED
    why: tuple[str, ...] = ()
    faults: tuple[FaultTold, ...] = ()
    looks: tuple[LookTold, ...] = ()
    load: tuple[str, ...] = ()
    voids: int = 0
    """Attempts that were cut and do not count."""
    took_s: float | None = None
    folder: str | None = None
    """Its raw data, relative to the run's folder."""

    @property
    def simulated(self) -> bool:
        """Whether a stand-in took a fault's part."""
        return any(fault.simulated for fault in self.faults)

    def steady(self, phase: str) -> Verdict:
        """What its looks of one phase say together: fail, else inconclusive, else pass."""
        found = {look.verdict for look in self.looks if look.phase == phase}
        order = (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS)
        return next((one for one in order if one in found), Verdict.NOT_MEASURED)
