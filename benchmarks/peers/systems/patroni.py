"""Patroni: PostgreSQL with a synchronous replica, the leader's key in an etcd of three members."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.peers.site import HOSTS, MAIN, WORKERS, Site
from benchmarks.peers.systems import WHOLE_S, ClientOrder, NotWhole, await_whole, until, workers_setting
from benchmarks.peers.systems.programs import Program, Programs
from infra.substrates.base import SubstrateError
from infra.substrates.census import identify, send, wait_gone
from infra.tools.paths import tool_path

POSTGRES_PORT, REST_PORT, ETCD_PORT, ETCD_PEER_PORT = 5432, 8008, 2379, 2380
TTL_S, LOOP_WAIT_S, RETRY_TIMEOUT_S = 20, 1, 3
"""The least that Patroni takes (its documentation, dynamic configuration: minimum possible values)."""
NOBODY = 65534
"""PostgreSQL refuses to run as root."""


class Patroni:
    """Synchronous mode, so that no acknowledged write is lost; a crashed primary fails over at once."""

    name = "patroni"

    def __init__(self, site: Site) -> None:
        self._site = site
        self._programs = Programs(site)

    def start(self) -> None:
        for host in HOSTS:
            self._etcd(host)
        until(lambda: all(self._etcd_healthy(host) for host in HOSTS), "etcd has a quorum", WHOLE_S)
        for host in WORKERS:
            folder = self._folder(host)
            for made in (folder, folder / "socket"):
                made.mkdir(mode=0o700)
                os.chown(made, NOBODY, NOBODY)
            conf = self._site.folder / f"{host}-patroni.yml"
            conf.write_text(json.dumps(self._configuration(host)))  # JSON is YAML
            conf.chmod(0o644)
        self._patroni(MAIN)
        until(lambda: self._is_primary(MAIN), "the first PostgreSQL is primary", WHOLE_S)
        self._create_table()
        for host in WORKERS:
            self._patroni(host)
        await_whole(self)

    def client(self, host: str) -> ClientOrder:
        settings = {
            "hosts": workers_setting(self._site),
            "port": str(POSTGRES_PORT),
            "dsn": "dbname=postgres user=postgres connect_timeout=2",
        }
        return ClientOrder(str(self._site.tools.python), "postgres", settings)

    def kill_process(self, host: str) -> None:
        """The postmaster; its children follow by themselves."""
        pid = int((self._folder(host) / "data" / "postmaster.pid").read_text().split()[0])
        process = identify(pid)
        if process is None or not send(process, signal.SIGKILL) or not wait_gone((process,), 5.0):
            raise SubstrateError(f"{host}/postgres", "its postmaster could not be killed", "see its log")

    def forget_power(self, host: str) -> None:
        """Nothing outlives its processes."""

    def revive(self, host: str) -> None:
        self._etcd(host)
        if host in WORKERS:
            self._patroni(host)

    def whole(self) -> bool:
        views = [json.loads(self._rest(host, "/cluster")[1])["members"] for host in WORKERS]
        for members in views:
            states = {member["role"]: member["state"] for member in members}
            if len(members) != len(WORKERS) or states != {"leader": "running", "sync_standby": "streaming"}:
                return False
        return all(self._etcd_healthy(host) for host in HOSTS)

    def _folder(self, host: str) -> Path:
        return self._site.folder / f"{host}-patroni"

    def _etcd(self, host: str) -> None:
        """With the timing of our own (infra/units.py), without TLS."""
        members = ",".join(f"{one}=http://{self._site.address(one)}:{ETCD_PEER_PORT}" for one in HOSTS)
        address = self._site.address(host)
        argv = (
            str(tool_path("etcd")),
            f"--name={host}",
            f"--data-dir={self._site.folder}/{host}-etcd",
            f"--listen-peer-urls=http://{address}:{ETCD_PEER_PORT}",
            f"--initial-advertise-peer-urls=http://{address}:{ETCD_PEER_PORT}",
            f"--listen-client-urls=http://{address}:{ETCD_PORT}",
            f"--advertise-client-urls=http://{address}:{ETCD_PORT}",
            f"--initial-cluster={members}",
            "--initial-cluster-state=new",
            *("--heartbeat-interval=50", "--election-timeout=500", "--log-level=error"),
        )
        self._programs.ensure(host, Program("etcd", argv))

    def _patroni(self, host: str) -> None:
        """As nobody, who may yet read the interpreter wherever it is."""
        argv = (
            *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
            *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
            *(str(self._site.tools.python), "-m", "patroni", f"{self._site.folder}/{host}-patroni.yml"),
        )
        env = {"LD_LIBRARY_PATH": self._site.tools.libraries, "HOME": str(self._folder(host))}
        self._programs.ensure(host, Program("patroni", argv, env))

    def _configuration(self, host: str) -> dict[str, Any]:
        address = self._site.address(host)
        network = address.rsplit(".", 1)[0] + ".0/24"
        folder = self._folder(host)
        return {
            "scope": "peers",
            "name": host,
            "restapi": {"listen": f"{address}:{REST_PORT}", "connect_address": f"{address}:{REST_PORT}"},
            "etcd3": {"hosts": [f"{self._site.address(one)}:{ETCD_PORT}" for one in HOSTS]},
            "bootstrap": {
                "dcs": {
                    "ttl": TTL_S,
                    "loop_wait": LOOP_WAIT_S,
                    "retry_timeout": RETRY_TIMEOUT_S,
                    "primary_start_timeout": 0,
                    "synchronous_mode": True,
                    "postgresql": {"use_pg_rewind": True, "use_slots": True},
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "data-checksums"],
            },
            "postgresql": {
                "listen": f"{address},127.0.0.1:{POSTGRES_PORT}",
                "connect_address": f"{address}:{POSTGRES_PORT}",
                "data_dir": str(folder / "data"),
                "bin_dir": str(self._site.tools.postgres),
                "pgpass": str(folder / "pgpass"),
                "authentication": {
                    "superuser": {"username": "postgres", "password": "peers"},
                    "replication": {"username": "replicator", "password": "peers"},
                    "rewind": {"username": "rewinder", "password": "peers"},
                },
                "pg_hba": [
                    "local all all trust",
                    "host all all 127.0.0.1/32 trust",
                    f"host all all {network} trust",
                    "host replication all 127.0.0.1/32 trust",
                    f"host replication all {network} trust",
                ],
                "parameters": {
                    "unix_socket_directories": str(folder / "socket"),
                    "shared_buffers": "32MB",
                    "max_connections": 50,
                    "wal_keep_size": "256MB",
                },
            },
        }

    def _create_table(self) -> None:
        """The marks of the clients, once there is a primary."""
        table = "CREATE TABLE IF NOT EXISTS marks (client text, n int, PRIMARY KEY (client, n))"
        dsn = f"host={self._site.address(MAIN)} port={POSTGRES_PORT} user=postgres dbname=postgres"
        program = "import psycopg, sys; psycopg.connect(sys.argv[1], autocommit=True).execute(sys.argv[2])"
        argv = [str(self._site.tools.python), "-c", program, dsn, table]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            raise NotWhole("patroni", f"the table was not made: {said}", "see the logs of its programs")

    def _is_primary(self, host: str) -> bool:
        return self._rest(host, "/primary")[0] == http.HTTPStatus.OK

    def _etcd_healthy(self, host: str) -> bool:
        return self._get(host, ETCD_PORT, "/health")[0] == http.HTTPStatus.OK

    def _rest(self, host: str, path: str) -> tuple[int, bytes]:
        return self._get(host, REST_PORT, path)

    def _get(self, host: str, port: int, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self._site.address(host), port, timeout=2)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except http.client.HTTPException as error:
            raise OSError(f"{host}:{port}{path}: {error!r}") from error
        finally:
            connection.close()
