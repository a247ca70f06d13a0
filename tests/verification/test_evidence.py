"""Bundles: what comes in is what was signed by somebody who is trusted, or nothing."""

from __future__ import annotations

import os
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from reports.model import RunState, encode
from tests.verification.evidence_runs import run_folder
from verification import evidence, evidence_keys
from verification.evidence_keys import EvidenceError, Trust

NOW = datetime(2026, 3, 2, tzinfo=UTC)
ID = "2026-03-01T000000Z-nightly"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    evidence_keys.make_key(folder)
    return folder


@pytest.fixture
def bundle(tmp_path: Path, keys: Path) -> Path:
    target = tmp_path / "run.zip"
    folder = run_folder(tmp_path / "there", ID)
    (folder / "history" / "nemesis.jsonl").write_bytes(b"{}\n" * 100_000)
    evidence.export_bundle(folder, keys, target, NOW)
    return target


def rewritten(bundle: Path, changes: dict[str, bytes | None]) -> Path:
    """The bundle with entries replaced, added, or (None) left out."""
    target = bundle.with_name("changed.zip")
    with zipfile.ZipFile(bundle) as source, zipfile.ZipFile(target, "w") as written:
        entries = {name: source.read(name) for name in source.namelist()}
        entries.update({name: data for name, data in changes.items() if data is not None})
        for name, data in entries.items():
            if not (name in changes and changes[name] is None):
                written.writestr(name, data)
    return target


def signed_again(bundle: Path, keys: Path, **changes: object) -> Path:
    """The bundle with its manifest changed and properly signed: a careless or hostile exporter's."""
    with zipfile.ZipFile(bundle) as source:
        manifest = msgspec.json.decode(source.read(evidence.MANIFEST))
    data = msgspec.json.encode({**manifest, **changes})
    return rewritten(bundle, {evidence.MANIFEST: data, evidence.SIGNATURE: evidence_keys.sign(keys, data)})


def take(bundle: Path, keys: Path, out: Path) -> Path:
    return evidence.import_bundle(bundle, evidence_keys.trusted(keys), out, NOW)[0]


def test_a_bundle_comes_in_whole_and_stays_checked(tmp_path, keys, bundle):
    folder = take(bundle, keys, tmp_path / "here")
    there = tmp_path / "there" / ID
    for name in ("run.json", "plan.json", "verdicts.json", "history/nemesis.jsonl"):
        assert (folder / name).read_bytes() == (there / name).read_bytes()
    trust = evidence_keys.trusted(keys)
    assert evidence.check_imported(folder, trust).run == ID
    with pytest.raises(EvidenceError, match="stranger"):
        evidence.check_imported(folder, Trust())


def test_the_same_run_gives_the_same_bytes(tmp_path, keys, bundle):
    again = tmp_path / "again.zip"
    evidence.export_bundle(tmp_path / "there" / ID, keys, again, NOW)
    assert again.read_bytes() == bundle.read_bytes()


def test_the_raw_records_of_scenarios_and_the_seal_come_along(tmp_path, keys):
    there = run_folder(tmp_path / "there", ID)
    raw = ("seal.json", "scenarios/0-a/journal.jsonl", "scenarios/0-b/cell/history/load-pc2.jsonl")
    for name in (*raw, "scenarios/0-a/report.md", "scenarios/0-a/logs/load.log"):
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_bytes(name.encode())
    evidence.export_bundle(there, keys, tmp_path / "run.zip", NOW)
    folder = take(tmp_path / "run.zip", keys, tmp_path / "here")
    assert [(folder / name).read_bytes() for name in raw] == [name.encode() for name in raw]
    assert not (folder / "scenarios/0-a/report.md").exists(), "what can be made again stays at home"
    (folder / raw[1]).write_bytes(b"")
    with pytest.raises(EvidenceError, match="is not what was signed"):
        evidence.check_imported(folder, evidence_keys.trusted(keys))
    (folder / raw[1]).write_bytes(raw[1].encode())
    (folder / "scenarios/0-a/played.json").write_bytes(b"")
    with pytest.raises(EvidenceError, match="was added"):
        evidence.check_imported(folder, evidence_keys.trusted(keys))


@pytest.mark.parametrize("name", ["verdicts.json", "history/nemesis.jsonl", "run.json"])
def test_what_was_edited_after_the_import_is_found(tmp_path, keys, bundle, name):
    folder = take(bundle, keys, tmp_path / "here")
    with open(folder / name, "ab") as file:
        file.write(b" ")
    with pytest.raises(EvidenceError, match=f"{name} is not what was signed"):
        evidence.check_imported(folder, evidence_keys.trusted(keys))


