"""A disk that is filled: a small one of its own, as the fault demands."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.errors import BadFault, Refused
from chaos.parameters import make_fault
from chaos.session import Session
from chaos.stage import Stage
from infra.substrates.process import ProcessSubstrate
from infra.topology import Fleet, HostSpec
from tests.chaos.conftest import agent, make_environment

pytestmark = pytest.mark.live

FLEET = Fleet(name="one", hosts=(HostSpec(name="a"),), agents=(agent("one", "a"),))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(("mount", "-t", "tmpfs", "-o", "size=48m", "chaos-test", folder), check=False)
    if done.returncode != 0:
        pytest.skip("nothing can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(("umount", folder), check=True)


def test_a_disk_is_filled_down_to_its_floor_and_is_free_again(small_disk: Path) -> None:
    environment = make_environment(small_disk)
    substrate = ProcessSubstrate(environment)
    substrate.create_host(FLEET.hosts[0])
    stage = Stage(environment, substrate=substrate, fleet=FLEET)
    try:
        with Session.open(environment, stage=stage, fleet=FLEET) as session:
            with pytest.raises(Refused, match=r"more than most_mb=16: it may be everybody's disk"):
                session.begin(make_fault("disk-full", {"host": "a", "most_mb": 16}))
            with pytest.raises(BadFault, match=r"floor_mb: only \d+ MiB are free"):
                session.begin(make_fault("disk-full", {"host": "a", "floor_mb": 4000}))
            active = session.begin(make_fault("disk-full", {"host": "a", "floor_mb": 8}))
            assert active.effect.holds, active.effect
            room = os.statvfs(small_disk)
            assert room.f_bavail * room.f_frsize <= 9 << 20
            with pytest.raises(OSError, match="No space left"):
                (small_disk / "more").write_bytes(b"0" * (16 << 20))
            (small_disk / "more").unlink()
            outcome = session.end(active)
        assert outcome.whole, outcome
        room = os.statvfs(small_disk)
        assert room.f_bavail * room.f_frsize > 24 << 20
    finally:
        substrate.delete_host("a")
        substrate.sweep()
