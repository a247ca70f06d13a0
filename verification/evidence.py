"""Evidence from another machine: a run in one signed file.

A bundle is a ZIP archive of `manifest.json`, `manifest.sig` and the run's raw files below `run/`. The
manifest names machine, versions, commit and the SHA-256 of every file; the signature (Ed25519) is over its
bytes. A bundle that holds anything else than what was signed is refused.

Pages and drawings stay at home: they are rendered from what is here.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath

import msgspec

from reports.model import Run, RunState, encode
from verification import evidence_keys, machine, seal
from verification.evidence_keys import EvidenceError, Trust, TrustedKey

SCHEMA = "threenines.evidence/1"
MANIFEST, SIGNATURE, INSIDE = "manifest.json", "manifest.sig", "run"
IMPORTED = "imported"
"""The folder beside the runs where imported ones lie."""
SKEW = timedelta(minutes=5)
"""How far another machine's clock may be ahead."""
LARGEST_MANIFEST_BYTES = 4 << 20
LARGEST_RUN_BYTES = 8 << 30
CHUNK_BYTES = 1 << 20
CARRIED = (
    "run.json",
    "plan.json",
    seal.FILE,
    "verdicts.json",
    "series.json",
    "journal.jsonl",
    "selftest.json",
)
FOLDERS = ("history", "soak")
SCENARIOS = "scenarios"
"""Of its files those that the judge reads come along, from folders of folders."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class CarriedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A file of the run: its path within it, its size, its SHA-256."""

    path: str
    size_bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a bundle says of itself. Instants are ISO 8601 UTC."""

    run: str
    profile: str
    environment: str
    started: str
    ended: str
    exported: str
    commit: str | None
    commit_dirty: bool
    machine: dict[str, str]
    versions: dict[str, str]
    files: tuple[CarriedFile, ...]
    public_key: str
    schema: str = SCHEMA


def export_bundle(run_folder: Path, keys: Path, out: Path, now: datetime) -> Manifest:
    """Writes the bundle of a finished run to `out`, whole or not at all. Raises EvidenceError."""
    run = read_run(run_folder)
    if run.state is not RunState.FINISHED or run.ended is None:
        raise EvidenceError(
            str(run_folder), f"the run is {run.state.value}", "export a run that came to its end"
        )
    if out.exists():
        raise EvidenceError(str(out), "is there already", "name another file with --out")
    files = tuple(_carried(run_folder))
    manifest = Manifest(
        run=run.id,
        profile=run.profile,
        environment=run.environment,
        started=run.started,
        ended=run.ended,
        exported=f"{now:%Y-%m-%dT%H:%M:%SZ}",
        commit=run.commit,
        commit_dirty=run.commit_dirty,
        machine=run.machine or machine.machine(),
        versions=run.versions or machine.versions(),
        files=files,
        public_key=evidence_keys.public_key(keys),
    )
    data = encode(manifest)
    temporary = out.with_name(f".{out.name}.new")
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            _put(archive, MANIFEST, data)
            _put(archive, SIGNATURE, evidence_keys.sign(keys, data))
            for file in files:
                _put(archive, f"{INSIDE}/{file.path}", run_folder / file.path)
        temporary.replace(out)
    except OSError as error:
        raise EvidenceError(
            str(out), f"cannot be written ({error.strerror})", "name another place with --out", exit_status=3
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return manifest


def import_bundle(path: Path, trust: Trust, out: Path, now: datetime) -> tuple[Path, Manifest, TrustedKey]:
    """Takes a bundle in beside the runs of `out`: its folder, what it says, who vouches.

    Raises EvidenceError; nothing of a refused bundle stays.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            manifest, data, signature, key = _opened(archive, path, trust)
            _check_dates(manifest, path, now)
            _check_new(manifest.run, path, out)
            home = out / IMPORTED
            home.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=".import-", dir=home))
            try:
                for file in manifest.files:
                    _take(archive, file, folder, path)
                _check_agrees(folder, manifest, path)
                (folder / MANIFEST).write_bytes(data)
                (folder / SIGNATURE).write_bytes(signature)
                folder.chmod(0o755)
                folder.rename(home / manifest.run)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    except FileNotFoundError:
        raise EvidenceError(str(path), "there is no such file", "name a bundle") from None
    except (
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise _changed(path, f"is no bundle, or damaged ({error})") from error
    except OSError as error:
        raise EvidenceError(
            str(path), f"cannot be taken in ({error.strerror})", "make room or mend the rights", exit_status=3
        ) from error
    return home / manifest.run, manifest, key


def check_imported(folder: Path, trust: Trust) -> Manifest:
    """That an imported run is still what was signed, by somebody still trusted. Raises EvidenceError."""
    try:
        data, signature = (folder / MANIFEST).read_bytes(), (folder / SIGNATURE).read_bytes()
    except OSError as error:
        raise _changed(folder, f"has lost its manifest ({error.strerror})") from error
    manifest, _ = _vouched(data, signature, folder, trust)
    for file in manifest.files:
        if _hash(folder / file.path) != (file.size_bytes, file.sha256):
            raise _changed(folder, f"{file.path} is not what was signed")
    named = {file.path for file in manifest.files}
    for path in _paths(folder):
        if path not in named:
            raise _changed(folder, f"{path} was added after the signature")
    _check_agrees(folder, manifest, folder)
    return manifest


def read_run(folder: Path) -> Run:
    """`run.json` of a folder. Raises EvidenceError."""
    path = folder / "run.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Run)
    except OSError as error:
        raise EvidenceError(str(path), f"cannot be read ({error.strerror})", "name a run") from error
    except msgspec.MsgspecError as error:
        raise EvidenceError(str(path), f"is damaged ({error})", "name another run") from error


def instant(text: str | None) -> datetime | None:
    """An ISO 8601 instant with a zone (without: UTC); None for anything else."""
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


# ------------------------------------------------------------------------------------------------- inner


def _opened(archive: zipfile.ZipFile, path: Path, trust: Trust) -> tuple[Manifest, bytes, bytes, TrustedKey]:
    names = [one.filename for one in archive.infolist()]
    for name in (MANIFEST, SIGNATURE):
        if names.count(name) != 1 or archive.getinfo(name).file_size > LARGEST_MANIFEST_BYTES:
            raise _changed(path, f"has no {name}")
    data, signature = archive.read(MANIFEST), archive.read(SIGNATURE)
    manifest, key = _vouched(data, signature, path, trust)
    expected = {MANIFEST, SIGNATURE, *(f"{INSIDE}/{file.path}" for file in manifest.files)}
    if len(names) != len(set(names)) or set(names) != expected:
        raise _changed(path, "holds other files than its manifest names")
    return manifest, data, signature, key


def _vouched(data: bytes, signature: bytes, path: Path, trust: Trust) -> tuple[Manifest, TrustedKey]:
    try:
        schema = msgspec.json.decode(data, type=_Schema).schema
        if schema != SCHEMA:
            raise EvidenceError(str(path), f"is {schema!r}; this version reads {SCHEMA}", "use that version")
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.MsgspecError as error:
        raise _changed(path, f"its manifest is damaged ({error})") from error
    key = trust.holder(manifest.public_key)
    if key is None:
        try:
            who = evidence_keys.fingerprint(manifest.public_key)
        except ValueError:
            raise _changed(path, "its public key is none") from None
        raise EvidenceError(
            str(path),
            f"is signed by a stranger ({who})",
            "trust that key first: `threenines evidence trust NAME KEY`",
        )
    if not evidence_keys.signed(manifest.public_key, signature, data):
        raise _changed(path, f"its signature is not that of {key.name}")
    problem = _problem(manifest)
    if problem is not None:
        raise EvidenceError(str(path), problem, "ask for another export")
    return manifest, key


class _Schema(msgspec.Struct):
    schema: str = ""


def _problem(manifest: Manifest) -> str | None:
    if not _ID.fullmatch(manifest.run):
        return f"{manifest.run!r} is no id of a run"
    paths = [file.path for file in manifest.files]
    if len(set(paths)) != len(paths):
        return "names a file twice"
    for path in paths:
        parts = PurePosixPath(path).parts
        inside = path in CARRIED or (
            not {"", ".", ".."} & set(parts)
            and (
                (len(parts) == 2 and parts[0] in FOLDERS) or (3 <= len(parts) <= 5 and parts[0] == SCENARIOS)
            )
        )
        if not inside or "/".join(parts) != path or "\\" in path or "\0" in path:
            return f"{path!r} is no file of a run"
    if not {"run.json", "plan.json", "verdicts.json"} <= set(paths):
        return "lacks run.json, plan.json or verdicts.json"
    if any(file.size_bytes < 0 for file in manifest.files):
        return "names a negative size"
    if sum(file.size_bytes for file in manifest.files) > LARGEST_RUN_BYTES:
        return f"is larger than {LARGEST_RUN_BYTES >> 30} GiB"
    return None


def _check_dates(manifest: Manifest, path: Path, now: datetime) -> None:
    started, ended, exported = (instant(one) for one in (manifest.started, manifest.ended, manifest.exported))
    if started is None or ended is None or exported is None:
        raise EvidenceError(str(path), "has an instant that is none", "ask for another export")
    if not started <= ended <= exported:
        raise EvidenceError(str(path), "ends before it begins: a clock went back", "repeat the run")
    if exported > now + SKEW:
        raise EvidenceError(
            str(path),
            f"was exported in the future ({manifest.exported})",
            "set the clocks right, export again",
        )


def _check_new(run: str, path: Path, out: Path) -> None:
    homes = (*_run_folders(out), *_run_folders(out / IMPORTED))
    for folder in homes:
        if folder.name == run or _id_in(folder) == run:
            raise EvidenceError(
                str(path),
                f"is run {run}, and {folder} is already",
                "one of them is enough; remove the other first",
            )


def _check_agrees(folder: Path, manifest: Manifest, where: Path) -> None:
    run = read_run(folder)
    said = (run.id, run.profile, run.environment, run.started, run.ended, run.commit, run.commit_dirty)
    told = (
        manifest.run,
        manifest.profile,
        manifest.environment,
        manifest.started,
        manifest.ended,
        manifest.commit,
        manifest.commit_dirty,
    )
    if said != told or run.state is not RunState.FINISHED:
        raise _changed(where, "its manifest and its run.json tell different things")


def _run_folders(out: Path) -> tuple[Path, ...]:
    if not out.is_dir():
        return ()
    return tuple(
        sorted(path for path in out.iterdir() if not path.is_symlink() and (path / "run.json").is_file())
    )


def _id_in(folder: Path) -> str | None:
    try:
        return read_run(folder).id
    except EvidenceError:
        return None


def _paths(folder: Path) -> Iterable[str]:
    """What a bundle of this folder would carry."""
    yield from (name for name in CARRIED if (folder / name).is_file())
    for home in FOLDERS:
        yield from sorted(f"{home}/{path.name}" for path in (folder / home).glob("*") if path.is_file())
    yield from (name for name in seal.raw_files(folder) if name.startswith(f"{SCENARIOS}/"))


def _carried(folder: Path) -> Iterable[CarriedFile]:
    for path in _paths(folder):
        size_bytes, sha256 = _hash(folder / path)
        yield CarriedFile(path=path, size_bytes=size_bytes, sha256=sha256)


def _hash(path: Path) -> tuple[int, str]:
    """Size and SHA-256; of a file that cannot be read, what no file has."""
    digest, size_bytes = hashlib.sha256(), 0
    try:
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                size_bytes += len(chunk)
    except OSError:
        return -1, ""
    return size_bytes, digest.hexdigest()


def _put(archive: zipfile.ZipFile, name: str, content: bytes | Path) -> None:
    """The same content gives the same bytes: every entry has the same date."""
    entry = zipfile.ZipInfo(name)
    entry.compress_type = zipfile.ZIP_DEFLATED
    with archive.open(entry, "w", force_zip64=True) as target:
        if isinstance(content, bytes):
            target.write(content)
        else:
            with open(content, "rb") as source:
                shutil.copyfileobj(source, target, CHUNK_BYTES)


def _take(archive: zipfile.ZipFile, file: CarriedFile, folder: Path, where: Path) -> None:
    target = folder / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, left = hashlib.sha256(), file.size_bytes
    with archive.open(f"{INSIDE}/{file.path}") as source, open(target, "xb") as written:
        # Never more than was signed, whatever the archive unpacks to.
        while chunk := source.read(min(CHUNK_BYTES, left + 1)):
            left -= len(chunk)
            if left < 0:
                break
            digest.update(chunk)
            written.write(chunk)
    if left != 0 or digest.hexdigest() != file.sha256:
        raise _changed(where, f"{file.path} is not what was signed")


def _changed(path: Path, what: str) -> EvidenceError:
    return EvidenceError(str(path), what, "ask for the bundle again")
