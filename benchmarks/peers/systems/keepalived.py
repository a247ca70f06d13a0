"""keepalived: a virtual address by VRRP version 3, and the small server of `vip_server.py` behind it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from benchmarks.peers.site import WORKERS, Site
from benchmarks.peers.systems import ClientOrder, await_whole
from benchmarks.peers.systems.programs import Program, Programs, accepts
from infra.substrates.base import SubstrateError
from infra.substrates.census import identify, send, wait_gone

PORT = 7000
PRIORITY = {"mainpc": 101, "pc2": 100}

CONFIGURATION = """\
global_defs {{
    vrrp_version 3
    script_user root
    vrrp_rt_priority 50
    vrrp_no_swap
    vrrp_garp_master_delay 1
}}
vrrp_script answers {{
    script "{check}"
    interval 1
    timeout 1
    fall 1
    rise 1
}}
track_file ended {{
    file "{ended}"
    weight 0
}}
vrrp_instance service {{
    state BACKUP
    nopreempt
    interface eth0
    virtual_router_id 51
    priority {priority}
    advert_int {advert_s:g}
    virtual_ipaddress {{
        {virtual}/24
    }}
    track_script {{
        answers
    }}
{track_file}}}
"""
"""A script is run once a second at the most often. A tracked file is seen at once (inotify)."""

TRACK_FILE = """\
    track_file {
        ended
    }
"""

CHECK = """\
#!/bin/bash
# The server takes connections.
exec 3<>/dev/tcp/127.0.0.1/{port}
"""

SUPERVISE = 'echo 0 > "$0"; "$@" & echo $! > "$0.pid"; wait; echo 1 > "$0"'
"""What an init system would do for the tracked file: says in it whether the server has ended."""


class Keepalived:
    """Two hosts share the address; the witness has no part in it, VRRP knows no third vote.

    `advert_s`: the interval of advertisements; a backup takes over after three of them and a bit. `told`:
    whether keepalived is told of the server's end, besides looking after it once a second.
    """

    def __init__(self, site: Site, name: str, *, advert_s: float, told: bool) -> None:
        self.name = name
        self._site = site
        self._advert_s, self._told = advert_s, told
        self._programs = Programs(site)

    def start(self) -> None:
        check = self._site.folder / "check"
        check.write_text(CHECK.format(port=PORT))
        check.chmod(0o755)
        for host in WORKERS:
            (self._site.folder / f"{host}-keepalived.conf").write_text(
                CONFIGURATION.format(
                    check=check,
                    ended=self._ended(host),
                    track_file=TRACK_FILE if self._told else "",
                    advert_s=self._advert_s,
                    priority=PRIORITY[host],
                    virtual=self._site.virtual,
                )
            )
            self._ended(host).write_text("0\n")
            self.revive(host)
        await_whole(self)

    def client(self, host: str) -> ClientOrder:
        return ClientOrder("python", "vip", {"address": self._site.virtual, "port": str(PORT)})

    def kill_process(self, host: str) -> None:
        process = identify(int(self._ended(host).with_name(f"{host}-ended.pid").read_text()))
        if process is None or not send(process, signal.SIGKILL) or not wait_gone((process,), 5.0):
            raise SubstrateError(f"{host}/server", "it could not be killed", "see its log")

    def forget_power(self, host: str) -> None:
        self._site.forget_address(host, self._site.virtual)

    def revive(self, host: str) -> None:
        if host not in WORKERS:
            return
        peer = next(other for other in WORKERS if other != host)
        server = (
            sys.executable,
            "-m",
            "benchmarks.peers.vip_server",
            host,
            self._site.address(peer),
            str(PORT),
        )
        supervised = ("/bin/sh", "-c", SUPERVISE, str(self._ended(host)), *server)
        self._programs.ensure(host, Program("server", supervised))
        files = f"{self._site.folder}/{host}-keepalived"
        if not self._programs.runs(host, "keepalived"):
            for suffix in (".pid", "-vrrp.pid"):  # keepalived takes one that nobody has reaped for running
                Path(files + suffix).unlink(missing_ok=True)
        argv = (
            str(self._site.tools.keepalived),
            *("--dont-fork", "--log-console", "--vrrp", "--use-file", f"{files}.conf"),
            *("--pid", f"{files}.pid", "--vrrp_pid", f"{files}-vrrp.pid"),
        )
        libraries = {"LD_LIBRARY_PATH": self._site.tools.libraries}
        self._programs.ensure(host, Program("keepalived", argv, libraries))

    def whole(self) -> bool:
        having = [host for host in WORKERS if self._site.virtual in self._site.addresses(host)]
        return (
            len(having) == 1
            and all(self._programs.runs(host, "keepalived") for host in WORKERS)
            and all(accepts(self._site.address(host), PORT) for host in WORKERS)
            and all(self._logged_backup_or_master(host) for host in WORKERS)
        )

    def _ended(self, host: str) -> Path:
        """The file that keepalived tracks; beside it, as `.pid`, the server's process."""
        return self._site.folder / f"{host}-ended"

    def _logged_backup_or_master(self, host: str) -> bool:
        """Whether the last state that keepalived has told is one of a host that takes part."""
        log = self._site.folder / f"{host}-keepalived.log"
        told = subprocess.run(["tail", "-c", "65536", str(log)], capture_output=True, check=True, text=True)
        states = [line for line in told.stdout.splitlines() if "Entering" in line and "STATE" in line]
        return bool(states) and ("BACKUP" in states[-1] or "MASTER" in states[-1])
