from __future__ import annotations

from pathlib import Path

import pytest

from infra.plan import Environment, NetworkMode
from infra.substrates import links
from infra.substrates import network as module
from infra.substrates.base import Capability, SubstrateError
from infra.substrates.layout import Layout, check_run_folder
from infra.substrates.network import LoopbackNetwork, NamespaceNetwork, choose
from infra.substrates.process import ProcessSubstrate
from tests.substrate.conftest import MakeEnvironment


@pytest.mark.parametrize(
    ("wanted", "obstacle", "kind"),
    [
        ("auto", None, NamespaceNetwork),
        ("auto", "only root may make them", LoopbackNetwork),
        ("loopback", None, LoopbackNetwork),
        ("namespace", None, NamespaceNetwork),
    ],
)
def test_auto_takes_namespaces_when_it_may(
    monkeypatch: pytest.MonkeyPatch, wanted: str, obstacle: str | None, kind: type
) -> None:
    monkeypatch.setattr(module, "_obstacle", lambda: obstacle)
    assert isinstance(choose(wanted, "t", 3), kind)


@pytest.mark.parametrize(
    ("wanted", "index", "what"),
    [
        ("namespace", 1, "only root"),
        ("bridge", 1, "no network 'bridge'"),
        ("auto", 256, "0 to 255"),
        ("auto", -1, "0 to 255"),
    ],
)
def test_what_cannot_be_had_is_said(
    monkeypatch: pytest.MonkeyPatch, wanted: str, index: int, what: str
) -> None:
    monkeypatch.setattr(module, "_obstacle", lambda: "only root may make them")
    with pytest.raises(SubstrateError, match=what):
        choose(wanted, "t", index)


ALL_CAN = {Capability.KILL_HOST, Capability.FREEZE_HOST}
CAN_CUT = {*ALL_CAN, Capability.CUT_LINKS, Capability.LOSE_PACKETS}


@pytest.mark.parametrize(
    ("wanted", "obstacle", "kernel", "can"),
    [
        ("auto", None, True, CAN_CUT),
        ("auto", None, False, ALL_CAN),
        ("auto", "only root may make them", True, ALL_CAN),
        ("loopback", None, True, ALL_CAN),
        ("namespace", None, True, CAN_CUT),
    ],
)
def test_a_stack_that_is_down_tells_what_it_could_do(
    make_environment: MakeEnvironment,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    wanted: str,
    obstacle: str | None,
    kernel: bool,
    can: set[Capability],
) -> None:
    monkeypatch.setattr(module, "_obstacle", lambda: obstacle)
    monkeypatch.setattr(links, "possible", lambda: kernel)
    assert ProcessSubstrate(make_environment(wanted)).capabilities() == can
    assert list(tmp_path.iterdir()) == [], "asking decides nothing"


def test_a_network_that_cannot_be_had_tells_no_capabilities(
    make_environment: MakeEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_obstacle", lambda: "only root may make them")
    with pytest.raises(SubstrateError, match="no network namespaces: only root may make them"):
        ProcessSubstrate(make_environment("namespace")).capabilities()


def test_every_capability_says_where_it_is_had() -> None:
    assert all(capability.where.startswith("hosts ") for capability in Capability)


@pytest.mark.parametrize("kind", [LoopbackNetwork, NamespaceNetwork])
def test_every_host_has_its_own_address(kind: type) -> None:
    network = kind("t", 7)
    addresses = [network.address(index) for index in range(244)]
    assert len(set(addresses)) == 244
    assert addresses[0].endswith(".77.7.11")
    for index in (-1, 244):
        with pytest.raises(SubstrateError, match="244 hosts"):
            network.address(index)


def test_local_addresses() -> None:
    assert NamespaceNetwork("t", 7).local(2) == "127.0.0.1"
    assert LoopbackNetwork("t", 7).local(2) == LoopbackNetwork("t", 7).address(2)
    assert LoopbackNetwork("t", 7).mode is NetworkMode.LOOPBACK


def test_names_of_links_fit_the_kernel_and_differ() -> None:
    names = {NamespaceNetwork(stack, 1)._veth(host) for stack in ("a", "b") for host in ("c" * 63, "d")}
    assert len(names) == 4
    assert all(len(name) <= 15 for name in names | {NamespaceNetwork("e" * 63, 1).bridge})


@pytest.mark.parametrize(
    "state_dir", ["relative/path", "/with space", "/with;sign", "/with%sign", "/with'quote"]
)
def test_a_state_directory_that_breaks_servers_is_refused(state_dir: str) -> None:
    with pytest.raises(SubstrateError):
        Layout(Environment(stack="t", fleet="", state_dir=state_dir))


def test_a_run_folder_must_leave_room_for_sockets() -> None:
    check_run_folder(Path("/run/threenines/local/mainpc"))
    with pytest.raises(SubstrateError, match="107"):
        check_run_folder(Path("/run/user/1000/threenines") / ("s" * 20) / ("h" * 20))
