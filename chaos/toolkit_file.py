"""An experiment of Chaos Toolkit, read and held against what it may say, before anything is touched.

Three looks at it, each with a clearer word than the next: its shape (so that a mistake has a place), the
library's own validation, and the arguments of our functions, as their configuration makes them.
"""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from chaos.errors import BadFault, ChaosError
from chaos.stage import Stage
from chaos.toolkit import ARGUMENTS, MODULE, converted
from infra.substrates.base import SubstrateError

LOGGERS = ("chaostoolkit", "chaostoolkit-lib")
"""The library's own, which its users' modules use as well."""
_PLACEHOLDER = "${"


class _Activity(msgspec.Struct):
    type: str = ""
    name: str = ""
    provider: dict[str, Any] = {}
    ref: str = ""
    pauses: dict[str, Any] = {}


class _Hypothesis(msgspec.Struct):
    title: str = ""
    probes: list[_Activity] | None = None


class _Shape(msgspec.Struct, rename="kebab"):
    title: str = ""
    description: str = ""
    tags: list[str] | None = None
    configuration: dict[str, Any] = {}
    secrets: dict[str, Any] = {}
    controls: list[dict[str, Any]] = []
    steady_state_hypothesis: _Hypothesis | None = None
    method: list[_Activity] = []
    rollbacks: list[_Activity] = []


@dataclass(frozen=True)
class Experiment:
    """One that can be run: its file, what stands in it, and what the library warns of."""

    path: Path
    document: dict[str, Any]
    warnings: tuple[str, ...] = ()

    def activities(self) -> Iterator[dict[str, Any]]:
        """All of them: the hypothesis' probes, the method, the rollbacks."""
        yield from (self.document.get("steady-state-hypothesis") or {}).get("probes") or ()
        yield from self.document["method"]
        yield from self.document.get("rollbacks", ())

    def makes_faults(self) -> bool:
        """Whether one of them is a fault of ours."""
        return any(
            one.get("provider", {}).get("module") == MODULE and one["provider"].get("func") == "fault"
            for one in self.activities()
        )


def read_experiment(path: Path) -> Experiment:
    """Raises BadFault for a file that is no experiment, ChaosError when the library is missing."""
    if not path.is_file():
        raise BadFault(str(path), "there is no such file", "name one that can be read")
    experiments = part_of_library("experiment", path)
    try:
        document = json.loads(path.read_bytes())
        msgspec.convert(document, _Shape)
    except OSError as error:
        raise BadFault(
            str(path), f"cannot be read ({error.strerror})", "name a file that can be read"
        ) from None
    except msgspec.ValidationError as error:
        what, _, place = str(error).partition(" - at ")
        where = f"{path}: {place.strip('`')}" if place else str(path)
        raise BadFault(where, what[:1].lower() + what[1:], "mend that in the experiment") from None
    except (ValueError, RecursionError) as error:
        raise BadFault(str(path), f"is no JSON ({_line(error)})", "mend it there") from None
    heard: list[str] = []
    with listened(heard.append, logging.WARNING):
        try:
            experiments.ensure_experiment_is_valid(document)
        except part_of_library("exceptions", path).ChaosException as error:
            raise BadFault(str(path), _line(error), "mend that in the experiment") from None
        except Exception as error:  # a provider's module is imported, and may raise what it likes
            what = f"the library cannot take it ({type(error).__name__}: {_line(error)})"
            raise BadFault(str(path), what, "mend that in the experiment or its modules") from None
    return Experiment(path, document, tuple(heard))


def check_ours(experiment: Experiment, stack: str, stage: Stage) -> None:
    """Holds every activity of our module against what it takes and against the stack's fleet.

    Arguments that only the run can tell (secrets, configuration by probe) are left to it. Raises BadFault.
    """
    configuration = _configuration(experiment)
    for activity in experiment.activities():
        provider = activity.get("provider", {})
        if provider.get("type") != "python" or provider.get("module") != MODULE:
            continue
        where, func = f"{experiment.path}: {activity['name']}", str(provider["func"])
        if func not in ARGUMENTS:
            raise BadFault(where, f"{func} is no activity", f"choose {', '.join(ARGUMENTS)}")
        library = part_of_library("", experiment.path)
        arguments = library.substitute(provider.get("arguments", {}), configuration, None)
        if _PLACEHOLDER in json.dumps(arguments, default=str):
            continue
        try:
            wanted = converted(arguments, ARGUMENTS[func])
            if wanted.stack not in ("", stack):
                raise BadFault(
                    f"stack {wanted.stack}", f"this run is about stack {stack}", f"add --stack {wanted.stack}"
                )
            wanted.check(stage)
        except BadFault as error:
            raise BadFault(f"{where}: {error.where}", error.what, error.mend) from None
        except (ChaosError, SubstrateError):
            continue  # by the stack's state: it counts when the activity's turn comes


def part_of_library(name: str, path: Path) -> Any:
    """A module of the library, "" for its root. Raises ChaosError when it is not installed."""
    try:
        return importlib.import_module(f"chaoslib.{name}" if name else "chaoslib")
    except ImportError:
        raise ChaosError(
            str(path), "the library of Chaos Toolkit is missing", "pip install 'threenines[toolkit]'"
        ) from None


@contextmanager
def listened(say: Callable[[str], object], level: int, log: Path | None = None) -> Iterator[None]:
    """For the block: the library's log goes to `say`, a line each and no traceback; all of it to `log`."""
    handlers: list[logging.Handler] = [_Lines(say, level)]
    if log is not None:
        handlers.append(logging.FileHandler(log, encoding="utf-8"))
        handlers[-1].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG if log is not None else level)
        logger.propagate = False
        for handler in handlers:
            logger.addHandler(handler)
    try:
        yield
    finally:
        for logger, (old_level, propagate) in zip(loggers, before, strict=True):
            logger.setLevel(old_level)
            logger.propagate = propagate
            for handler in handlers:
                logger.removeHandler(handler)
        for handler in handlers:
            handler.close()


class _Lines(logging.Handler):
    def __init__(self, say: Callable[[str], object], level: int) -> None:
        super().__init__(level)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(" ".join(record.getMessage().split()))


def _configuration(experiment: Experiment) -> dict[str, Any]:
    """What the experiment's configuration says before it runs: without what a probe tells then."""
    library = part_of_library("configuration", experiment.path)
    found: dict[str, Any] = library.load_configuration(experiment.document.get("configuration", {}))
    return {
        key: value
        for key, value in found.items()
        if not (isinstance(value, dict) and value.get("type") == "probe")
    }


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
