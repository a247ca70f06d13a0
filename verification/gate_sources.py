"""Where the gate's evidence comes from: the stored runs of this machine, and those that were imported.

Nothing is believed that can be checked. A plan must have the hash that the run recorded before its first
trial, verdicts must be what the judge says of the raw history, an imported run must be what was signed.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from reports.model import PLAN_SCHEMA, RUN_SCHEMA, VERDICTS_SCHEMA, Run, RunState, Verdicts, encode
from verification import machine
from verification.catalogue import Catalogue, CatalogueEntry
from verification.evidence import IMPORTED, check_imported, read_run
from verification.evidence_keys import EvidenceError, Trust
from verification.gate import Refused, Stored

GIT_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Source(Stored):
    """A stored run with its folder."""

    folder: Path = Path()


def read_sources(
    out: Path, trust: Trust, catalogue: Catalogue, released: str | None = None
) -> tuple[tuple[Source, ...], tuple[Refused, ...]]:
    """All runs below `out` that are whole, and those that are not, with the reason.

    Of the latter, those of the `released` commit are doubtful: a failure may have stood there.
    """
    found: list[Source] = []
    refused: list[Refused] = []
    for home, imported in ((out, False), (out / IMPORTED, True)):
        for folder in _folders(home):
            try:
                if imported:
                    check_imported(folder, trust)
                found.append(_read(folder, catalogue, imported=imported))
            except EvidenceError as error:
                doubtful = released is not None and _commit_of(folder) == released
                refused.append(Refused(run=folder.name, reason=error.what, doubtful=doubtful))
    return tuple(found), tuple(refused)


Judge = Callable[[Path], Verdicts]
"""What the present judge says of a folder's raw history."""


def check_judged(
    sources: Sequence[Source], judges: Callable[[str], Judge | None]
) -> tuple[tuple[Source, ...], tuple[Refused, ...]]:
    """Those whose verdicts are what their raw history says, and those whose verdicts say something else.

    `judges`: the judge for a profile, None where there is none. Reads the whole history of each run.
    """
    kept: list[Source] = []
    refused: list[Refused] = []
    for source in sources:
        reason = _misjudged(source, judges(source.run.profile))
        if reason is None:
            kept.append(source)
        else:
            refused.append(Refused(run=source.run.id, reason=reason, doubtful=True))
    return tuple(kept), tuple(refused)


def _misjudged(source: Source, judge: Judge | None) -> str | None:
    if judge is None:
        return f"nothing judges profile {source.run.profile}"
    try:
        again = judge(source.folder)
    except Exception as error:  # whatever is wrong with the history, it proves nothing
        return f"its history cannot be judged: {getattr(error, 'what', error)}"
    if encode(again) != encode(source.verdicts):
        return f"its verdicts are not what its history says; see `threenines report {source.folder.name}`"
    return None


def judge_history(folder: Path) -> Verdicts:
    """The verdicts of a run's raw records. Raises PlanError, HistoryError."""
    from verification import judge

    return judge.judge_history(folder)


def distance_to(commit: str, root: Path = machine.ROOT) -> Callable[[str], int | None]:
    """How many commits `commit` lies ahead of one that is asked for; None where that is no ancestor of it."""

    def distance(other: str) -> int | None:
        if other == commit:
            return 0
        if not _object(other) or _git(root, "merge-base", "--is-ancestor", other, commit) is None:
            return None
        count = _git(root, "rev-list", "--count", f"{other}..{commit}")
        return None if count is None or not count.isdigit() else int(count)

    return distance


def resolve_commit(name: str, root: Path = machine.ROOT) -> str:
    """The commit that `name` stands for. Raises EvidenceError."""
    found = None if name.startswith("-") else _git(root, "rev-parse", "--verify", f"{name}^{{commit}}")
    if not found:
        raise EvidenceError(f"commit {name}", "is none of this repository", "name a commit, a tag or HEAD")
    return found


def _object(text: str) -> bool:
    return len(text) in {40, 64} and all(sign in "0123456789abcdef" for sign in text)


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _folders(home: Path) -> list[Path]:
    try:
        paths = sorted(home.iterdir())
    except OSError:
        return []
    return [
        path
        for path in paths
        if not path.name.startswith(".") and not path.is_symlink() and (path / "run.json").is_file()
    ]


def _commit_of(folder: Path) -> str | None:
    try:
        return read_run(folder).commit
    except EvidenceError:
        return None


class _Planned(msgspec.Struct):
    """The part of `plan.json` that the gate compares."""

    profile: str
    catalogue: Catalogue | None = None


def _read(folder: Path, catalogue: Catalogue, *, imported: bool) -> Source:
    run = read_run(folder)
    if run.schema != RUN_SCHEMA:
        raise _unknown(folder / "run.json", run.schema, RUN_SCHEMA)
    if run.state is not RunState.FINISHED:
        return Source(run, Verdicts(criteria=()), imported, folder=folder)  # the gate says why it counts not
    data = _bytes(folder / "plan.json")
    if hashlib.sha256(data).hexdigest() != run.plan_sha256:
        raise EvidenceError(
            str(folder), "its plan is not the one that was hashed before it began", "repeat it"
        )
    _check_schema(folder / "plan.json", data, PLAN_SCHEMA)
    raw = _bytes(folder / "verdicts.json")
    _check_schema(folder / "verdicts.json", raw, VERDICTS_SCHEMA)
    try:
        verdicts = msgspec.json.decode(raw, type=Verdicts)
        planned = msgspec.json.decode(data, type=_Planned)
    except msgspec.MsgspecError as error:
        raise EvidenceError(str(folder), f"it is damaged ({error})", "repeat it") from error
    if planned.profile != run.profile:
        raise EvidenceError(str(folder), "its plan is that of another profile", "repeat it")
    ids = [one.id for one in verdicts.criteria]
    if len(set(ids)) != len(ids):
        raise EvidenceError(str(folder), "it judges a criterion twice", "judge it again")
    return Source(run, verdicts, imported, _other_rules(planned, run, catalogue), folder)


def _other_rules(planned: _Planned, run: Run, catalogue: Catalogue) -> frozenset[str]:
    if planned.catalogue is None:
        return frozenset()
    now = {entry.id: _rule(entry, run.profile) for entry in catalogue.criteria}
    return frozenset(
        entry.id for entry in planned.catalogue.criteria if now.get(entry.id) != _rule(entry, run.profile)
    )


def _rule(entry: CatalogueEntry, profile: str) -> tuple[object, ...]:
    return (entry.estimator, entry.target, entry.direction, entry.unit, entry.plans.get(profile))


class _Schema(msgspec.Struct):
    schema: str | None = None


def _check_schema(path: Path, data: bytes, schema: str) -> None:
    try:
        found = msgspec.json.decode(data, type=_Schema).schema
    except msgspec.MsgspecError as error:
        raise EvidenceError(str(path), f"{path.name} is damaged ({error})", "repeat the run") from error
    if found is not None and found != schema:
        raise _unknown(path, found, schema)


def _unknown(path: Path, found: str, schema: str) -> EvidenceError:
    return EvidenceError(
        str(path), f"{path.name} is {found!r}; this version reads {schema}", "use the version that wrote it"
    )


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EvidenceError(
            str(path), f"{path.name} cannot be read ({error.strerror})", "repeat it"
        ) from error
