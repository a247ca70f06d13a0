"""A stack of its own for each test: its name, its subnet, its folders; nothing of it stays afterwards."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.plan import Environment
from infra.substrates.network import NamespaceNetwork, choose
from infra.substrates.process import ProcessSubstrate

_numbers = itertools.count()

MakeEnvironment = Callable[..., Environment]


@pytest.fixture
def make_environment(tmp_path: Path) -> MakeEnvironment:
    """Makes environments whose names and subnets belong to this test process."""

    def make(network: str = "loopback", **changes: object) -> Environment:
        number = next(_numbers)
        settings: dict[str, object] = {
            "stack": f"t{os.getpid()}-{number}",
            "chaos": True,
            "fleet": "",
            "state_dir": str(tmp_path / "state"),
            "network": network,
            "subnet_index": 130 + (os.getpid() * 7 + number) % 120,
        }
        return Environment(**(settings | changes))  # type: ignore[arg-type]

    return make


@pytest.fixture
def opened() -> Iterator[Callable[[Environment], ProcessSubstrate]]:
    """Opens substrates; afterwards every host of theirs is deleted."""
    made: list[ProcessSubstrate] = []

    def open_(environment: Environment) -> ProcessSubstrate:
        made.append(ProcessSubstrate(environment))
        return made[-1]

    yield open_
    for substrate in made:
        for host in substrate._layout.host_names():
            substrate.delete_host(host)
        substrate.sweep()
        substrate.close()


def namespaces_possible() -> bool:
    """Whether this machine lets us make network namespaces."""
    return isinstance(choose("auto", "t-probe", 0), NamespaceNetwork)


@pytest.fixture(params=["loopback", "namespace"])
def network(request: pytest.FixtureRequest) -> str:
    """Both ways to give hosts addresses, where both are possible."""
    if request.param == "namespace" and not namespaces_possible():
        pytest.skip("network namespaces need root")
    return str(request.param)
