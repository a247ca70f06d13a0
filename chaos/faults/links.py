"""Faults on the ways between programs (through Toxiproxy) and on the links between hosts (in the kernel).

The proof is a TLS handshake as the host's own programs make it: its round trip, its pieces, its failure.
What each toxic does: https://github.com/Shopify/toxiproxy#toxics
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from chaos import messages as m
from chaos.errors import BadFault
from chaos.fault import Fault, Measure, Proof, Radius, Trial, register
from chaos.stage import Stage, Way
from chaos.undo import AnyUndo, ClearWay, MendLinks
from infra.substrates.base import Capability, Direction
from infra.topology import Port

_LINK = "link"
_LEAST_ROUND_TRIP = 0.85
"""Share of the nominal delay that counts as having taken effect: timers may fire a little early."""
_SAMPLES = 20


class Streams(StrEnum):
    """Which way of a connection: what is asked, what is answered, or both."""

    BOTH = "both"
    THERE = "there"
    BACK = "back"


Which = Annotated[Streams, Meta(description="both, there (what is asked) or back (what is answered)")]
_TOXIPROXY: dict[Streams, tuple[str, ...]] = {
    Streams.BOTH: ("upstream", "downstream"),
    Streams.THERE: ("upstream",),
    Streams.BACK: ("downstream",),
}


class WayFault(Fault, frozen=True, kw_only=True):
    """Base of the faults on a proxied way."""

    group = _LINK
    host: Annotated[str, Meta(description="the worker whose programs use the way")]
    to: Annotated[str, Meta(description="the way: gateway-HOST, etcd-HOST, redis-HOST, prometheus-HOST")]
    streams: Which = Streams.BOTH

    def check(self, stage: Stage) -> None:
        stage.host(self.host, worker=True)
        stage.way(self.host, self.to)

    def targets(self, stage: Stage) -> frozenset[str]:
        return frozenset({f"way/{self.host}/{self.to}"})

    def radius(self, stage: Stage) -> Radius:
        return Radius(hosts=frozenset({self.host}))

    def undo(self, stage: Stage, trial: Trial) -> tuple[AnyUndo, ...]:
        before_ms = stage.round_trip_ms(self.host, self._way(stage))
        trial.numbers["before_ms"] = before_ms
        toxics = tuple(toxic.name for toxic in self.toxics(trial))
        return (ClearWay(host=self.host, way=self.to, toxics=toxics, round_trip_ms=before_ms),)

    def inject(self, stage: Stage, trial: Trial) -> None:
        for toxic in self.toxics(trial):
            stage.ask(self.host, m.AddToxic(proxy=self.to, toxic=toxic), type(None))

    def effect(self, stage: Stage, trial: Trial) -> Proof:
        return self.seen(stage.handshake(self.host, self._way(stage), timeout_ms=self.patience_ms), trial)

    def seen(self, view: m.HandshakeView, trial: Trial) -> Proof:
        """What a handshake during the fault proves."""
        raise NotImplementedError

    @property
    def patience_ms(self) -> int:
        """How long the proving handshake may take."""
        return 2500

    def toxics(self, trial: Trial) -> tuple[m.Toxic, ...]:
        """One for each stream."""
        return tuple(
            msgspec.structs.replace(self.toxic(), name=f"{trial.id}-{stream}", stream=stream)
            for stream in _TOXIPROXY[self.streams]
        )

    def toxic(self) -> m.Toxic:
        """The toxic without name and stream."""
        raise NotImplementedError

    def _way(self, stage: Stage) -> Way:
        return stage.way(self.host, self.to)


@register
class LinkLatency(WayFault, frozen=True, kw_only=True):
    name = "link-latency"
    summary = "Delay what passes a way, with jitter."

    latency_ms: Annotated[int, Meta(description="delay of each piece, each way", ge=1, le=60000)] = 100
    jitter_ms: Annotated[
        int, Meta(description="at most so much more or less, not above the latency", ge=0, le=60000)
    ] = 0

    def check(self, stage: Stage) -> None:
        super().check(stage)
        if self.jitter_ms > self.latency_ms:
            raise BadFault(f"{self.name} jitter_ms", f"is {self.jitter_ms}", "give at most the latency")

    @property
    def patience_ms(self) -> int:
        return 4 * (self.latency_ms + self.jitter_ms) + 2500

    def toxic(self) -> m.Toxic:
        return m.Toxic(
            name="", type="latency", attributes={"latency": self.latency_ms, "jitter": self.jitter_ms}
        )

    def seen(self, view: m.HandshakeView, trial: Trial) -> Proof:
        ways = len(_TOXIPROXY[self.streams])
        least_ms = ways * (self.latency_ms - self.jitter_ms) * _LEAST_ROUND_TRIP
        floor_ms = trial.numbers["before_ms"] + 1
        return Proof(view.outcome == "ok" and view.took_ms >= max(least_ms, floor_ms), _measured(view))


@register
class LinkBandwidth(WayFault, frozen=True, kw_only=True):
    """A handshake has some 3 KiB: above its highest rate this would not show."""

    name = "link-bandwidth"
    summary = "Let so many bytes a second through a way."

    rate_kb_s: Annotated[int, Meta(description="KiB a second, each way", ge=1, le=200)] = 10

    @property
    def patience_ms(self) -> int:
        return 12_000 // self.rate_kb_s + 3000

    def toxic(self) -> m.Toxic:
        return m.Toxic(name="", type="bandwidth", attributes={"rate": self.rate_kb_s})

    def seen(self, view: m.HandshakeView, trial: Trial) -> Proof:
        least_ms = (
            view.bytes_in / 1024 / self.rate_kb_s * 1000 * 0.7 if self.streams != Streams.THERE else 0.0
        )
        floor_ms = trial.numbers["before_ms"] + 1
        return Proof(view.outcome == "ok" and view.took_ms >= max(least_ms, floor_ms), _measured(view))


@register
class LinkReset(WayFault, frozen=True, kw_only=True):
    name = "link-reset"
    summary = "Answer connections of a way with a reset."

    after_ms: Annotated[int, Meta(description="how long a connection lives first", ge=0, le=60000)] = 0

    @property
    def patience_ms(self) -> int:
        return self.after_ms + 2500

    def toxic(self) -> m.Toxic:
        return m.Toxic(name="", type="reset_peer", attributes={"timeout": self.after_ms})

    def seen(self, view: m.HandshakeView, trial: Trial) -> Proof:
        return Proof(view.outcome == "reset", _measured(view))


@register
class LinkSlowClose(WayFault, frozen=True, kw_only=True):
    name = "link-slow-close"
    summary = "Delay the closing of a way's connections."

    streams: Which = Streams.BACK
    delay_ms: Annotated[int, Meta(description="how long a connection stays half closed", ge=50, le=60000)] = (
        1000
    )

    def toxic(self) -> m.Toxic:
        return m.Toxic(name="", type="slow_close", attributes={"delay": self.delay_ms})

    def effect(self, stage: Stage, trial: Trial) -> Proof:
        patience_ms = 2 * self.delay_ms + 2500
        view = stage.handshake(self.host, self._way(stage), timeout_ms=patience_ms, close=True)
        took_ms = view.close_ms
        shown: float | str = took_ms if took_ms is not None else "not in time"
        slow = view.outcome == "ok" and (took_ms is None or took_ms >= self.delay_ms * _LEAST_ROUND_TRIP)
        return Proof(slow, (*_measured(view), Measure("closing", shown, "ms")))


@register
class LinkSlicer(WayFault, frozen=True, kw_only=True):
    name = "link-slicer"
    summary = "Cut what passes a way into small pieces with pauses between."

    streams: Which = Streams.BACK
    size_bytes: Annotated[int, Meta(description="average size of a piece", ge=1, le=512)] = 64
    pause_us: Annotated[int, Meta(description="between two pieces", ge=500, le=100000)] = 2000

    def check(self, stage: Stage) -> None:
        super().check(stage)
        if self.streams is Streams.THERE:
            raise BadFault(f"{self.name} streams", "is there", "use back or both: pieces are counted here")

    @property
    def patience_ms(self) -> int:
        return 2500 + 4096 // self.size_bytes * self.pause_us // 1000

    def toxic(self) -> m.Toxic:
        attributes = {
            "average_size": self.size_bytes,
            "size_variation": self.size_bytes // 2,
            "delay": self.pause_us,
        }
        return m.Toxic(name="", type="slicer", attributes=attributes)

    def seen(self, view: m.HandshakeView, trial: Trial) -> Proof:
        # Pieces may run together in the receiver's buffer, but not most of them.
        least = max(3.0, view.bytes_in / self.size_bytes * 0.25)
        return Proof(
            view.outcome == "ok" and view.pieces_in >= least,
            (*_measured(view), Measure("pieces", float(view.pieces_in))),
        )


@register
class LinkLimit(WayFault, frozen=True, kw_only=True):
    name = "link-limit"
    summary = "Close a way's connections after so many bytes."

    streams: Which = Streams.BACK
    limit_bytes: Annotated[int, Meta(description="what passes before it closes, each way", ge=1, le=1024)] = (
        512
    )

    def toxic(self) -> m.Toxic:
        return m.Toxic(name="", type="limit_data", attributes={"bytes": self.limit_bytes})

    def seen(self, view: m.HandshakeView, trial: Trial) -> Proof:
        cut = view.outcome in ("closed", "reset") and view.bytes_in <= self.limit_bytes
        return Proof(cut, (*_measured(view), Measure("bytes", float(view.bytes_in))))


@register
class LinkTimeout(WayFault, frozen=True, kw_only=True):
    name = "link-timeout"
    summary = "Let nothing through a way; connections stand, and are closed after a time."

    after_ms: Annotated[int, Meta(description="when a connection is closed; 0: never", ge=0, le=60000)] = 0

    @property
    def patience_ms(self) -> int:
        return max(1000, self.after_ms + 1000) if self.after_ms else 1000

    def toxic(self) -> m.Toxic:
        return m.Toxic(name="", type="timeout", attributes={"timeout": self.after_ms})

    def seen(self, view: m.HandshakeView, trial: Trial) -> Proof:
        silent = view.outcome in (("closed", "reset") if self.after_ms else ("timeout",))
        return Proof(silent and view.took_ms >= self.after_ms * _LEAST_ROUND_TRIP, _measured(view))


@register
class LinkLostConnections(WayFault, frozen=True, kw_only=True):
    name = "link-lost-connections"
    summary = "Let nothing through a random share of a way's connections."

    share: Annotated[float, Meta(description="of the connections", ge=0.1, le=1.0)] = 0.5

    def toxic(self) -> m.Toxic:
        return m.Toxic(name="", type="timeout", toxicity=self.share, attributes={"timeout": 0})

    def effect(self, stage: Stage, trial: Trial) -> Proof:
        way = self._way(stage)
        with ThreadPoolExecutor(_SAMPLES) as pool:
            views = list(
                pool.map(lambda _: stage.handshake(self.host, way, timeout_ms=1500), range(_SAMPLES))
            )
        lost = sum(view.outcome == "timeout" for view in views)
        return Proof(
            lost > 0,
            (Measure("connections lost", float(lost)), Measure("tried", float(_SAMPLES))),
        )


@register
class LinkDown(WayFault, frozen=True, kw_only=True):
    name = "link-down"
    summary = "Refuse connections of a way, and close those that stand."

    def toxics(self, trial: Trial) -> tuple[m.Toxic, ...]:
        return ()

    def check(self, stage: Stage) -> None:
        super().check(stage)
        if self.streams is not Streams.BOTH:
            raise BadFault(f"{self.name} streams", f"is {self.streams}", "leave it out: a way is shut whole")

    def inject(self, stage: Stage, trial: Trial) -> None:
        stage.ask(self.host, m.SetWay(proxy=self.to, enabled=False), type(None))

    def seen(self, view: m.HandshakeView, trial: Trial) -> Proof:
        return Proof(view.outcome == "refused", _measured(view))


class LinkFault(Fault, frozen=True, kw_only=True):
    """Base of the faults on a host's own link."""

    group = _LINK
    needs = frozenset({Capability.CUT_LINKS})

    host: Annotated[str, Meta(description="whose link")]
    peer: Annotated[str | None, Meta(description="the other host; left out: everybody, the operator too")] = (
        None
    )
    direction: Annotated[Direction, Meta(description="both, outgoing or incoming, as the host sees it")] = (
        Direction.BOTH
    )

    def check(self, stage: Stage) -> None:
        stage.host(self.host)
        if self.peer is not None:
            stage.host(self.peer)
            if self.peer == self.host:
                raise BadFault(f"{self.name} peer", f"is {self.host} itself", "name another host")

    def targets(self, stage: Stage) -> frozenset[str]:
        return frozenset({f"link/{self.host}"})

    def radius(self, stage: Stage) -> Radius:
        return Radius(hosts=frozenset({self.host}), agents=stage.homed(self.host))

    def undo(self, stage: Stage, trial: Trial) -> tuple[AnyUndo, ...]:
        peers = self._peers(stage)
        for peer in peers:
            view = _to_etcd(stage, self.host, peer)
            trial.numbers["before_ms"] = max(trial.numbers.get("before_ms", 0.0), view.took_ms)
        return (MendLinks(host=self.host, peers=peers),)

    def _peers(self, stage: Stage) -> tuple[str, ...]:
        others = tuple(h.name for h in stage.fleet.hosts if h.name != self.host)
        return others if self.peer is None else (self.peer,)


