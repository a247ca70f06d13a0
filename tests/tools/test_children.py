"""Child processes: logs, failures in words, and nothing left after a stop."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from infra.tools.children import Children, Stopped, error_of, explain, require_free_space
from infra.tools.errors import SetupError

PATIENCE_S = 20.0


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("go: x: write /tmp/go-build/b001: no space left on device", "disk is full"),
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
            "disk is full",
        ),
        ("dial tcp: lookup proxy on 10.0.0.2:53: no such host", "network"),
        ("W: Failed to fetch x  Temporary failure resolving 'deb'", "network"),
        ("NewConnectionError('<x>: Failed to establish a new connection: [Errno 101]", "network"),
        ("read tcp 10.0.0.1->10.0.0.2: connection reset by peer", "network"),
        ("net/http: TLS handshake timeout", "network"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "pinned hash"),
        ("verifying x@v1.0.0: checksum mismatch\n\nSECURITY ERROR", "pinned hash"),
        ("open /root/go/pkg: permission denied", "may not be written"),
        ("compile: signal: killed", "memory"),
        ("undefined: foo", None),
        ("", None),
    ],
)
def test_known_failures_are_told_in_words(output: str, told: str | None) -> None:
    known = explain(output)
    assert (known is None) if told is None else (known is not None and told in known[0])


def test_output_goes_to_the_log_and_comes_back(tmp_path: Path) -> None:
    children = Children(tmp_path)
    assert children.run("a", ["sh", "-c", "echo one; echo two >&2"]) == "one\ntwo\n"
    assert children.run("a", ["echo", "three"]) == "three\n"
    log = (tmp_path / "a.log").read_text()
    assert log == "$ sh -c echo one; echo two >&2\none\ntwo\n$ echo three\nthree\n"


def test_a_flood_comes_back_as_its_end(tmp_path: Path) -> None:
    output = Children(tmp_path).run("a", ["sh", "-c", "yes x | head -c 1000000; echo the end"])
    assert output.endswith("the end\n")
    assert len(output) <= 64 * 1024


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["sh", "-c", "echo first; echo 'the last word'; exit 7"], "sh ended with status 7: the last word"),
        (["false"], "false ended with status 1: it said nothing"),
        (["no-such-program-anywhere"], "no-such-program-anywhere is not installed"),
        (["sh", "-c", "echo 'no space left on device'; exit 1"], "the disk is full"),
    ],
)
def test_a_failure_is_one_line(tmp_path: Path, argv: list[str], told: str) -> None:
    with pytest.raises(SetupError) as caught:
        Children(tmp_path).run("tools.x", argv)
    line = caught.value.line()
    assert line.startswith(f"threenines: tools.x: {told}")
    assert "\n" not in line
    assert line.count("; ") >= 1


def test_stop_ends_the_whole_group(tmp_path: Path) -> None:
    children = Children(tmp_path, grace_s=0.2)
    pids = tmp_path / "pids"
    ended: list[type[BaseException]] = []

    def run() -> None:
        script = (
            f"trap '' TERM INT; sleep 300 & echo $$ $! > {pids}.new; mv {pids}.new {pids}; exec sleep 300"
        )
        try:
            children.run("x", ["sh", "-c", script])
        except BaseException as error:
            ended.append(type(error))

    thread = threading.Thread(target=run)
    thread.start()
    awaited = threading.Event()
    for _ in range(int(PATIENCE_S / 0.02)):
        if pids.exists():
            break
        awaited.wait(0.02)
    children.stop()
    thread.join(PATIENCE_S)
    assert ended == [Stopped]
    for pid in pids.read_text().split():
        assert not alive(int(pid)), pid


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_errors_of_the_system_are_told(tmp_path: Path) -> None:
    told = error_of("tools.x", OSError(28, "No space left on device", str(tmp_path)))
    assert told.line().startswith(f"threenines: tools.x: the disk is full ({tmp_path}); free ")


def test_space_is_asked_of_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    require_free_space("x", tmp_path / "not" / "yet", 1)
    with pytest.raises(SetupError, match=r"MB are free under .*, \d+ MB are needed"):
        require_free_space("x", tmp_path / "not" / "yet", 10**18)