def test_a_file_added_after_the_import_is_found(tmp_path, keys, bundle):
    folder = take(bundle, keys, tmp_path / "here")
    (folder / "history" / "more.jsonl").write_bytes(b"")
    with pytest.raises(EvidenceError, match=r"more\.jsonl was added"):
        evidence.check_imported(folder, evidence_keys.trusted(keys))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"run/verdicts.json": b"{}"}, r"verdicts\.json is not what was signed"),
        ({"run/verdicts.json": None}, "other files"),
        ({"run/history/extra.jsonl": b""}, "other files"),
        ({"../escaped": b""}, "other files"),
        ({evidence.SIGNATURE: b"\0" * 64}, "signature is not that of this-machine"),
        ({evidence.SIGNATURE: b"short"}, "signature is not that of this-machine"),
        ({evidence.SIGNATURE: None}, "has no manifest.sig"),
        ({evidence.MANIFEST: b"{"}, "manifest is damaged"),
        ({evidence.MANIFEST: b'{"schema": "threenines.evidence/2"}'}, "this version reads"),
    ],
)
def test_a_changed_bundle_leaves_nothing_behind(tmp_path, keys, bundle, changes, told):
    out = tmp_path / "here"
    with pytest.raises(EvidenceError, match=told):
        take(rewritten(bundle, changes), keys, out)
    assert not out.exists() or list((out / evidence.IMPORTED).iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"run": "../../etc"}, "no id of a run"),
        ({"files": []}, "lacks run.json"),
        ({"exported": "2027-01-01T00:00:00Z"}, "in the future"),
        ({"started": "2026-03-01T02:00:00Z"}, "ends before it begins"),
        ({"ended": "soon"}, "instant that is none"),
        ({"commit": "d" * 40}, "tell different things"),
        ({"public_key": "abc"}, "public key is none"),
        ({"more": 1}, "manifest is damaged"),
    ],
)
def test_a_signature_does_not_make_nonsense_true(tmp_path, keys, bundle, changes, told):
    with pytest.raises(EvidenceError, match=told):
        take(signed_again(bundle, keys, **changes), keys, tmp_path / "here")


@pytest.mark.parametrize(
    "path",
    [
        *("../x", "/x", "history/../x", "history//x", "history/a/b", "notes.txt"),
        *("scenarios/x", "scenarios/../../x", "scenarios/a/../x", "scenarios/a/b/c/d/e"),
    ],
)
def test_no_path_leads_out_of_the_run(tmp_path, keys, bundle, path):
    with zipfile.ZipFile(bundle) as source:
        files = msgspec.json.decode(source.read(evidence.MANIFEST))["files"]
    files.append({"path": path, "size_bytes": 0, "sha256": ""})
    with pytest.raises(EvidenceError, match="is no file of a run"):
        take(signed_again(bundle, keys, files=files), keys, tmp_path / "here")


def test_a_stranger_is_refused_until_trusted(tmp_path, keys, bundle):
    others = tmp_path / "others"
    evidence_keys.make_key(others)
    with pytest.raises(EvidenceError, match="signed by a stranger"):
        take(bundle, others, tmp_path / "here")
    evidence_keys.trust(others, "soak-host", evidence_keys.public_key(keys))
    assert take(bundle, others, tmp_path / "here").name == ID


def test_a_run_comes_in_once(tmp_path, keys, bundle):
    out = tmp_path / "here"
    take(bundle, keys, out)
    with pytest.raises(EvidenceError, match="is already"):
        take(bundle, keys, out)
    with pytest.raises(EvidenceError, match="is already"):
        take(bundle, keys, tmp_path / "there")


def test_a_run_under_another_folder_name_is_still_the_same_run(tmp_path, keys, bundle):
    (tmp_path / "there" / ID).rename(tmp_path / "there" / "renamed")
    with pytest.raises(EvidenceError, match="is already"):
        take(bundle, keys, tmp_path / "there")


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive at all"])
def test_what_is_no_archive(tmp_path, keys, content):
    path = tmp_path / "x.zip"
    path.write_bytes(content)
    with pytest.raises(EvidenceError, match="is no bundle"):
        take(path, keys, tmp_path / "here")


def test_a_cut_bundle(tmp_path, keys, bundle):
    path = tmp_path / "cut.zip"
    path.write_bytes(bundle.read_bytes()[:-40])
    with pytest.raises(EvidenceError, match="is no bundle"):
        take(path, keys, tmp_path / "here")


@pytest.mark.parametrize("state", [RunState.RUNNING, RunState.INTERRUPTED, RunState.BROKEN])
def test_only_what_came_to_its_end_is_exported(tmp_path, keys, state):
    folder = run_folder(tmp_path, "r", state=state)
    with pytest.raises(EvidenceError, match=state.value):
        evidence.export_bundle(folder, keys, tmp_path / "x.zip", NOW)
    assert not (tmp_path / "x.zip").exists()


def test_the_private_key_is_its_owners_alone(tmp_path, keys):
    path = keys / evidence_keys.KEY_FILE
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(EvidenceError, match="a key already"):
        evidence_keys.make_key(keys)
    os.chmod(path, 0o644)
    with pytest.raises(EvidenceError, match="others may read it"):
        evidence_keys.sign(keys, b"")


@pytest.mark.parametrize("text", ["", "no key", "QUJD", "é"])
def test_what_is_no_key_is_not_trusted(tmp_path, text):
    with pytest.raises(EvidenceError, match="32 bytes"):
        evidence_keys.trust(tmp_path, "x", text)
    assert evidence_keys.trusted(tmp_path) == Trust()


def test_a_name_stands_for_one_key(tmp_path, keys):
    evidence_keys.make_key(tmp_path / "others")
    with pytest.raises(EvidenceError, match="another key has this name"):
        evidence_keys.trust(keys, "this-machine", evidence_keys.public_key(tmp_path / "others"))


def test_a_damaged_list_of_keys_is_told(tmp_path):
    (tmp_path / evidence_keys.TRUST_FILE).write_bytes(b"{")
    with pytest.raises(EvidenceError, match="cannot be read"):
        evidence_keys.trusted(tmp_path)
    (tmp_path / evidence_keys.TRUST_FILE).write_bytes(encode(Trust(schema="threenines.trust/9")))
    with pytest.raises(EvidenceError, match="this version reads"):
        evidence_keys.trusted(tmp_path)
