"""Runs an experiment of Chaos Toolkit by its own library, against our stack.

The library runs it because its users' controls, configuration, secrets and providers are its own code; we add
actions and probes (`chaos.toolkit`). It is an extra: `pip install 'threenines[toolkit]'`.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Any

from chaos.errors import ChaosError, NotHealed
from chaos.toolkit import MODULE, NotAsBefore, NotHeld, held, interrupt
from chaos.toolkit_file import Experiment, listened, part_of_library

_AGAINST = tuple(f"{kind.__module__}.{kind.__qualname__}: " for kind in (NotAsBefore, NotHeld, NotHealed))
"""Errors of our own activities that say something about the system; the others say that nothing is known."""


class Ended(StrEnum):
    """How an experiment ended."""

    HELD = "held"
    DEVIATED = "deviated"
    UNPROVED = "unproved"


def run_experiment(
    experiment: Experiment, stack: str, log: Path, say: Callable[[str], None]
) -> tuple[Ended, dict[str, Any]]:
    """Runs it on a stack that stands and that the caller holds alone; answers with the library's journal.

    `say` hears what happens, `log` holds all that the library says. Ctrl-C and SIGTERM end the faults in
    order and leave a journal. Raises ChaosError when no fault can be made on the stack at all, and when the
    library ends without a journal.
    """
    library = part_of_library("experiment", experiment.path)
    faults = experiment.makes_faults()
    with listened(say, logging.INFO, log), held(stack, faults=faults), _ctrl_c_ends_faults():
        try:
            journal: dict[str, Any] = library.run_experiment(experiment.document)
        except Exception as error:  # whatever a control or a tolerance raises: the library lets it through
            logging.getLogger("chaostoolkit").debug("the run was given up", exc_info=True)
            what = " ".join(f"{type(error).__name__}: {error}".split())
            raise ChaosError(
                str(experiment.path), f"the run was given up ({what})", f"see {log}, then chaos panic"
            ) from None
    return ended(journal), journal


def ended(journal: Mapping[str, Any]) -> Ended:
    """From the library's journal. Deviated: the hypothesis afterwards, a look or a rollback that failed.

    Held only when all of the method was run and succeeded, on a steady state that was met: no steady state
    beforehand, a fault without proof, an interruption and a journal that lacks something prove nothing.
    """
    runs, rollbacks = list(journal.get("run") or ()), list(journal.get("rollbacks") or ())
    failed = [run for run in runs if run.get("status") == "failed"]
    undone = [run for run in rollbacks if run.get("status") != "succeeded"]
    if journal.get("deviated") or undone or any(_against(run) for run in failed):
        return Ended.DEVIATED
    states = journal.get("steady_states") or {}
    met = [
        bool(state.get("steady_state_met")) for state in (states.get("before"), states.get("after")) if state
    ]
    method = (journal.get("experiment") or {}).get("method", ())
    whole = len(runs) == len(method) and all(run.get("status") == "succeeded" for run in runs)
    looked = bool(runs or met)
    if journal.get("status") == "completed" and whole and all(met) and looked:
        return Ended.HELD
    return Ended.UNPROVED


@contextmanager
def _ctrl_c_ends_faults() -> Iterator[None]:
    """The library waits for what runs in the background: that shall not last its whole time any more."""

    def stop(number: int, frame: FrameType | None) -> None:
        interrupt()
        signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _against(run: Mapping[str, Any]) -> bool:
    """Whether a failed activity speaks against the system: not when one of ours could not do its work."""
    if (run.get("activity") or {}).get("provider", {}).get("module") != MODULE:
        return True
    told = "".join(run.get("exception") or ())
    return any(kind in told for kind in _AGAINST)
