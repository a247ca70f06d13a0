"""What acknowledges writes in the comparison: the measured agent, the small server behind the address."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.peers import command, vip_server
from benchmarks.peers.register_agent import Mark, RegisterAgent, Whose
from benchmarks.peers.registers import hosts_of, open_register
from benchmarks.peers.vip_server import Replica
from infra.topology import AgentSpec
from services.agent.state import MemoryState


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.sampled_from(["a", "a/b", "b"]), st.integers(1, 200)), max_size=60))
def test_the_agent_keeps_every_number_that_it_acknowledged(marks: list[tuple[str, int]]) -> None:
    async def run() -> None:
        spec = AgentSpec(name="register", home="mainpc", category="bench", handler="m:C")
        state = MemoryState()
        agent = RegisterAgent(spec, state=state)
        await asyncio.gather(*(agent.add(Mark(client, n)) for client, n in marks))
        heir = RegisterAgent(spec, state=state)
        for client in {client for client, _ in marks}:
            assert await heir.kept(Whose(client)) == sorted({n for name, n in marks if name == client})

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THREENINES_HOST", "mainpc")
        asyncio.run(run())


def free_port() -> int:
    """Free on both loopback addresses that the replicas use."""
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        port = int(first.getsockname()[1])
        second.bind(("127.0.0.2", port))
        return port


async def test_a_replica_has_what_the_other_acknowledged_and_catches_up_when_it_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A peer that is slow because the machine is busy is not what this is about.
    monkeypatch.setattr(vip_server, "PEER_S", 10.0)
    monkeypatch.setattr(vip_server, "CATCH_UP_S", 10.0)
    monkeypatch.setattr(vip_server, "RETRY_S", 0.0)
    port = free_port()
    async with AsyncExitStack() as stack:

        async def serve(name: str, address: str, peer: str) -> asyncio.Server:
            replica = Replica(name, peer, port)
            await replica.catch_up()
            return await stack.enter_async_context(await asyncio.start_server(replica.serve, address, port))

        places = [{"address": address, "port": str(port)} for address in ("127.0.0.1", "127.0.0.2")]
        first, second = (open_register("vip", one) for one in places)
        stack.push_async_callback(first.drop)
        await serve("one", "127.0.0.1", "127.0.0.2")
        assert await first.add("a", 1) == "one"  # the peer is not there yet, and does not hold it up
        await serve("two", "127.0.0.2", "127.0.0.1")
        assert await second.kept("a") == {1}
        assert await second.add("a", 2) == "two"
        assert await first.kept("a") == {1, 2}
        await second.drop()


async def test_a_replica_gets_later_what_was_acknowledged_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vip_server, "PEER_S", 10.0)
    monkeypatch.setattr(vip_server, "RETRY_S", 0.0)
    port = free_port()
    async with AsyncExitStack() as stack:
        first, second = Replica("one", "127.0.0.2", port), Replica("two", "127.0.0.1", port)
        await stack.enter_async_context(await asyncio.start_server(first.serve, "127.0.0.1", port))
        one, two = (
            open_register("vip", {"address": address, "port": str(port)})
            for address in ("127.0.0.1", "127.0.0.2")
        )
        assert await one.add("a", 1) == "one"
        await stack.enter_async_context(await asyncio.start_server(second.serve, "127.0.0.2", port))
        assert await one.add("a", 2) == "one"
        assert await two.kept("a") == {1, 2}
        await one.drop()
        await two.drop()


def test_settings_name_hosts_by_address() -> None:
    assert hosts_of({"hosts": "10.0.0.1=mainpc,10.0.0.2=pc2"}) == {"10.0.0.1": "mainpc", "10.0.0.2": "pc2"}
    with pytest.raises(ValueError, match="no register"):
        open_register("paper", {})


@pytest.mark.parametrize(
    "arguments", [["--trials", "0"], ["--system", "heartbeat"], ["--kind", "flood"], ["--seconds", "3"]]
)
def test_wrong_use_is_64(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(arguments) == 64
    assert "usage" in capsys.readouterr().err


def test_a_report_of_nothing_is_undecided(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pathlib import Path

    assert isinstance(tmp_path, Path)
    monkeypatch.setattr(command, "TRIALS_OUT", tmp_path / "peers.jsonl")
    written: list[object] = []
    monkeypatch.setattr(command, "write", written.append)
    assert command.main(["--run", "none", "--report"]) == 2
    assert "225 to go" in capsys.readouterr().err
    assert written == []
