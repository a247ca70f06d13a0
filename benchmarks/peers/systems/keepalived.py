"""keepalived: a virtual address by VRRP version 3, and the small server of `vip_server.py` behind it."""

from __future__ import annotations

import subprocess

from benchmarks.peers.site import WORKERS, Site
from benchmarks.peers.systems import ClientOrder, await_whole
from benchmarks.peers.systems.programs import Program, Programs, accepts

PORT = 7000
PRIORITY = {"mainpc": 101, "pc2": 100}

CONFIGURATION = """\
global_defs {{
    vrrp_version 3
    script_user root
    vrrp_garp_master_delay 1
}}
vrrp_script server {{
    script "{check}"
    interval {check_s:g}
    timeout 1
    fall 1
    rise 1
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
        server
    }}
}}
"""

CHECK = """\
#!/bin/bash
# The server takes connections.
exec 3<>/dev/tcp/127.0.0.1/{port}
"""


class Keepalived:
    """Two hosts share the address; the witness has no part in it, VRRP knows no third vote.

    `advert_s`: the interval of advertisements; a backup takes over after three of them and a bit. `check_s`:
    how often each host looks after its server.
    """

    def __init__(self, site: Site, name: str, *, advert_s: float, check_s: float) -> None:
        self.name = name
        self._site = site
        self._advert_s, self._check_s = advert_s, check_s
        self._programs = Programs(site)

    def start(self) -> None:
        check = self._site.folder / "check"
        check.write_text(CHECK.format(port=PORT))
        check.chmod(0o755)
        for host in WORKERS:
            (self._site.folder / f"{host}-keepalived.conf").write_text(
                CONFIGURATION.format(
                    check=check,
                    check_s=self._check_s,
                    advert_s=self._advert_s,
                    priority=PRIORITY[host],
                    virtual=self._site.virtual,
                )
            )
            self.revive(host)
        await_whole(self)

    def client(self, host: str) -> ClientOrder:
        return ClientOrder("python", "vip", {"address": self._site.virtual, "port": str(PORT)})

    def kill_process(self, host: str) -> None:
        self._programs.kill(host, "server")

    def forget_power(self, host: str) -> None:
        self._site.forget_address(host, self._site.virtual)

    def revive(self, host: str) -> None:
        if host not in WORKERS:
            return
        peer = next(other for other in WORKERS if other != host)
        server = ("python", "-m", "benchmarks.peers.vip_server", host, self._site.address(peer), str(PORT))
        self._programs.ensure(host, Program("server", server))
        files = f"{self._site.folder}/{host}-keepalived"
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

    def _logged_backup_or_master(self, host: str) -> bool:
        """Whether the last state that keepalived has told is one of a host that takes part."""
        log = self._site.folder / f"{host}-keepalived.log"
        told = subprocess.run(["tail", "-c", "65536", str(log)], capture_output=True, check=True, text=True)
        states = [line for line in told.stdout.splitlines() if "Entering" in line and "STATE" in line]
        return bool(states) and ("BACKUP" in states[-1] or "MASTER" in states[-1])
