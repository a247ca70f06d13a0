"""The snapshot in one process: round trips against an oracle, staleness, interruption, damage."""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.topology import Criticality
from services.registry import snapshot_layout as layout
from services.registry.model import Entry, InstanceState, Role, SnapshotError, UnknownAgent
from services.registry.select import ANYONE, Want
from services.registry.snapshot import SnapshotReader, SnapshotWriter
from services.registry.snapshot_writer import plain_store
from tests.registry.snapshots import entry, fleet, instance

S = 1_000_000_000


class Clock:
    def __init__(self) -> None:
        self.now_ns = 1000 * S

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "discovery.snap"


# --- what is published is what is read ---

names = st.from_regex(r"[a-z][a-z0-9-]{0,12}", fullmatch=True)
instances = st.builds(
    instance,
    name=st.just("x"),
    host=st.sampled_from(["mainpc", "pc2", "pc3"]),
    incarnation=st.integers(0, 2**40),
    state=st.sampled_from(list(InstanceState)),
    role=st.sampled_from(list(Role)),
    port=st.none() | st.integers(1, 65535),
    category=st.text(max_size=5),
    criticality=st.sampled_from(list(Criticality)),
    tags=st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=3),
    methods=st.lists(st.text(max_size=4), max_size=3).map(tuple),
)
fleets = st.dictionaries(names, st.lists(instances, max_size=3).map(tuple), max_size=30).map(
    lambda found: {name: Entry(name=name, instances=each) for name, each in found.items()}
)


