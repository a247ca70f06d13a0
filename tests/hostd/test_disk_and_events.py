"""What hostd keeps: its numbers, its last view, its events; and what it does when the disk refuses."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.hostd.config import ConfigError, load_config
from services.hostd.disk import CachedView, DiskCache
from services.hostd.events import EventLog, HostEvent


def test_no_life_gives_out_the_numbers_of_an_earlier_one(tmp_path: Path) -> None:
    floors, given_out = [], 0
    for _ in range(4):
        disk = DiskCache(tmp_path)
        floor = disk.begin_life().incarnation_ceiling
        assert floor > given_out
        for incarnation in (floor, floor + 999, floor + 2500):
            disk.remember(incarnation=incarnation)
            given_out = incarnation
        floors.append(floor)
    assert floors == sorted(set(floors))
    assert DiskCache(tmp_path).begin_life().life == 4


def test_epochs_are_remembered(tmp_path: Path) -> None:
    disk = DiskCache(tmp_path)
    disk.begin_life()
    disk.remember(epoch=7)
    disk.remember(epoch=3)
    assert DiskCache(tmp_path).begin_life().epoch == 7


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"revision": "x"}', b"[]"])
def test_a_damaged_file_counts_as_missing_and_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "view.json").write_bytes(content)
    disk = DiskCache(tmp_path)
    assert disk.load_view() is None
    assert "view.json" in (disk.trouble or "")


async def test_many_changes_make_one_write_of_the_last_view(tmp_path: Path) -> None:
    disk = DiskCache(tmp_path)
    for revision in range(50):
        disk.save_view_soon(lambda revision=revision: CachedView(revision=revision))
    await disk.close()
    assert DiskCache(tmp_path).load_view() == CachedView(revision=49)


async def test_events_are_numbered_kept_and_written(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog("mainpc", path, first_seq=100, now_ns=lambda: 5, ring_events=3)
    for number in range(5):
        log.add("exited", agent="a", incarnation=number)
    assert [event.seq for event in log.since(0)] == [102, 103, 104]
    assert [event.seq for event in log.since(103)] == [104]
    assert log.since(104) == []
    await log.close()
    lines = [msgspec.json.decode(line, type=HostEvent) for line in path.read_bytes().splitlines()]
    assert [line.incarnation for line in lines] == [0, 1, 2, 3, 4]


async def test_lines_that_the_disk_refuses_are_counted_and_the_next_ones_written(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.mkdir()
    log = EventLog("mainpc", path)
    log.add("exited")
    async with asyncio.timeout(5):
        while log.trouble is None:  # noqa: ASYNC110 - a thread's outcome, told by this attribute
            await asyncio.sleep(0.01)
    assert log.lost_lines == 1
    path.rmdir()
    log.add("forked")
    await log.close()
    assert log.trouble is None
    assert len(path.read_bytes().splitlines()) == 1


@given(st.binary(max_size=200))
def test_bytes_that_are_no_configuration_are_refused_in_one_line(content: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        with pytest.raises(ConfigError) as caught:
            load_config(file.name)
    assert "\n" not in str(caught.value)


def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.json")
