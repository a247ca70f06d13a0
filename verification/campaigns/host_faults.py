"""Faults on hosts and the links between them: how each is made, proved, healed and undone, as a table."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from chaos.undo import AnyUndo, BootHost, Continue, MendLinks, Thaw
from infra.substrates.base import Capability, Direction, Substrate, SubstrateError
from infra.topology import Port

CONNECT_LIMIT_S = 0.3
PROOF_LIMIT_S = 2.0
POLL_S = 0.01


@dataclass(frozen=True)
class Scene:
    """Where a fault happens: `victim` serves most agents, `observer` is the other worker.

    `killed`: the process that a fault was about, by unit, as it was before.
    """

    substrate: Substrate
    victim: str
    observer: str
    witness: str | None
    killed: dict[str, str] = field(default_factory=dict)


Verb = Callable[[Scene], None]
Proof = Callable[[Scene], bool]
Undos = Callable[[Scene], tuple[AnyUndo, ...]]


@dataclass(frozen=True)
class HostFaultKind:
    """`undo`: what ends it when the harness does not live to heal it; () for what ends by itself.
    `loses`: the victim's agents have to move. `hold_s`: how long one that loses nobody lasts.
    `ends`: workers whose processes all die with it, by their place in the scene.
    `leads`: the victim's member of etcd has to lead when it happens, which is the campaign's to see to.
    """

    inject: Verb
    heal: Verb
    undo: Undos
    proof: Proof
    loses: bool = True
    hold_s: float = 3.0
    ends: tuple[str, ...] = ()
    needs: Capability | None = None
    about_witness: bool = False
    leads: bool = False

    def possible(self, scene: Scene) -> str | None:
        """None when it can be made here, else why not."""
        if self.needs is not None and self.needs not in scene.substrate.capabilities():
            return f"this substrate cannot do {self.needs}"
        if (self.about_witness or self.leads) and scene.witness is None:
            return "the fleet has no witness"
        return None


def _not_running(host: str, substrate: Substrate) -> bool:
    found = substrate.inspect_host(host)
    return found is None or not found.running


def _frozen(scene: Scene) -> bool:
    found = scene.substrate.inspect_host(scene.victim)
    return found is not None and found.frozen


def _held(scene: Scene) -> bool:
    found = scene.substrate.process(scene.victim, "hostd")
    return found is not None and found.stopped


def _kill_gateway(scene: Scene) -> None:
    found = scene.substrate.process(scene.victim, "gateway")
    scene.killed["gateway"] = "" if found is None else found.instance
    scene.substrate.signal(scene.victim, "gateway", "KILL")


def _gateway_killed(scene: Scene) -> bool:
    """Its supervisor starts another one at once."""
    found = scene.substrate.process(scene.victim, "gateway")
    before = scene.killed.get("gateway", "")
    return before != "" and (found is None or found.instance != before)


def _witness(scene: Scene) -> str:
    assert scene.witness is not None  # `possible` was asked
    return scene.witness


def _kill_both(scene: Scene) -> None:
    scene.substrate.kill_host(scene.victim)
    scene.substrate.kill_host(scene.observer)


def _restart_both(scene: Scene) -> None:
    scene.substrate.restart_host(scene.observer)
    scene.substrate.restart_host(scene.victim)


def _booted(*hosts: str) -> tuple[AnyUndo, ...]:
    """Killed hosts run again. Also from a kill by halves, which leaves some processes stopped.

    No undo here measures anything: whether service is back, the campaign's probes see.
    """
    return tuple(
        undo for host in hosts for undo in (Thaw(host=host, agents_up=0), BootHost(host=host, agents_up=0))
    )


def _mended(host: str) -> tuple[AnyUndo, ...]:
    return (MendLinks(host=host, peers=()),)


def _cut(direction: Direction) -> HostFaultKind:
    return HostFaultKind(
        inject=lambda s: s.substrate.cut(s.victim, None, direction),
        heal=lambda s: s.substrate.mend_links(s.victim),
        undo=lambda s: _mended(s.victim),
        proof=lambda s: bool(s.substrate.cuts(s.victim)),
        needs=Capability.CUT_LINKS,
    )


def _signal(unit: str, signal: str) -> Verb:
    return lambda s: s.substrate.signal(s.victim, unit, signal)


def _nothing(_: Scene) -> None:
    """What was killed is started again by its host's supervisor."""