@settings(max_examples=60, deadline=None)
@given(generations=st.lists(fleets, min_size=1, max_size=4), restart=st.booleans())
def test_reads_what_was_published(generations: list[dict[str, Entry]], restart: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "s"
        writer, reader = SnapshotWriter(file, 1024), SnapshotReader(file)
        everybody = set().union(*generations)
        for number, entries in enumerate(generations, start=1):
            assert writer.publish(entries, 100 + number, 60_000) == number
            assert (reader.generation(), reader.revision()) == (number, 100 + number)
            assert reader.entries() == entries
            for name in everybody:
                if name in entries:
                    assert reader.entry(name) == entries[name]
                    assert reader.resolve(name).generation == number
                else:
                    with pytest.raises(UnknownAgent):
                        reader.resolve(name)
            if restart:
                writer.close()
                writer = SnapshotWriter(file)
        writer.close()
        reader.close()


def test_names_that_collide_in_the_index_are_kept_apart(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "name_tag", lambda name: 7)
    writer, reader = SnapshotWriter(path), SnapshotReader(path)
    entries = fleet([f"a{i}" for i in range(20)], 3)
    writer.publish(entries, 1, 60_000)
    assert {name: reader.entry(name) for name in entries} == entries
    with pytest.raises(UnknownAgent):
        reader.resolve("a20")
    writer.close()


def test_default_answer_is_whoever_is_up_own_host_first(path: Path) -> None:
    writer = SnapshotWriter(path)
    up, down = InstanceState.UP, InstanceState.UNHEALTHY
    found = Entry(
        name="a",
        instances=(
            instance("a", "h1", role=Role.STANDBY, tags={"v": "1"}),
            instance("a", "h2", role=Role.PRIMARY, tags={"v": "2"}),
            instance("a", "h3", role=Role.PRIMARY, state=down),
        ),
    )
    writer.publish({"a": found}, 1, 60_000)

    def hosts(own: str | None, want: Want | None = None) -> list[str]:
        reader = SnapshotReader(path, host=own)
        answer = reader.resolve("a") if want is None else reader.resolve("a", want)
        return [i.host for i in answer.instances]

    assert hosts(None) == ["h2", "h1"]
    assert hosts("h1") == ["h1", "h2"]
    assert hosts("h3") == ["h2", "h1"]
    assert hosts("h3", ANYONE) == ["h3", "h2", "h1"]
    assert hosts(None, Want(tags={"v": "1"})) == ["h1"]
    assert hosts(None, Want(states=frozenset({up, down}), category="none such")) == []
    writer.close()


# --- staleness ---


def test_fresh_until_the_writer_falls_silent(path: Path) -> None:
    clock = Clock()
    writer, reader = SnapshotWriter(path, clock_ns=clock), SnapshotReader(path, clock_ns=clock)
    writer.publish(fleet(["a"], 1), 1, fresh_for_ms=1000)
    assert (reader.resolve("a").stale, reader.resolve("a").age_ms) == (False, 0)
    clock.now_ns += 1 * S
    assert (reader.resolve("a").stale, reader.resolve("a").age_ms) == (False, 1000)
    clock.now_ns += 1
    assert reader.resolve("a").stale
    writer.touch(1000)
    assert (reader.resolve("a").stale, reader.resolve("a").age_ms) == (False, 0)
    clock.now_ns += 400_000_000
    writer.mark_stale()
    answer = reader.resolve("a")
    assert (answer.stale, answer.age_ms, len(answer.instances)) == (True, 400, 2)
    assert reader.freshness() == (True, 400)
    writer.touch(1000)
    assert not reader.resolve("a").stale
    writer.close()


@pytest.mark.parametrize(("criticality", "ttl_s"), [("critical", 30), ("standard", 120), ("utility", 300)])
def test_ttl_by_criticality(path: Path, criticality: str, ttl_s: int) -> None:
    clock = Clock()
    writer, reader = SnapshotWriter(path, clock_ns=clock), SnapshotReader(path, clock_ns=clock)
    only = Entry(name="a", instances=(instance("a", criticality=Criticality(criticality)),))
    writer.publish({"a": only}, 1, fresh_for_ms=3_600_000)
    clock.now_ns += ttl_s * S
    assert not reader.resolve("a").stale
    clock.now_ns += 1
    assert reader.resolve("a").stale
    writer.touch(3_600_000)
    assert not reader.resolve("a").stale
    writer.close()


def test_restarted_writer_keeps_the_last_answer_and_its_age(path: Path) -> None:
    clock = Clock()
    writer, reader = SnapshotWriter(path, clock_ns=clock), SnapshotReader(path, clock_ns=clock)
    writer.publish(fleet(["a"], 1), 1, 1000)
    clock.now_ns += 5 * S
    writer.touch(1000)
    writer.close()
    clock.now_ns += 2 * S
    second = SnapshotWriter(path, clock_ns=clock)
    assert second.generation == 1
    assert (reader.resolve("a").stale, reader.resolve("a").age_ms) == (True, 2000)
    second.mark_stale()
    assert reader.resolve("a").age_ms == 2000
    second.touch(1000)
    assert not reader.resolve("a").stale
    second.close()


# --- replaced, missing, full, taken ---


def test_before_the_writer_a_clear_error_and_then_answers(path: Path) -> None:
    reader = SnapshotReader(path)
    with pytest.raises(SnapshotError, match=r"no discovery snapshot yet; start hostd"):
        reader.resolve("a")
    assert reader.last_good("a") is None
    writer = SnapshotWriter(path)
    with pytest.raises(SnapshotError, match="nothing has been published"):
        reader.resolve("a")
    writer.publish(fleet(["a"], 1), 1, 1000)
    assert reader.resolve("a").generation == 1
    writer.close()


def test_outgrown_file_is_replaced_and_readers_follow(path: Path) -> None:
    writer, reader = SnapshotWriter(path, 512), SnapshotReader(path)
    files = set()
    for number in range(1, 8):
        writer.publish(fleet([f"a{i}" for i in range(4**number % 1000)], number), number, 60_000)
        files.add(layout.Identity.unpack(path.read_bytes()[: layout.IDENTITY_BYTES]).file_id)
        assert reader.resolve("a0").instances[0].incarnation == number
        assert reader.generation() == number
    assert len(files) > 2
    assert [each.name for each in path.parent.iterdir() if each.name.endswith(".new")] == []
    writer.close()


def test_killed_between_rename_and_mark_readers_follow_once_it_is_silent(path: Path) -> None:
    clock = Clock()
    reader = SnapshotReader(path, clock_ns=clock)
    writer = SnapshotWriter(path, clock_ns=clock)
    writer.publish(fleet(["a"], 1), 1, 1000)
    assert reader.resolve("a").generation == 1
    writer.close()
    # The next writer made a new file, and the old one never heard of it.
    os.rename(path, path.with_suffix(".old"))
    second = SnapshotWriter(path, clock_ns=clock)
    second.publish(fleet(["a"], 2), 2, 60_000)
    second.publish(fleet(["a"], 3), 2, 60_000)
    clock.now_ns += 2 * S
    assert reader.resolve("a").instances[0].incarnation == 3
    second.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EACCES])
