"""The packet filters against a small interpreter of classic BPF, and what they do to real connections."""

from __future__ import annotations

import ipaddress
import os
import signal
import struct
import subprocess
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.plan import Environment
from infra.substrates import links
from infra.substrates.base import Capability, Cut, Direction, SubstrateError
from infra.substrates.census import identify
from infra.substrates.process import ProcessSubstrate
from infra.topology import HostSpec
from tests.substrate import traces
from tests.substrate.conftest import MakeEnvironment, namespaces_possible

Open = Callable[[Environment], ProcessSubstrate]
ONE_WAY = (Direction.OUTGOING, Direction.INCOMING)
addresses = st.ip_addresses(v=4).map(str)
shares = st.one_of(st.just(1.0), st.floats(min_value=1e-9, max_value=0.999999))


def frame(source: str, destination: str, ethertype: int = 0x0800) -> bytes:
    ip = bytearray(20)
    ip[12:16] = ipaddress.IPv4Address(source).packed
    ip[16:20] = ipaddress.IPv4Address(destination).packed
    return bytes(12) + struct.pack(">H", ethertype) + bytes(ip)


def interpret(program: tuple[links.Instruction, ...], packet: bytes, word: int) -> int:
    """Classic BPF as the kernel's documentation has it, as far as the filters use it."""
    accumulator, at = 0, 0
    while True:
        code, true, false, k = program[at]
        at += 1
        match code:
            case 0x28:
                accumulator = struct.unpack_from(">H", packet, k)[0]
            case 0x20:
                accumulator = word if k == 0xFFFFF038 else struct.unpack_from(">I", packet, k)[0]
            case 0x15:
                at += true if accumulator == k else false
            case 0x25:
                at += true if accumulator > k else false
            case 0x06:
                return k


@given(
    direction=st.sampled_from(ONE_WAY),
    peer=st.none() | addresses,
    share=shares,
    word=st.integers(0, 2**32 - 1),
    source=addresses,
    destination=addresses,
    ethertype=st.sampled_from((0x0800, 0x0806, 0x86DD)),
    hit=st.booleans(),
)
def test_a_filter_drops_exactly_its_packets(
    direction: Direction,
    peer: str | None,
    share: float,
    word: int,
    source: str,
    destination: str,
    ethertype: int,
    hit: bool,
) -> None:
    if hit and peer is not None:
        source, destination = (peer, destination) if direction is Direction.INCOMING else (source, peer)
    other = source if direction is Direction.INCOMING else destination
    aimed = ethertype == 0x0800 and peer in (None, other)
    unlucky = share == 1 or word < max(1, round(share * 2**32))
    verdict = interpret(links.program(direction, peer, share), frame(source, destination, ethertype), word)
    assert verdict == (2 if aimed and unlucky else 0xFFFFFFFF)


@given(direction=st.sampled_from(ONE_WAY), peer=st.none() | addresses, share=shares)
def test_a_filter_can_be_read_back(direction: Direction, peer: str | None, share: float) -> None:
    text = links.encode(links.program(direction, peer, share))
    found, read = links.decode(text, direction)
    assert found == peer
    assert read == pytest.approx(share, abs=2**-32)
    assert links.encode(links.program(direction, found, read)) == text


@pytest.mark.parametrize("text", ["1,6 0 0 2", "2,6 0 0 2,6 0 0 4294967295 ", "3,1 2 3 4,5 6 7 8,9 9 9 9"])
def test_a_strange_filter_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"ours|zip"):
        links.decode(text, Direction.INCOMING)


