"""Prometheus' word on the agents, fetched in time: its own memory is shorter than a long soak."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlencode

import msgspec

from infra.hostd_api import HostdApi, HostdError
from infra.substrates.base import Substrate
from infra.topology import Port
from verification.history import Journal
from verification.soak_history import FOLDER, Sampled

STEP_S = 5.0
CHUNK_S = 10_000 * STEP_S
"""Prometheus answers with at most 11,000 points."""
TIMEOUT_S = 20.0
QUERY = 'sum(max by (agent) (up{job="agents",category!="probe"}) == bool 0)'
"""How many agents are up nowhere: one that moved is up in its new place."""


class _Series(msgspec.Struct):
    values: tuple[tuple[float, str], ...] = ()


class _Data(msgspec.Struct):
    result: tuple[_Series, ...] = ()


class _Answer(msgspec.Struct):
    data: _Data


def collect(folder: Path, substrate: Substrate, host: str, since_s: float, now_s: float) -> None:
    """Appends what a host's server has sampled since the last time, or `since_s` (seconds since 1970).

    A server that does not answer is asked again next time. Raises SubstrateError.
    """
    path = folder / FOLDER / f"prometheus-{host}.jsonl"
    begin_s = max(since_s, _last_s(path) + STEP_S)
    address, credentials = substrate.address(host), substrate.credentials()
    with Journal(path) as journal:
        while begin_s + STEP_S <= now_s:
            end_s = min(now_s, begin_s + CHUNK_S)
            asked = urlencode({"query": QUERY, "start": begin_s, "end": end_s, "step": STEP_S})
            try:
                with HostdApi(host, address, credentials, port=Port.PROMETHEUS, timeout_s=TIMEOUT_S) as api:
                    status, body = api.ask("GET", f"/api/v1/query_range?{asked}")
            except HostdError:
                return
            if status != 200:
                return
            try:
                series = msgspec.json.decode(body, type=_Answer).data.result
            except msgspec.MsgspecError:
                return
            for one in stretches(series[0].values if series else ()):
                journal.write(msgspec.json.encode(one) + b"\n")
            begin_s = end_s + STEP_S


def stretches(values: Iterable[tuple[float, str]]) -> Iterable[Sampled]:
    """Samples (seconds since 1970, how many are down) as stretches of equal ones, no step missing."""
    open_: Sampled | None = None
    for at_s, text in values:
        down = float(text)
        if math.isnan(down):
            continue
        if open_ is not None and open_.down == int(down) and at_s - open_.to_s <= 1.5 * STEP_S:
            open_ = msgspec.structs.replace(open_, to_s=at_s)
            continue
        if open_ is not None:
            yield open_
        open_ = Sampled(from_s=at_s, to_s=at_s, down=int(down))
    if open_ is not None:
        yield open_


def _last_s(path: Path) -> float:
    """When what is here ends."""
    last_s = 0.0
    if path.exists():
        for line in path.read_bytes().splitlines():
            try:
                last_s = max(last_s, msgspec.json.decode(line, type=Sampled).to_s)
            except msgspec.MsgspecError:
                continue  # cut short: what it told is fetched again with what follows
    return last_s
