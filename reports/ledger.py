"""The history of runs in SQLite (`reports/out/history.sqlite`): what a review asks about, without opening a
hundred reports.

The ledger is an index of the run folders and nothing more: `sync` makes it say what their `report.json` say,
folders that are gone included. It may be deleted at any time; one that is missing, damaged or of another
version is built anew. The data are in the folders.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from reports import history, store
from reports.model import Direction, Evidence, Grade, Report, RunState, Verdict
from reports.store import RunError

FILE = "history.sqlite"
VERSION = 1
_TABLES = """
CREATE TABLE runs (
    folder TEXT PRIMARY KEY, stamp TEXT NOT NULL, id TEXT NOT NULL, started TEXT NOT NULL, ended TEXT,
    profile TEXT NOT NULL, environment TEXT NOT NULL, commit_id TEXT, dirty INTEGER NOT NULL,
    state TEXT NOT NULL, synthetic INTEGER NOT NULL, agents TEXT, verdict TEXT NOT NULL, grade TEXT,
    release_verdict TEXT NOT NULL, rows_all INTEGER NOT NULL, rows_planned INTEGER NOT NULL,
    rows_passed INTEGER NOT NULL, voids INTEGER NOT NULL
) STRICT;
CREATE TABLE criteria (
    folder TEXT NOT NULL REFERENCES runs (folder) ON DELETE CASCADE, position INTEGER NOT NULL,
    id TEXT NOT NULL, title TEXT NOT NULL, category TEXT NOT NULL, verdict TEXT NOT NULL, grade TEXT,
    evidence TEXT NOT NULL, planned INTEGER NOT NULL, unit TEXT, target REAL, direction TEXT,
    statistic TEXT, estimate REAL, bound REAL, n INTEGER, exceedances INTEGER,
    PRIMARY KEY (folder, id)
) STRICT;
CREATE TABLE unusable (folder TEXT PRIMARY KEY, stamp TEXT NOT NULL, reason TEXT NOT NULL) STRICT;
CREATE INDEX runs_by_start ON runs (started, folder);
"""
_INSERT_RUN = "INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_INSERT_CRITERION = "INSERT INTO criteria VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


@dataclass(frozen=True)
class RunRecord:
    """A run as the ledger knows it. `agents` is the size of its fleet, where the run says it."""

    folder: str
    id: str
    started: str
    ended: str | None
    profile: str
    environment: str
    commit: str | None
    dirty: bool
    state: RunState
    agents: int | None
    verdict: Verdict
    grade: Grade | None
    release: Verdict
    rows: int
    planned: int
    passed: int
    voids: int


@dataclass(frozen=True)
class CriterionRecord:
    """One criterion of one run. Figures are in `unit`; `None`: it has none."""

    folder: str
    id: str
    title: str
    category: str
    verdict: Verdict
    grade: Grade | None
    evidence: Evidence
    planned: bool
    unit: str | None
    target: float | None
    direction: Direction | None
    statistic: str | None
    estimate: float | None
    bound: float | None
    n: int | None
    exceedances: int | None


@dataclass(frozen=True)
class Unusable:
    """A folder that holds a run and no report that could be read."""

    folder: str
    reason: str


class Ledger:
    """The open ledger of the runs under `out`. Use `opened`."""

    def __init__(self, connection: sqlite3.Connection, out: Path) -> None:
        self._db = connection
        self._out = out

    def sync(self) -> None:
        """Make the ledger say what the folders say. Raises `RunError` when two folders hold the same run."""
        stamps = {name: _stamp(self._out / name) for name in store.run_ids(self._out)}
        known = dict(self._db.execute("SELECT folder, stamp FROM runs"))
        known |= dict(self._db.execute("SELECT folder, stamp FROM unusable"))
        with self._db:
            for name in known.keys() - stamps.keys():
                self._forget(name)
            for name, stamp in stamps.items():
                if known.get(name) != stamp:
                    self._forget(name)
                    self._learn(name, stamp)
            self._check_unique()

    def runs(self, since: str, until: str) -> tuple[RunRecord, ...]:
        """Runs that started in [`since`, `until`) (ISO 8601), oldest first; made-up ones are left out."""
        found = self._db.execute(
            "SELECT folder, id, started, ended, profile, environment, commit_id, dirty, state, agents,"
            " verdict, grade, release_verdict, rows_all, rows_planned, rows_passed, voids FROM runs"
            " WHERE started >= ? AND started < ? AND NOT synthetic ORDER BY started, folder",
            (since, until),
        )
        return tuple(map(_run, found))

    def criteria(self, since: str, until: str) -> tuple[CriterionRecord, ...]:
        """What those runs measured, run by run in the order of `runs`, criteria in the catalogue's order."""
        found = self._db.execute(
            "SELECT c.folder, c.id, c.title, c.category, c.verdict, c.grade, c.evidence, c.planned, c.unit,"
            " c.target, c.direction, c.statistic, c.estimate, c.bound, c.n, c.exceedances"
            " FROM criteria AS c JOIN runs AS r USING (folder)"
            " WHERE r.started >= ? AND r.started < ? AND NOT r.synthetic"
            " ORDER BY r.started, r.folder, c.position",
            (since, until),
        )
        return tuple(map(_criterion, found))

    def unusable(self) -> tuple[Unusable, ...]:
        """Run folders that could not be read, and why."""
        found = self._db.execute("SELECT folder, reason FROM unusable ORDER BY folder")
        return tuple(Unusable(folder, reason) for folder, reason in found)

    def _forget(self, name: str) -> None:
        self._db.execute("DELETE FROM runs WHERE folder = ?", (name,))
        self._db.execute("DELETE FROM unusable WHERE folder = ?", (name,))

    def _learn(self, name: str, stamp: str) -> None:
        try:
            report = history.read(self._out / name)
        except RunError as error:
            reason = f"{Path(error.where).name} {error.what}"
            self._db.execute("INSERT INTO unusable VALUES (?, ?, ?)", (name, stamp, reason))
            return
        self._db.execute(_INSERT_RUN, _run_row(name, stamp, report))
        self._db.executemany(_INSERT_CRITERION, _criterion_rows(name, report))

    def _check_unique(self) -> None:
        twice = self._db.execute(
            "SELECT id, min(folder), max(folder) FROM runs GROUP BY id HAVING count(*) > 1"
        ).fetchone()
        if twice is not None:
            identity, first, second = twice
            raise RunError(
                str(self._out / second / "run.json"),
                f"has the id {identity} of {self._out / first}",
                "remove or rename the copy, its id in run.json included",
            )