@register
class LinkCut(LinkFault, frozen=True, kw_only=True):
    name = "link-cut"
    summary = "Lose everything between a host and another one, or everybody, in silence."

    def inject(self, stage: Stage, trial: Trial) -> None:
        stage.substrate.cut(self.host, self.peer, self.direction)

    def effect(self, stage: Stage, trial: Trial) -> Proof:
        cuts = stage.substrate.cuts(self.host)
        measures, silent = [Measure("cuts in the kernel", float(len(cuts)))], bool(cuts)
        for peer in self._peers(stage):
            view = _to_etcd(stage, self.host, peer, timeout_ms=600)
            silent = silent and view.outcome == "timeout"
            measures.append(Measure(f"handshake with {peer}", view.outcome))
        return Proof(silent, tuple(measures))


@register
class LinkPacketLoss(LinkFault, frozen=True, kw_only=True):
    name = "link-packet-loss"
    summary = "Lose a random share of the packets between a host and another one, or everybody."
    needs = frozenset({Capability.CUT_LINKS, Capability.LOSE_PACKETS})
    effect_within_s = 6.0

    share: Annotated[float, Meta(description="of the packets", ge=0.01, le=0.95)] = 0.2

    def inject(self, stage: Stage, trial: Trial) -> None:
        stage.substrate.cut(self.host, self.peer, self.direction, self.share)

    def effect(self, stage: Stage, trial: Trial) -> Proof:
        """TCP makes up for a lost packet after 200 ms at the earliest, so losses show as delays (tcp(7))."""
        peer = self._peers(stage)[0]
        with ThreadPoolExecutor(_SAMPLES) as pool:
            views = list(
                pool.map(lambda _: _to_etcd(stage, self.host, peer, timeout_ms=2500), range(_SAMPLES))
            )
        before_ms = trial.numbers["before_ms"]
        late = sum(view.outcome != "ok" or view.took_ms > before_ms + 180 for view in views)
        shown = stage.substrate.cuts(self.host)
        return Proof(
            late > 0 and bool(shown),
            (
                Measure("handshakes late or lost", float(late)),
                Measure("tried", float(_SAMPLES)),
                Measure("share in the kernel", shown[0].share if shown else 0.0),
            ),
        )


def _to_etcd(stage: Stage, host: str, peer: str, timeout_ms: int = 2000) -> m.HandshakeView:
    return stage.handshake(host, there=peer, port=int(Port.ETCD_CLIENT), timeout_ms=timeout_ms)


def _measured(view: m.HandshakeView) -> tuple[Measure, ...]:
    return (Measure("handshake", view.outcome), Measure("took", view.took_ms, "ms"))