KINDS: dict[str, HostFaultKind] = {
    "host-kill": HostFaultKind(
        inject=lambda s: s.substrate.kill_host(s.victim),
        heal=lambda s: s.substrate.restart_host(s.victim),
        undo=lambda s: _booted(s.victim),
        proof=lambda s: _not_running(s.victim, s.substrate),
        ends=("victim",),
    ),
    "host-freeze": HostFaultKind(
        inject=lambda s: s.substrate.freeze_host(s.victim),
        heal=lambda s: s.substrate.thaw_host(s.victim),
        undo=lambda s: (Thaw(host=s.victim, agents_up=0),),
        proof=_frozen,
        needs=Capability.FREEZE_HOST,
    ),
    "host-cut": _cut(Direction.BOTH),
    "host-cut-out": _cut(Direction.OUTGOING),
    "host-cut-in": _cut(Direction.INCOMING),
    "link-cut": HostFaultKind(
        inject=lambda s: s.substrate.cut(s.victim, s.observer),
        heal=lambda s: s.substrate.mend_links(s.victim),
        undo=lambda s: _mended(s.victim),
        proof=lambda s: bool(s.substrate.cuts(s.victim)),
        loses=False,
        needs=Capability.CUT_LINKS,
    ),
    "witness-cut": HostFaultKind(
        inject=lambda s: s.substrate.cut(_witness(s), None),
        heal=lambda s: s.substrate.mend_links(_witness(s)),
        undo=lambda s: _mended(_witness(s)),
        proof=lambda s: bool(s.substrate.cuts(_witness(s))),
        loses=False,
        needs=Capability.CUT_LINKS,
        about_witness=True,
    ),
    "witness-link-cut": HostFaultKind(
        inject=lambda s: s.substrate.cut(_witness(s), s.victim),
        heal=lambda s: s.substrate.mend_links(_witness(s)),
        undo=lambda s: _mended(_witness(s)),
        proof=lambda s: bool(s.substrate.cuts(_witness(s))),
        loses=False,
        needs=Capability.CUT_LINKS,
        about_witness=True,
    ),
    "witness-kill": HostFaultKind(
        inject=lambda s: s.substrate.kill_host(_witness(s)),
        heal=lambda s: s.substrate.restart_host(_witness(s)),
        undo=lambda s: _booted(_witness(s)),
        proof=lambda s: _not_running(_witness(s), s.substrate),
        loses=False,
        about_witness=True,
    ),
    "hostd-freeze": HostFaultKind(
        inject=_signal("hostd", "STOP"),
        heal=_signal("hostd", "CONT"),
        undo=lambda s: (Continue(host=s.victim, what="hostd"),),
        proof=_held,
    ),
    "gateway-kill": HostFaultKind(
        inject=_kill_gateway,
        heal=_nothing,
        undo=lambda _: (),
        proof=_gateway_killed,
        loses=False,
        hold_s=0.5,
    ),
    "both-restart": HostFaultKind(
        inject=_kill_both,
        heal=_restart_both,
        undo=lambda s: _booted(s.observer, s.victim),
        proof=lambda s: _not_running(s.victim, s.substrate) and _not_running(s.observer, s.substrate),
        loses=False,
        hold_s=0.0,
        ends=("victim", "observer"),
    ),
}


KINDS |= {f"leader-{how}": replace(KINDS[f"host-{how}"], leads=True) for how in ("kill", "freeze", "cut")}


async def proved(kind: HostFaultKind, scene: Scene) -> bool:
    """Waits until the substrate shows the fault's effect, for a limited time."""
    loop = asyncio.get_running_loop()
    end = loop.time() + PROOF_LIMIT_S
    while True:
        with contextlib.suppress(SubstrateError):
            if await asyncio.to_thread(kind.proof, scene):
                return True
        if loop.time() >= end:
            return False
        await asyncio.sleep(POLL_S)


async def reachable(substrate: Substrate, host: str) -> bool:
    """Whether a connection to the host's daemon can be made from here now."""
    with contextlib.suppress(OSError, TimeoutError, SubstrateError):
        async with asyncio.timeout(CONNECT_LIMIT_S):
            _, writer = await asyncio.open_connection(substrate.address(host), int(Port.HOSTD))
        writer.close()
        return True
    return False


def heal_leftovers(substrate: Substrate, hosts: tuple[str, ...]) -> tuple[str, ...]:
    """Ends every freeze and cut, also of a hostd, that is left on these hosts; says what there was.

    Raises SubstrateError. A host that is not there (any more) has nothing to heal.
    """
    found = []
    for host in hosts:
        state = substrate.inspect_host(host)
        if state is None:
            continue
        can = substrate.capabilities()  # asked of a stack that stands
        if Capability.FREEZE_HOST in can and state.frozen:
            substrate.thaw_host(host)
            found.append(f"{host} was frozen")
        if Capability.CUT_LINKS in can and substrate.cuts(host):
            substrate.mend_links(host)
            found.append(f"links of {host} were cut")
        with contextlib.suppress(SubstrateError):  # a witness has none
            hostd = substrate.process(host, "hostd")
            if hostd is not None and hostd.stopped:
                substrate.signal(host, "hostd", "CONT")
                found.append(f"hostd of {host} was stopped")
    return tuple(found)
