"""Clients on the hosts, and what they have said so far: to be waited for instead of being looked at."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Sequence

import msgspec

from benchmarks.peers.client import PERIOD_S, READ_LIMIT_S
from benchmarks.peers.records import Operation
from benchmarks.peers.site import HOSTS, WITNESS, Site
from benchmarks.peers.systems import ClientOrder, System

STEADY = 12
"""So many acknowledged writes in a row by one server on every host make a steady start."""
END_S = 5.0


class Traffic:
    """A client on every host; use as a context manager. `prefix` makes the names of its sets its own."""

    def __init__(self, site: Site, system: System, prefix: str) -> None:
        self._site, self._system, self._prefix = site, system, prefix
        self._clients: dict[str, subprocess.Popen[bytes]] = {}
        self._readers: list[threading.Thread] = []
        self._said: list[Operation] = []
        self._changed = threading.Condition()

    def name(self, host: str) -> str:
        """The client on `host`."""
        return f"{self._prefix}-{host}"

    def __enter__(self) -> Traffic:
        for place, host in enumerate(HOSTS):
            order = {"client": self.name(host), "offset_s": PERIOD_S * place / len(HOSTS)}
            client = _start(self._site, host, self._system.client(host), order)
            self._clients[host] = client
            reader = threading.Thread(target=self._read, args=(client,), daemon=True)
            reader.start()
            self._readers.append(reader)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends every client that lives; what they said is complete then."""
        for client in self._clients.values():
            assert client.stdin is not None
            client.stdin.close()
        for client in self._clients.values():
            try:
                client.wait(END_S)
            except subprocess.TimeoutExpired:
                client.kill()
                client.wait()
        for reader in self._readers:
            reader.join(END_S)
        self._clients.clear()

    def operations(self) -> list[Operation]:
        """Everything said so far."""
        with self._changed:
            return list(self._said)

    def wait(self, done: Callable[[Sequence[Operation]], bool], limit_s: float) -> bool:
        """Waits until `done` of everything said so far; False when the time is over."""
        end = time.monotonic() + limit_s
        with self._changed:
            while not done(self._said):
                left = end - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
            return True

    def steady_server(self, hosts: Sequence[str], limit_s: float) -> str | None:
        """The host that has served the last writes of the clients on `hosts`, None when it did not settle."""
        begun, found = len(self.operations()), None

        def steady(said: Sequence[Operation]) -> bool:
            nonlocal found
            found = _server(said[begun:], [self.name(host) for host in hosts])
            return found is not None

        self.wait(steady, limit_s)
        return found

    def _read(self, client: subprocess.Popen[bytes]) -> None:
        assert client.stdout is not None
        for line in client.stdout:
            if not line.endswith(b"\n"):
                break  # killed in the middle of it
            one = msgspec.json.decode(line, type=Operation)
            with self._changed:
                self._said.append(one)
                self._changed.notify_all()


def _server(said: Sequence[Operation], clients: Sequence[str]) -> str | None:
    servers = set()
    for client in clients:
        mine = [one for one in said if one.client == client][-STEADY:]
        if len(mine) < STEADY or not all(one.ok for one in mine):
            return None
        servers |= {one.server for one in mine}
    return servers.pop() if len(servers) == 1 else None


def read_kept(site: Site, system: System, clients: Sequence[str]) -> dict[str, set[int]] | None:
    """What the system holds of the clients' sets, asked on the witness; None when it does not answer."""
    reader = _start(site, WITNESS, system.client(WITNESS), {"read": list(clients)})
    assert reader.stdin is not None
    try:
        output, _ = reader.communicate(timeout=READ_LIMIT_S + 10)
    except subprocess.TimeoutExpired:
        reader.kill()
        reader.communicate()
        return None
    kept: dict[str, set[int]] = {}
    for line in output.splitlines():
        answer = json.loads(line)
        kept[answer["client"]] = set(answer["kept"])
    return kept if set(kept) == set(clients) else None


def _start(site: Site, host: str, how: ClientOrder, order: dict[str, object]) -> subprocess.Popen[bytes]:
    told = json.dumps({"system": how.register, "settings": dict(how.settings), **order})
    argv = (how.python, "-m", "benchmarks.peers.client", told)
    return site.spawn(host, argv, name="client", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
