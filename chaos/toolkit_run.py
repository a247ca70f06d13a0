"""Runs an experiment of Chaos Toolkit by its own library, against our stack.

The library runs it because its users' controls, configuration, secrets and providers are its own code; we add
actions and probes (`chaos.toolkit`). It is an extra: `pip install 'threenines[toolkit]'`.
"""

from __future__ import annotations

import importlib
from enum import StrEnum
from pathlib import Path
from typing import Any

from chaos.errors import BadFault, ChaosError


class Ended(StrEnum):
    """How an experiment ended."""

    HELD = "held"
    DEVIATED = "deviated"
    UNPROVED = "unproved"


def run_experiment(path: Path) -> tuple[Ended, dict[str, Any]]:
    """Runs the file; answers with the library's journal. Raises BadFault for a wrong file, ChaosError."""
    try:
        experiments, loader = (
            importlib.import_module("chaoslib.experiment"),
            importlib.import_module("chaoslib.loader"),
        )
        errors = importlib.import_module("chaoslib.exceptions")
    except ImportError:
        raise ChaosError(
            str(path), "the library of Chaos Toolkit is missing", "pip install 'threenines[toolkit]'"
        ) from None
    if not path.is_file():
        raise BadFault(str(path), "there is no such file", "name one that can be read")
    try:
        experiment = loader.load_experiment(str(path))
        experiments.ensure_experiment_is_valid(experiment)
    except errors.ChaosException as error:
        raise BadFault(str(path), " ".join(str(error).split()), "mend that in the experiment") from None
    journal: dict[str, Any] = experiments.run_experiment(experiment)
    return ended(journal), journal


def ended(journal: dict[str, Any]) -> Ended:
    """From the library's journal: deviated or a failed activity is a deviation, `completed` alone is held."""
    failed = any(run.get("status") == "failed" for run in journal.get("run", ()))
    if journal.get("deviated") or failed:
        return Ended.DEVIATED
    return Ended.HELD if journal.get("status") == "completed" else Ended.UNPROVED
