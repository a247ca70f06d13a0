"""The snapshot between real processes: a writer that hammers, one that is killed, a disk that is full."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path

import pytest

from services.registry.model import SnapshotError, UnknownAgent
from services.registry.snapshot import SnapshotReader, SnapshotWriter
from tests.registry.snapshots import fleet

ROOT = Path(__file__).resolve().parents[2]

# Publishes `count` generations. Generation g: `1 + g % 40` names, every instance carries g, sizes vary, so
# that the file is replaced from time to time. A name beyond the generation's own is unknown in it.
WRITER = """
import sys
from services.registry.snapshot import SnapshotWriter
from tests.registry.snapshots import fleet
path, count = sys.argv[1], int(sys.argv[2])
writer = SnapshotWriter(path, 2048)
print("go", flush=True)
for _ in range(count):
    g = writer.generation + 1
    writer.publish(fleet([f"a{i}" for i in range(1 + g % 40)], g, padding=g % 97), g, 60_000)
    if g % 3 == 0:
        writer.touch(60_000)
writer.close()
"""

# Asks until the last generation is seen; prints how many answers were checked and how many generations seen.
READER = """
import sys
from services.registry.snapshot import SnapshotReader, UnknownAgent
path, last = sys.argv[1], int(sys.argv[2])
reader = SnapshotReader(path, cache_bytes=20_000)
asked, seen, newest, turn = 0, set(), 0, 0
print("go", flush=True)
while newest < last:
    turn += 1
    name = f"a{turn % 40}"
    try:
        answer = reader.resolve(name)
    except UnknownAgent:
        assert turn % 40 > 0
        continue
    asked += 1
    g = answer.generation
    assert g >= newest, (g, newest)
    newest = g
    seen.add(g)
    assert answer.revision == g and len(answer.instances) == 2, answer
    assert all(i.incarnation == g for i in answer.instances), answer
    assert turn % 40 <= g % 40, answer
    if turn % 500 == 0:
        entries = reader.entries()
        numbers = {i.incarnation for e in entries.values() for i in e.instances}
        assert len(numbers) == 1, numbers
        assert len(entries) == 1 + numbers.pop() % 40
print(asked, len(seen), flush=True)
"""


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process


def test_readers_see_only_published_generations_while_a_writer_hammers(tmp_path: Path) -> None:
    path, generations = tmp_path / "s", 3000
    with closing(SnapshotWriter(path)) as first:
        first.publish(fleet(["a0", "a1"], 1, padding=1), 1, 60_000)
    readers = [start(READER, path, generations + 1) for _ in range(3)]
    try:
        for reader in readers:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "go\n"
        writer = start(WRITER, path, generations)
        readers.append(writer)
        _, complaint = writer.communicate(timeout=60)
        assert writer.returncode == 0, complaint
        for reader in readers[:3]:
            told, complaint = reader.communicate(timeout=60)
            assert reader.returncode == 0, complaint
            asked, seen = map(int, told.split())
            assert asked > 100
            assert seen > 20, "the readers hardly met the writer: the test showed nothing"
    finally:
        for process in readers:
            process.kill()
            process.wait()


def test_writers_killed_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "s"
    reader = SnapshotReader(path)
    newest = 0
    for turn in range(12):
        writer = start(WRITER, path, 10**9)
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "go\n"
            target = newest + 1 + turn * 7
            while newest < target:
                try:
                    newest = _checked(reader, newest)
                except SnapshotError:
                    assert newest == 0  # before the very first publication only
        finally:
            os.kill(writer.pid, signal.SIGKILL)
            writer.wait()
        newest = _checked(reader, newest)
        assert _checked(SnapshotReader(path), 0) >= newest
    with closing(SnapshotWriter(path)) as heir:
        assert heir.generation >= newest
        heir.publish(fleet(["a0"], 7), 7, 1000)
    assert reader.resolve("a0").instances[0].incarnation == 7


def _checked(reader: SnapshotReader, newest: int) -> int:
    answer = reader.resolve("a0")
    assert answer.generation >= newest
    assert {i.incarnation for i in answer.instances} == {answer.generation}
    return answer.generation


@pytest.mark.live
def test_full_disk_keeps_what_was_published(tmp_path: Path) -> None:
    """A tmpfs of 256 KiB, mounted in a mount namespace of its own that dies with the program."""
    program = """
        import sys
        from services.registry.snapshot import SnapshotError, SnapshotReader, SnapshotWriter
        from tests.registry.snapshots import fleet
        path = sys.argv[1] + "/s"
        writer, reader = SnapshotWriter(path, 16 * 1024), SnapshotReader(path)
        writer.publish(fleet(["a"], 1), 1, 60_000)
        try:
            writer.publish(fleet([f"a{i}" for i in range(2000)], 2), 2, 60_000)
        except SnapshotError as error:
            print(error)
        assert reader.resolve("a").instances[0].incarnation == 1
        writer.publish(fleet(["a"], 3), 3, 60_000)
        assert reader.resolve("a").instances[0].incarnation == 3
    """
    script = 'mount -t tmpfs -o size=256k tmpfs "$1" && exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", tmp_path, sys.executable, textwrap.dedent(program)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no mount namespace here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert "No space left on device; free some space there" in done.stdout


def test_unknown_stays_unknown(tmp_path: Path) -> None:
    with closing(SnapshotWriter(tmp_path / "s")) as writer:
        writer.publish(fleet(["a"], 1), 1, 1000)
        reader = SnapshotReader(tmp_path / "s")
        with pytest.raises(UnknownAgent, match="no agent 'b' is registered"):
            reader.resolve("b")
        with pytest.raises(KeyError):
            reader.resolve("b")
