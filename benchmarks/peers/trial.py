"""One trial: traffic from every host, a fault on the one that serves, its repair, and what is left."""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass

from benchmarks.peers.analysis import acknowledged, lost_writes, serve_again_ns, split_writes
from benchmarks.peers.client import now_ns
from benchmarks.peers.records import Kind, Trial
from benchmarks.peers.schedule import Planned
from benchmarks.peers.site import HOSTS, Site
from benchmarks.peers.systems import System, await_whole
from benchmarks.peers.traffic import Traffic, read_kept
from infra.substrates.base import SubstrateError

STEADY_S = 60.0
LIMIT_S = 60.0
"""A system that does not serve within this time after the fault counts as one that never does."""
AFTER_S = {Kind.HOST: 0.5, Kind.PROCESS: 0.5, Kind.CUT: 2.0}
"""How long the fault lasts beyond the first service: in a cut both sides go on side by side."""
JITTER_S = 1.0


class Spoilt(Exception):
    """The trial says nothing, and the system needs a new start."""


@dataclass(frozen=True, slots=True)
class Fault:
    """From the beginning of its injection to when it had certainly taken effect, ns."""

    begun_ns: int
    effective_ns: int


def perform(site: Site, system: System, planned: Planned, run: str) -> Trial:
    """The trial. Raises Spoilt."""
    try:
        return _perform(site, system, planned, run)
    except (SubstrateError, OSError, LookupError, ValueError) as error:
        raise Spoilt(f"{type(error).__name__}: {error}") from error


def _perform(site: Site, system: System, planned: Planned, run: str) -> Trial:
    chooser = random.Random(f"{run} {planned.system} {planned.kind} {planned.number}")
    prefix = f"{planned.kind}{planned.number}"
    with Traffic(site, system, prefix) as traffic:
        primary = traffic.steady_server(HOSTS, STEADY_S)
        if primary is None:
            raise Spoilt("the clients were not served steadily before the fault")
        # Somewhere in the systems' periods: advertisements, pings, renewals.
        time.sleep(chooser.uniform(0.0, JITTER_S))
        load = os.getloadavg()[0]
        fault = _inject(site, system, planned.kind, primary)
        outside = [host for host in HOSTS if host != primary or planned.kind is Kind.PROCESS]
        names = [traffic.name(host) for host in outside]
        traffic.wait(
            lambda said: serve_again_ns(said, names, fault.begun_ns, fault.effective_ns) is not None, LIMIT_S
        )
        time.sleep(AFTER_S[planned.kind])
        _repair(site, system, planned.kind, primary)
        await_whole(system)
        living = outside if planned.kind is Kind.HOST else HOSTS
        if traffic.steady_server(living, STEADY_S) is None:
            raise Spoilt("the clients were not served steadily after the repair")
        traffic.stop()
        said = traffic.operations()
    kept = read_kept(site, system, [traffic.name(host) for host in HOSTS])
    took_ns = serve_again_ns(said, names, fault.begun_ns, fault.effective_ns)
    return Trial(
        run=run,
        system=planned.system,
        kind=planned.kind,
        number=planned.number,
        primary=primary,
        serve_ms=None if took_ns is None or took_ns > LIMIT_S * 1e9 else took_ns / 1e6,
        acknowledged=sum(len(numbers) for numbers in acknowledged(said).values()),
        split_writes=split_writes(said),
        lost=None if kept is None else lost_writes(said, kept),
        load=load,
    )


def _inject(site: Site, system: System, kind: Kind, primary: str) -> Fault:
    begun_ns = now_ns()
    match kind:
        case Kind.PROCESS:
            system.kill_process(primary)
        case Kind.HOST:
            # The link goes first: a host without power closes no connections.
            site.unplug(primary)
            site.kill(primary)
        case Kind.CUT:
            site.unplug(primary)
    return Fault(begun_ns, now_ns())


def _repair(site: Site, system: System, kind: Kind, primary: str) -> None:
    if kind is Kind.HOST:
        system.forget_power(primary)
        site.restart(primary)
    if kind is not Kind.PROCESS:
        site.plug(primary)
    if kind is not Kind.CUT:
        system.revive(primary)
