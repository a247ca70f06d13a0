"""Addresses for hosts of one machine: a network namespace each on a bridge, or a loopback address each.

Namespaces: `3n-<stack>-<host>`, one veth pair each, on a bridge whose root side is 10.77.<index>.1; hosts are
.11, .12, … in the fleet's order. Loopback: 127.77.<index>.11, .12, …. Names of links are hashes of stack and
host, so that a sweep touches nothing else; their alias tells people. (ip-netns(8), ip-link(8))
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Protocol

from infra.plan import NetworkMode
from infra.substrates.base import SubstrateError
from infra.substrates.files import explained

FIRST_HOST = 11
LAST_HOST = 254
NETNS_FOLDER = Path("/run/netns")
TCP_RTO_MAX_MS = 1000
"""Longest pause between two retransmissions; the least that Linux allows."""

_INSIDE = (
    "v6=/proc/sys/net/ipv6/conf/all/disable_ipv6; [ ! -e $v6 ] || echo 1 > $v6; "
    "echo '0 2147483647' > /proc/sys/net/ipv4/ping_group_range; "
    f"rto=/proc/sys/net/ipv4/tcp_rto_max_ms; [ ! -e $rto ] || echo {TCP_RTO_MAX_MS} > $rto"
)
"""In every namespace: no IPv6 (one address a host), ICMP echo for programs without privileges, and on Linux
6.13 or newer connections that are tried again soon after a cut, not after as long again as it has lasted."""


class Network(Protocol):
    """How hosts get their addresses. Every method raises SubstrateError."""

    mode: NetworkMode

    def address(self, index: int) -> str:
        """The address of the host at place `index`, on the link between hosts."""
        ...

    def local(self, index: int) -> str:
        """The address for programs on that host only."""
        ...

    def enter(self, host: str) -> tuple[str, ...]:
        """What to put before a command line, so that it runs in the host's network."""
        ...

    def namespace(self, host: str) -> Path | None:
        """The file that stands for the host's network namespace, None where it has none."""
        ...

    def link(self, host: str) -> str | None:
        """The link outside the host through which all its packets go, None where it has none."""
        ...

    def ensure(self, host: str, index: int) -> None:
        """Makes the host's network; what is there already stays."""
        ...

    def remove(self, host: str) -> tuple[str, ...]:
        """Removes the host's network; says what there was."""
        ...

    def remove_shared(self) -> tuple[str, ...]:
        """Removes what the hosts share, after the last one."""
        ...

    def leftovers(self) -> tuple[str, ...]:
        """Names of hosts of this stack that have a network on this machine."""
        ...


class LoopbackNetwork:
    """An address of 127.77.<subnet_index>.0/24 for each host: Linux serves all of 127/8 without set-up."""

    mode = NetworkMode.LOOPBACK

    def __init__(self, stack: str, subnet_index: int) -> None:
        self.stack = stack
        self.subnet_index = subnet_index

    def address(self, index: int) -> str:
        return f"127.77.{self.subnet_index}.{_place(index)}"

    def local(self, index: int) -> str:
        return self.address(index)

    def enter(self, host: str) -> tuple[str, ...]:
        return ()

    def namespace(self, host: str) -> Path | None:
        return None

    def link(self, host: str) -> str | None:
        return None

    def ensure(self, host: str, index: int) -> None:
        """Nothing to make."""

    def remove(self, host: str) -> tuple[str, ...]:
        return ()

    def remove_shared(self) -> tuple[str, ...]:
        return ()

    def leftovers(self) -> tuple[str, ...]:
        return ()


