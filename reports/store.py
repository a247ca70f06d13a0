"""Run directories on disk: find, read, check and write them. Every error is one clear line (`RunError`)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from reports.model import (
    PLAN_SCHEMA,
    RUN_SCHEMA,
    SELFTEST_SCHEMA,
    SERIES_SCHEMA,
    VERDICTS_SCHEMA,
    Plan,
    Run,
    SelfTest,
    SeriesFile,
    Verdicts,
)

LATEST = "latest"
SELFTEST = "selftest.json"

_T = TypeVar("_T", Run, Plan, Verdicts, SeriesFile, SelfTest)


class RunError(Exception):
    """A run directory that cannot be used. `where`, `what`, `mend` make the line that a person reads."""

    def __init__(self, where: str, what: str, mend: str, *, exit_status: int = 64) -> None:
        super().__init__(f"{where}: {what}; {mend}")
        self.where = where
        self.what = what
        self.mend = mend
        self.exit_status = exit_status


@dataclass(frozen=True)
class RunFiles:
    """What a run directory holds. `plan_intact`: the plan's bytes have the hash that `run.json` names."""

    folder: Path
    run: Run
    plan: Plan
    verdicts: Verdicts
    series: SeriesFile | None
    plan_intact: bool
    selftest: SelfTest | None = None
    notes: tuple[str, ...] = ()


def default_out() -> Path:
    """Where runs are kept: `reports/out` of the checkout this runs from, else of the working directory."""
    checkout = Path(__file__).resolve().parent.parent
    home = checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()
    return home / "reports" / "out"


def resolve(name: str, out: Path) -> Path:
    """The folder of a run: its id, `latest`, or a path to a run directory (or to a file in one)."""
    direct = Path(name)
    if name and not direct.is_absolute() and len(direct.parts) == 1 and (out / name).is_dir():
        return (out / name).resolve()
    if direct.is_file():
        direct = direct.parent
    if direct.is_dir() and (len(direct.parts) > 1 or (direct / "run.json").is_file()):
        return direct.resolve()
    known = run_ids(out)
    if name == LATEST or not known:
        raise RunError(
            str(out / name), "there is no run yet", "make one with `threenines verify --profile quick`"
        )
    raise RunError(str(out / name), "no such run", f"the newest are: {', '.join(known[:3])}")


def run_ids(out: Path) -> list[str]:
    """Ids of the runs under `out`, newest first (ids begin with their start time)."""
    try:
        folders = [p for p in out.iterdir() if p.is_dir() and not p.is_symlink()]
    except OSError:
        return []
    return sorted((p.name for p in folders if (p / "run.json").is_file()), reverse=True)


def load(folder: Path) -> RunFiles:
    """Read a run directory. Raises `RunError` for one that is missing, cut short or damaged."""
    if not (folder / "run.json").is_file():
        raise RunError(str(folder), "run.json is missing: this is no run directory", "name another run")
    run = _read(folder / "run.json", Run, RUN_SCHEMA)
    plan = _read(folder / "plan.json", Plan, PLAN_SCHEMA)
    verdicts = _read(folder / "verdicts.json", Verdicts, VERDICTS_SCHEMA)
    series_path = folder / "series.json"
    series = _read(series_path, SeriesFile, SERIES_SCHEMA) if series_path.is_file() else None
    digest = hashlib.sha256((folder / "plan.json").read_bytes()).hexdigest()
    selftest, notes = _selftest(folder)
    return RunFiles(
        folder, run, plan, verdicts, series, digest == run.plan_sha256, selftest=selftest, notes=notes
    )


def _selftest(folder: Path) -> tuple[SelfTest | None, tuple[str, ...]]:
    """The run's own self-test, else the one beside the runs. A damaged one is told, and no reason to stop."""
    for path in (folder / SELFTEST, folder.parent / SELFTEST):
        if path.is_file():
            try:
                return _read(path, SelfTest, SELFTEST_SCHEMA), ()
            except RunError as error:
                return None, (f"{path.name} {error.what}; run `threenines selftest` again",)
    return None, ()


def check_unique(folder: Path) -> None:
    """Raises `RunError` when another run beside `folder` has the id of this one."""
    mine = _identity(folder)
    for name in run_ids(folder.parent):
        other = folder.parent / name
        if name != folder.name and mine is not None and _identity(other) == mine:
            raise RunError(
                str(folder / "run.json"),
                f"has the id {mine} of {other}",
                "remove or rename the copy, its id in run.json included",
            )


def is_made_up(folder: Path) -> bool:
    """Whether `run.json` says that the run is made up, without raw records; a damaged one does not."""
    try:
        return msgspec.json.decode((folder / "run.json").read_bytes(), type=_Origin).synthetic
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


class _Origin(msgspec.Struct):
    synthetic: bool = False


class _Identity(msgspec.Struct):
    id: str


def _identity(folder: Path) -> str | None:
    try:
        return msgspec.json.decode((folder / "run.json").read_bytes(), type=_Identity).id
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None  # whoever loads that run says what is wrong with it


def _read(path: Path, kind: type[_T], schema: str) -> _T:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        mend = "run it again" if path.name != "verdicts.json" else "judge its history again, or run it again"
        raise RunError(str(path), "is missing: the run was cut short", mend) from None
    except OSError as error:
        raise RunError(str(path), f"cannot be read ({error.strerror})", "look at the file's rights") from None
    found = schema_of(raw)
    if found not in {None, schema}:
        raise RunError(
            str(path), f"is {found!r}; this version reads {schema}", "use the version that wrote it"
        )
    try:
        value = msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise RunError(str(path), f"has another shape than {schema}: {error}", "run it again") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        what = "is empty" if not raw.strip() else f"is damaged ({error})"
        raise RunError(str(path), what, "run it again") from None
    return value


class _Schema(msgspec.Struct):
    schema: str | None = None


def schema_of(raw: bytes) -> str | None:
    """The name of the schema that a file says it has; `None` when it says none, or is no JSON object."""
    try:
        return msgspec.json.decode(raw, type=_Schema).schema
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None  # whoever reads the whole of it says what is wrong


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all (temporary file in the same folder, flushed, renamed)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _temporary(path) as (handle, name):
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
    except OSError as error:
        raise RunError(
            str(path), f"cannot be written ({error.strerror})", "make room or mend the rights", exit_status=3
        ) from None


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[tuple[int, str]]:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        yield handle, name
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def point_latest(folder: Path) -> None:
    """Let `latest` beside `folder` point to it, in one step: a reader sees the old run or the new one."""
    link = folder.parent / LATEST
    if link.exists() and not link.is_symlink():
        raise RunError(str(link), "is in the way: it is no symbolic link", "move it away", exit_status=3)
    name = folder.parent / f".{LATEST}.{os.getpid()}"
    try:
        with contextlib.suppress(FileNotFoundError):
            name.unlink()
        name.symlink_to(folder.name)
        os.replace(name, link)
    except OSError as error:
        raise RunError(
            str(link), f"cannot be set ({error.strerror})", "mend the rights", exit_status=3
        ) from None