@pytest.mark.parametrize("share", [0.0, -1.0, 1.1, float("nan")])
def test_a_share_is_a_share(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        links.program(Direction.INCOMING, None, share)


ECHO = """
import os, socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((os.environ["THREENINES_ADDRESS"], 9000))
print("ready", flush=True)
while True:
    data, who = s.recvfrom(100); s.sendto(data, who)
"""
ASK = """
import json, socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(0.3)
n = int(sys.argv[2])
for i in range(n):
    s.sendto(b"%d" % i, (sys.argv[1], 9000))
got = 0
try:
    while got < n:
        s.recv(100); got += 1
except TimeoutError:
    pass
print(got)
"""


@pytest.fixture
def pair(make_environment: MakeEnvironment, opened: Open) -> ProcessSubstrate:
    if not namespaces_possible():
        pytest.skip("network namespaces need root")
    substrate = opened(make_environment("namespace"))
    for name in ("a", "b", "c"):
        substrate.create_host(HostSpec(name=name))
    if Capability.CUT_LINKS not in substrate.capabilities():
        pytest.skip("this kernel has no BPF classifier")
    return substrate


def echo(substrate: ProcessSubstrate, host: str) -> subprocess.Popen[bytes]:
    program = substrate.spawn(host, ("python", "-S", "-c", ECHO), stdout=subprocess.PIPE)
    assert program.stdout is not None
    assert program.stdout.readline() == b"ready\n"
    return program


def answers(substrate: ProcessSubstrate, host: str, to: str, count: int = 5) -> int:
    argv = ("python", "-S", "-c", ASK, substrate.address(to), str(count))
    done, _ = substrate.spawn(host, argv, stdout=subprocess.PIPE).communicate(timeout=30)
    return int(done)


@pytest.mark.live
def test_links_are_cut_silently_by_peer_and_way_and_mended(pair: ProcessSubstrate) -> None:
    for host in ("b", "c"):
        echo(pair, host)
    assert (answers(pair, "a", "b"), answers(pair, "a", "c")) == (5, 5)
    pair.cut("a", "b")
    assert (answers(pair, "a", "b"), answers(pair, "a", "c")) == (0, 5)
    assert set(pair.cuts("a")) == {Cut(peer="b", direction=one) for one in ONE_WAY}
    assert pair.cuts("b") == ()
    pair.mend_links("a")
    assert answers(pair, "a", "b") == 5

    pair.cut("b", None, Direction.INCOMING)
    pair.cut("b", None, Direction.INCOMING)
    assert pair.cuts("b") == (Cut(peer=None, direction=Direction.INCOMING),)
    assert (answers(pair, "a", "b"), answers(pair, "c", "b")) == (0, 0)
    pair.cut("c", "a", Direction.OUTGOING)
    pair.mend_links()
    assert [pair.cuts(host) for host in ("a", "b", "c")] == [(), (), ()]
    assert (answers(pair, "a", "b"), answers(pair, "a", "c")) == (5, 5)

    pair.cut("c", share=0.5)
    assert [cut.share for cut in pair.cuts("c")] == [pytest.approx(0.5)] * 2
    assert 5 < answers(pair, "a", "c", 100) < 60  # a quarter comes through: both ways lose a half
    with pytest.raises(SubstrateError, match="its own peer"):
        pair.cut("a", "a")
    with pytest.raises(SubstrateError, match="no such host"):
        pair.cut("a", "nobody")


@pytest.mark.live
def test_a_cut_stays_over_a_restart_and_goes_with_the_host(pair: ProcessSubstrate) -> None:
    pair.cut("a")
    pair.kill_host("a")
    pair.restart_host("a")
    assert len(pair.cuts("a")) == 2
    pair.delete_host("a")
    pair.create_host(HostSpec(name="a"))
    assert pair.cuts("a") == ()
    pair.mend_links()


@pytest.mark.live
def test_loopback_hosts_have_no_link_to_cut(make_environment: MakeEnvironment, opened: Open) -> None:
    substrate = opened(make_environment("loopback"))
    substrate.create_host(HostSpec(name="a"))
    assert substrate.capabilities() == {Capability.KILL_HOST, Capability.FREEZE_HOST}
    with pytest.raises(SubstrateError, match="cannot be cut here"):
        substrate.cut("a")
    substrate.mend_links()
    assert substrate.cuts("a") == ()


COUNT = """
import os, signal, sys, time
signal.signal(signal.SIGINT, lambda *a: None)
if os.fork() == 0:
    os.setsid()
    child = os.fork()
    if child == 0:
        time.sleep(900)
    print(child, flush=True)
    os._exit(0)
os.wait()
while True:
    print(time.monotonic(), flush=True); time.sleep(0.01)
"""


def state_of(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        return file.read().rpartition(")")[2].split()[0]


@pytest.mark.live
def test_a_frozen_host_stands_still_and_goes_on(
    network: str, make_environment: MakeEnvironment, opened: Open
) -> None:
    substrate = opened(make_environment(network))
    substrate.create_host(HostSpec(name="a"))
    program = substrate.spawn("a", ("python", "-S", "-c", COUNT), stdout=subprocess.PIPE)
    assert program.stdout is not None
    int(program.stdout.readline())
    substrate.freeze_host("a")
    found = substrate.inspect_host("a")
    assert found is not None
    assert (found.running, found.frozen) == (False, True)
    os.set_blocking(program.stdout.fileno(), False)
    while program.stdout.read():
        pass
    os.set_blocking(program.stdout.fileno(), True)
    substrate.freeze_host("a")
    substrate.thaw_host("a")
    assert float(program.stdout.readline()) > 0
    substrate.thaw_host("a")
    back = substrate.inspect_host("a")
    assert back is not None
    assert (back.running, back.frozen) == (True, False)

    substrate.freeze_host("a")
    substrate.kill_host("a")
    substrate.restart_host("a")  # a frozen group would hold the new supervisor
    again = substrate.inspect_host("a")
    assert again is not None
    assert again.running


@pytest.mark.live
def test_freezing_without_a_control_group(
    make_environment: MakeEnvironment, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.substrates.stack.group_base", lambda stack: None)
    substrate = opened(make_environment("loopback"))
    substrate.create_host(HostSpec(name="a"))
    program = substrate.spawn("a", ("python", "-S", "-c", COUNT), stdout=subprocess.PIPE)
    assert program.stdout is not None
    child = int(program.stdout.readline())
    substrate.freeze_host("a")
    assert (state_of(program.pid), state_of(child)) == ("T", "T")
    found = substrate.inspect_host("a")
    assert found is not None
    assert (found.running, found.frozen) == (False, True)
    substrate.thaw_host("a")
    assert state_of(child) in ("R", "S")
    substrate.kill_host("a")
    program.wait(10)


@pytest.mark.live
def test_killing_a_host_catches_sessions_of_their_own(
    network: str, make_environment: MakeEnvironment, opened: Open
) -> None:
    environment = make_environment(network)
    substrate = opened(environment)
    substrate.create_host(HostSpec(name="a"))
    program = substrate.spawn("a", ("python", "-S", "-c", COUNT), stdout=subprocess.PIPE)
    assert program.stdout is not None
    child = identify(int(program.stdout.readline()))
    assert child is not None
    assert child.pid != program.pid
    substrate.kill_host("a")
    assert identify(child.pid) != child
    assert program.wait(10) == -signal.SIGKILL
    assert not traces.processes(environment.stack)