def test_no_space_to_grow_keeps_what_was_published(
    path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    writer, reader = SnapshotWriter(path, 512), SnapshotReader(path)
    writer.publish(fleet(["a"], 1), 1, 60_000)

    def full(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        with pytest.raises(SnapshotError, match=r"cannot be written: .*; "):
            writer.publish(fleet([f"a{i}" for i in range(100)], 2), 2, 60_000)
        writer.touch(60_000)
        assert reader.resolve("a").instances[0].incarnation == 1
        writer.publish(fleet(["a"], 3), 3, 60_000)  # what fits still goes in
    assert reader.resolve("a").instances[0].incarnation == 3
    assert sorted(each.name for each in path.parent.iterdir()) == ["discovery.snap", "discovery.snap.lock"]
    writer.publish(fleet([f"a{i}" for i in range(100)], 4), 4, 60_000)
    assert reader.resolve("a99").instances[0].incarnation == 4
    writer.close()


def test_second_writer_is_refused(path: Path) -> None:
    first = SnapshotWriter(path)
    with pytest.raises(SnapshotError, match="another hostd is writing it"):
        SnapshotWriter(path)
    first.close()
    SnapshotWriter(path).close()


def test_missing_folder_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="folder exists"):
        SnapshotWriter(tmp_path / "none" / "s")


@pytest.mark.parametrize(
    "harm", [lambda p: p.unlink(), lambda p: os.truncate(p, 0), lambda p: os.truncate(p, 5000)]
)
def test_writer_mends_a_file_that_was_cut_or_removed(path: Path, harm: Callable[[Path], None]) -> None:
    writer, reader = SnapshotWriter(path), SnapshotReader(path)
    writer.publish(fleet(["a"], 1), 1, 60_000)
    assert reader.resolve("a").generation == 1
    harm(path)
    writer.touch(60_000)
    fresh = SnapshotReader(path)
    assert fresh.resolve("a").instances[0].incarnation == 1
    assert reader.resolve("a").instances[0].incarnation == 1
    harm(path)
    writer.publish(fleet(["a"], 2), 2, 60_000)
    assert reader.resolve("a").instances[0].incarnation == 2
    writer.close()


def test_foreign_files_are_replaced_by_the_writer_and_refused_by_readers(path: Path) -> None:
    for content in (b"", b"x", b"#!/bin/sh\n" * 1000, b"3NSNAP99" + bytes(9000), b"3NSNAP01" + bytes(9000)):
        path.write_bytes(content)
        with pytest.raises(SnapshotError, match="restart hostd"):
            SnapshotReader(path).resolve("a")
        writer = SnapshotWriter(path)
        writer.publish(fleet(["a"], 1), 1, 60_000)
        assert SnapshotReader(path).resolve("a").name == "a"
        writer.close()


def test_cache_stays_under_its_cap(path: Path) -> None:
    writer = SnapshotWriter(path)
    entries = fleet([f"a{i}" for i in range(200)], 1, padding=100)
    writer.publish(entries, 1, 60_000)
    reader = SnapshotReader(path, cache_bytes=20_000)
    for name in entries:
        assert reader.entry(name) == entries[name]
        assert reader._cached_bytes <= 20_000
    assert 0 < len(reader._cache) < 20
    tiny = SnapshotReader(path, cache_bytes=10)
    assert tiny.resolve("a7").name == "a7"
    assert not tiny._cache
    writer.close()


# --- interrupted and damaged ---


class Killed(BaseException):
    """The writer dies here."""


def dying_store(after: int, part: float) -> Callable[[mmap.mmap, int, bytes], None]:
    """Performs `after` stores, then a fraction of the next one, then dies. 8-byte words are never torn."""
    done = 0

    def store(mapping: mmap.mmap, at: int, data: bytes) -> None:
        nonlocal done
        if done == after:
            if len(data) > 8:
                mapping[at : at + int(len(data) * part)] = data[: int(len(data) * part)]
            raise Killed
        done += 1
        plain_store(mapping, at, data)

    return store


@pytest.mark.parametrize("part", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("grow", [False, True])
def test_killed_at_every_step_old_or_new_is_read(tmp_path: Path, part: float, grow: bool) -> None:
    outcomes = set()
    for step in range(20):
        path = tmp_path / f"s{step}"
        first = SnapshotWriter(path, 2048)
        for number in (1, 2, 3):
            first.publish(fleet(["a", "b"], number), number, 60_000)
        first.close()
        reader = SnapshotReader(path)
        assert reader.resolve("a").generation == 3
        size = 100 if grow else 2
        victim = SnapshotWriter(path, store=dying_store(step, part))
        killed = False
        try:
            victim.publish(fleet(["a", "b", *(f"c{i}" for i in range(size))], 4), 4, 60_000)
            victim.touch(60_000)
        except Killed:
            killed = True
        finally:
            victim.close()
        for each in (reader, SnapshotReader(path)):
            answer = each.resolve("a")
            assert answer.generation in (3, 4)
            assert [i.incarnation for i in answer.instances] == [answer.generation] * 2
            outcomes.add(answer.generation)
            try:
                assert each.resolve("c0").generation == 4
            except UnknownAgent:
                assert answer.generation == 3
        heir = SnapshotWriter(path)
        assert heir.publish(fleet(["a"], 5), 5, 60_000) > 3
        assert SnapshotReader(path).resolve("a").instances[0].incarnation == 5
        assert reader.resolve("a").instances[0].incarnation == 5
        heir.close()
        if not killed:
            break
    else:
        pytest.fail("the writer never finished")
    assert outcomes == {3, 4}


def _published(folder: Path) -> tuple[bytes, dict[int, dict[str, Entry]]]:
    """A file with two generations (both slots in use) and a heartbeat, and what each generation says."""
    path = folder / "pristine"
    generations = {number: fleet(["a", "bb", "ccc"], number) for number in (1, 2)}
    writer = SnapshotWriter(path, 4096)
    for number, entries in generations.items():
        writer.publish(entries, number, 60_000)
    writer.touch(60_000)
    writer.close()
    return path.read_bytes(), generations


def _never_wrong(reader: SnapshotReader, generations: dict[int, dict[str, Entry]]) -> str:
    """Asks everything; returns what was seen. Fails on an answer that no generation gives."""
    seen = ""
    for name in ("a", "bb", "ccc"):
        try:
            answer = reader.resolve(name, ANYONE)
        except SnapshotError:
            seen += "e"
            continue
        expected = generations[answer.generation][name]
        assert sorted(answer.instances, key=lambda i: i.host) == list(expected.instances)
        assert answer.revision == answer.generation
        seen += str(answer.generation)
    try:
        reader.resolve("d")
        pytest.fail("an answer for a name that nobody published")
    except UnknownAgent:
        seen += "u"
    except SnapshotError:
        seen += "e"
    try:
        assert reader.entries() in generations.values()
    except SnapshotError:
        seen += "e"
    return seen


def test_any_flipped_bit_gives_an_error_or_a_true_answer(tmp_path: Path) -> None:
    pristine, generations = _published(tmp_path)
    path = tmp_path / "flipped"
    path.write_bytes(pristine)
    veteran = SnapshotReader(path)
    assert _never_wrong(veteran, generations) == "222u"
    used = [at for at in range(len(pristine)) if pristine[at]]
    with path.open("r+b", buffering=0) as file:
        for at in used:
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([pristine[at] ^ (1 << bit)]), at)
                with closing(SnapshotReader(path)) as reader:
                    _never_wrong(reader, generations)
            os.pwrite(file.fileno(), pristine[at : at + 1], at)
    assert len(used) > 500


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_cut_flipped_and_overwritten_anywhere(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pristine, generations = _published(Path(folder))
        path = Path(folder) / "harmed"
        path.write_bytes(pristine)
        veteran = SnapshotReader(path)
        veteran.resolve("a")
        length = data.draw(st.integers(0, len(pristine)) | st.integers(0, 200))
        harmed = bytearray(pristine[:length])
        for _ in range(data.draw(st.integers(0, 2)) if length else 0):
            harmed[data.draw(st.integers(0, length - 1))] ^= 1 << data.draw(st.integers(0, 7))
        os.truncate(path, length)
        with path.open("r+b") as file:
            file.write(harmed)
        for reader in (veteran, SnapshotReader(path)):
            _never_wrong(reader, generations)
        if length == 0:
            with pytest.raises(SnapshotError):
                veteran.resolve("a")
            good = veteran.last_good("a")
            assert good is not None
            assert good.stale
            assert good.instances == generations[2]["a"].instances


def test_errors_name_place_fault_and_mend(path: Path) -> None:
    writer = SnapshotWriter(path)
    writer.publish({"a": entry("a")}, 1, 1000)
    writer.close()
    os.truncate(path, 4096 + 10)
    reader = SnapshotReader(path)
    with pytest.raises(SnapshotError) as error:
        reader.resolve("a")
    assert str(path) in error.value.where
    assert error.value.mend
