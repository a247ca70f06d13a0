"""Stamps: they vouch for what was finished, and for nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.tools.stamps import (
    Stamp,
    digest_inputs,
    link_atomically,
    read_stamp,
    stamp_outputs,
    write_atomically,
    write_stamp,
)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    file = tmp_path / "bin" / "tool"
    file.parent.mkdir()
    file.write_text("program")
    return file


def stamp_of(*files: Path) -> Stamp:
    return Stamp("tools.x", "digest", stamp_outputs(files), {"tool": "1.2.3"})


def test_a_stamp_reads_back_and_vouches(tmp_path: Path, program: Path) -> None:
    write_stamp(tmp_path / "s" / "x.json", stamp_of(program))
    stamp = read_stamp(tmp_path / "s" / "x.json")
    assert stamp == stamp_of(program)
    assert stamp.vouches_for("digest")
    assert not stamp.vouches_for("other inputs")


@pytest.mark.parametrize("harm", ["gone", "shorter", "same size, later"])
def test_a_changed_output_is_seen(program: Path, harm: str) -> None:
    stamp = stamp_of(program)
    if harm == "gone":
        program.unlink()
    elif harm == "shorter":
        os.truncate(program, 3)
    else:
        status = program.stat()
        program.write_text("PROGRAM")
        os.utime(program, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert not stamp.vouches_for("digest")


def test_a_link_is_followed_to_what_it_names(tmp_path: Path, program: Path) -> None:
    link = tmp_path / "link"
    link_atomically(link, program)
    stamp = stamp_of(link)
    assert stamp.vouches_for("digest")
    program.unlink()
    assert not stamp.vouches_for("digest")


def test_a_stamp_for_nothing_vouches_for_nothing() -> None:
    assert not stamp_of().vouches_for("digest")


@given(st.data())
def test_a_damaged_stamp_is_none_or_whole(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("stamp")
    program = folder / "tool"
    program.write_text("program")
    path = folder / "x.json"
    write_stamp(path, stamp_of(program))
    whole = path.read_bytes()
    kept = min(int(len(whole) * data.draw(st.floats(0, 1))), len(whole) - 3)
    path.write_bytes(whole[:kept])
    assert read_stamp(path) is None
    path.write_text(
        data.draw(st.sampled_from(["null", "[]", "{}", '{"outputs": [{}]}', '{"outputs": 1}', "\x00"]))
    )
    assert read_stamp(path) is None


inputs = st.dictionaries(st.text(max_size=6), st.binary(max_size=12), max_size=4)


@given(inputs, inputs)
def test_only_the_same_inputs_have_the_same_digest(left: dict[str, bytes], right: dict[str, bytes]) -> None:
    assert (digest_inputs(left) == digest_inputs(right)) == (left == right)


def test_the_order_of_inputs_does_not_matter() -> None:
    assert digest_inputs({"a": "1", "b": "2"}) == digest_inputs({"b": "2", "a": "1"})


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    write_atomically(file, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(file, "new")
    assert file.read_text() == "old"
    assert [f.name for f in tmp_path.iterdir()] == ["file"]