@contextlib.contextmanager
def opened(out: Path) -> Iterator[Ledger]:
    """The ledger of `out`, brought up to date. Raises `RunError` when it cannot be written at all."""
    path = out / FILE
    if not out.is_dir():
        raise RunError(str(out), "there is no run yet", "make one with `threenines verify --profile quick`")
    try:
        try:
            connection = _connect(path)
            ledger = Ledger(connection, out)
            ledger.sync()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
                raise
            for name in (path, *(path.with_name(path.name + tail) for tail in ("-wal", "-shm", "-journal"))):
                name.unlink(missing_ok=True)
            connection = _connect(path)
            ledger = Ledger(connection, out)
            ledger.sync()
    except (sqlite3.Error, OSError) as error:
        raise RunError(
            str(path),
            f"cannot be used ({error})",
            "mend the rights of its folder, or delete it",
            exit_status=3,
        ) from None
    with contextlib.closing(connection):
        yield ledger


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=10)
    try:
        connection.execute("PRAGMA foreign_keys = ON")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (damage,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if damage != "ok" or version not in {0, VERSION}:
            raise sqlite3.DatabaseError(f"version {version}, check says {damage}")
        if version == 0:
            connection.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {VERSION}; COMMIT;")
    except BaseException:
        connection.close()
        raise
    return connection


def _stamp(folder: Path) -> str:
    """Changes when the folder's report does."""
    try:
        found = (folder / "report.json").stat()
    except OSError:
        return "none"
    return f"{found.st_size}-{found.st_mtime_ns}-{found.st_ino}"


def _run_row(name: str, stamp: str, report: Report) -> tuple[object, ...]:
    run, coverage = report.run, report.coverage
    return (
        name,
        stamp,
        run.id,
        run.started,
        run.ended,
        run.profile,
        run.environment,
        run.commit,
        int(run.commit_dirty),
        run.state.value,
        int(run.synthetic),
        run.configuration.get("agents"),
        report.verdict.value,
        report.grade.value if report.grade is not None else None,
        report.release.verdict.value,
        coverage.rows,
        coverage.planned,
        coverage.passed,
        sum(void.count for void in report.voids),
    )


def _criterion_rows(name: str, report: Report) -> Iterator[tuple[object, ...]]:
    for position, c in enumerate(report.criteria):
        if not c.planned and c.verdict is Verdict.NOT_MEASURED:
            continue
        plain = msgspec.to_builtins(c)
        fields = (
            "id", "title", "category", "verdict", "grade", "evidence", "planned", "unit", "target",
            "direction", "statistic", "estimate", "bound", "n", "exceedances",
        )  # fmt: skip
        yield (name, position, *(int(v) if isinstance(v := plain[f], bool) else v for f in fields))


def _run(row: tuple[object, ...]) -> RunRecord:
    names = (
        "folder", "id", "started", "ended", "profile", "environment", "commit", "dirty", "state", "agents",
        "verdict", "grade", "release", "rows", "planned", "passed", "voids",
    )  # fmt: skip
    fields = dict(zip(names, row, strict=True))
    agents = str(fields["agents"] or "")
    fields["agents"] = int(agents) if agents.isdecimal() else None
    return msgspec.convert(fields, RunRecord, strict=False)


def _criterion(row: tuple[object, ...]) -> CriterionRecord:
    names = tuple(CriterionRecord.__dataclass_fields__)
    return msgspec.convert(dict(zip(names, row, strict=True)), CriterionRecord, strict=False)