class NamespaceNetwork:
    """A network namespace for each host, and one bridge. Needs root and `ip` (iproute2)."""

    mode = NetworkMode.NAMESPACE

    def __init__(self, stack: str, subnet_index: int) -> None:
        self.stack = stack
        self.subnet_index = subnet_index
        self.bridge = "3nb" + _short(stack)
        self.alias = f"threenines:{stack}"
        self.prefix = f"3n-{stack}-"

    def address(self, index: int) -> str:
        return f"10.77.{self.subnet_index}.{_place(index)}"

    def local(self, index: int) -> str:
        return "127.0.0.1"

    def enter(self, host: str) -> tuple[str, ...]:
        return (tool_of("nsenter"), f"--net={self.namespace(host)}")

    def namespace(self, host: str) -> Path:
        return NETNS_FOLDER / f"{self.prefix}{host}"

    def link(self, host: str) -> str:
        return self._veth(host)

    def ensure(self, host: str, index: int) -> None:
        self._ensure_bridge()
        name, path = self.namespace(host).name, self.namespace(host)
        if path.exists() and not self._healthy(host, index):
            self.remove(host)
        if path.exists():
            return
        veth = self._veth(host)
        _ip("netns", "add", name)
        _ip("-n", name, "link", "set", "lo", "up")
        run_tool((*self.enter(host), "/bin/sh", "-c", _INSIDE), f"namespace {name}")
        _ip("link", "add", veth, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", "dev", veth, "alias", self.alias)
        _without_ipv6(veth)
        _ip("link", "set", "dev", veth, "master", self.bridge, "up")
        _ip("-n", name, "address", "add", f"{self.address(index)}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "dev", "eth0", "up")

    def remove(self, host: str) -> tuple[str, ...]:
        found = []
        veth, path = self._veth(host), self.namespace(host)
        if veth in self._links():
            _ip("link", "delete", "dev", veth)
            found.append(f"link {veth}")
        if path.exists():
            _ip("netns", "delete", path.name)
            found.append(f"namespace {path.name}")
        return tuple(found)

    def remove_shared(self) -> tuple[str, ...]:
        found = []
        if self.bridge in self._links():
            _ip("link", "delete", "dev", self.bridge)
            found.append(f"bridge {self.bridge}")
        _unmount_if_empty(NETNS_FOLDER)
        return tuple(found)

    def leftovers(self) -> tuple[str, ...]:
        if not NETNS_FOLDER.is_dir():
            return ()
        return tuple(sorted(p.name.removeprefix(self.prefix) for p in NETNS_FOLDER.glob(f"{self.prefix}*")))

    def _ensure_bridge(self) -> None:
        mine = f"10.77.{self.subnet_index}.1"
        for link, addresses in _addresses().items():
            if link != self.bridge and mine in addresses:
                raise SubstrateError(
                    f"stack {self.stack}",
                    f"its subnet 10.77.{self.subnet_index}.0/24 is taken by the link {link}",
                    "choose another subnet_index, or bring that stack down",
                )
        if self.bridge not in self._links():
            _ip("link", "add", self.bridge, "type", "bridge")
            _ip("link", "set", "dev", self.bridge, "alias", self.alias)
            _without_ipv6(self.bridge)
        if mine not in _addresses().get(self.bridge, ()):
            _ip("address", "flush", "dev", self.bridge)
            _ip("address", "add", f"{mine}/24", "dev", self.bridge)
        _ip("link", "set", "dev", self.bridge, "up")

    def _healthy(self, host: str, index: int) -> bool:
        """Whether an earlier session finished this host's network, with the same address."""
        if self._veth(host) not in self._links():
            return False
        name = self.namespace(host).name
        shown = subprocess.run(
            (tool_of("ip"), "-n", name, "-o", "-4", "address", "show", "dev", "eth0", "up"),
            capture_output=True,
            text=True,
            check=False,
        )
        return f" {self.address(index)}/24 " in shown.stdout

    def _veth(self, host: str) -> str:
        return "3nv" + _short(f"{self.stack}/{host}")

    def _links(self) -> frozenset[str]:
        """The names of this machine's links. Ours carry a hash of stack and host, nobody else's do."""
        return frozenset(str(link["ifname"]) for link in json.loads(_ip("-j", "link", "show") or "[]"))


def choose(wanted: str, stack: str, subnet_index: int) -> Network:
    """The network that `wanted` names; `auto` takes namespaces when this process may make them.

    Raises SubstrateError when `namespace` is wanted and cannot be had.
    """
    if not 0 <= subnet_index <= 255:
        raise SubstrateError(
            f"stack {stack}", f"subnet_index {subnet_index} is not in 0 to 255", "set another"
        )
    if wanted == NetworkMode.LOOPBACK:
        return LoopbackNetwork(stack, subnet_index)
    obstacle = _obstacle()
    if obstacle is None:
        return NamespaceNetwork(stack, subnet_index)
    if wanted == NetworkMode.AUTO:
        return LoopbackNetwork(stack, subnet_index)
    if wanted == NetworkMode.NAMESPACE:
        raise SubstrateError(f"stack {stack}", f"no network namespaces: {obstacle}", "set network to auto")
    raise SubstrateError(
        f"stack {stack}", f"there is no network {wanted!r}", "use auto, namespace or loopback"
    )


def _obstacle() -> str | None:
    """Why this process cannot make namespaces and links, None when it can. Tries it, and leaves nothing."""
    if os.geteuid() != 0:
        return "only root may make them"
    for tool in ("ip", "nsenter"):
        if shutil.which(tool, path=_SEARCH) is None:
            return f"{tool} is not installed"
    name = f"3nt{os.getpid():x}"
    try:
        _ip("link", "add", name, "type", "veth", "peer", "name", f"{name}p")
        _ip("link", "delete", "dev", name)
        _ip("netns", "add", name)
        _ip("netns", "delete", name)
    except SubstrateError as error:
        return error.what
    finally:
        _unmount_if_empty(NETNS_FOLDER)
    return None


def _without_ipv6(link: str) -> None:
    """Our links need one address each; a kernel without IPv6 has nothing to switch off."""
    switch = Path(f"/proc/sys/net/ipv6/conf/{link}/disable_ipv6")
    if switch.exists():
        with explained(switch):
            switch.write_text("1", encoding="ascii")


def _unmount_if_empty(folder: Path) -> None:
    """`ip netns add` mounts its folder on itself; with no namespace left that mount goes too."""
    with contextlib.suppress(FileNotFoundError):
        if any(folder.iterdir()):
            return
        if os.path.ismount(folder) or _is_bind_mount(folder):
            subprocess.run(("umount", str(folder)), capture_output=True, check=False)
        with contextlib.suppress(OSError):
            folder.rmdir()


def _is_bind_mount(folder: Path) -> bool:
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    return any(line.split()[4] == str(folder) for line in mounts)


_SEARCH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"))


def tool_of(name: str) -> str:
    """The path of a program of iproute2 or util-linux. Raises SubstrateError when it is not installed."""
    found = shutil.which(name, path=_SEARCH)
    if found is None:
        raise SubstrateError(
            name, "it is not installed", "install iproute2 and util-linux, or set network: loopback"
        )
    return found


def _ip(*args: str) -> str:
    return run_tool((tool_of("ip"), *args), "ip " + " ".join(args))


def run_tool(argv: tuple[str, ...], where: str) -> str:
    """What a program prints. Raises SubstrateError about `where` when it fails or takes 20 s."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)
    except subprocess.TimeoutExpired as error:
        raise SubstrateError(where, "no answer in 20 s", "look at the machine's load") from error
    except OSError as error:
        raise SubstrateError(where, os.strerror(error.errno or errno.EIO), "look at that program") from error
    if done.returncode != 0:
        reason = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        raise SubstrateError(where, reason, "set network to loopback, or give the right to make links")
    return done.stdout


def _addresses() -> dict[str, tuple[str, ...]]:
    listed = json.loads(_ip("-j", "-4", "address", "show") or "[]")
    return {
        str(link["ifname"]): tuple(str(info["local"]) for info in link.get("addr_info", ()))
        for link in listed
        if "ifname" in link
    }


def _place(index: int) -> int:
    place = FIRST_HOST + index
    if index < 0 or place > LAST_HOST:
        raise SubstrateError(f"host {index}", "a stack has room for 244 hosts", "use fewer")
    return place


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:10]
