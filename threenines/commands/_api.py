"""The way of `call` and `resolve` to a hostd of a running stack, with the operator's certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from threenines.errors import HARNESS, UserError

if TYPE_CHECKING:
    from infra.substrates.base import Substrate

TIMEOUT_S = 5.0


class ApiFailure(msgspec.Struct, frozen=True):
    """What hostd says instead of an answer."""

    code: str
    message: str


class _FailureBody(msgspec.Struct):
    error: ApiFailure


def ask_hostd(
    stack: str,
    host: str | None,
    method: str,
    path: str,
    body: bytes | None = None,
    *,
    timeout_s: float = TIMEOUT_S,
) -> tuple[int, bytes, str]:
    """Status, JSON and the host that answered: `host`, or the first of the stack that can be reached.

    A question that was sent is never sent again, here or to another host. Raises UserError.
    """
    from infra import substrates
    from infra.hostd_api import HostdApi, HostdError
    from infra.project import deployed_environment
    from infra.topology import load_fleet

    environment = deployed_environment(stack)
    names = [one.name for one in load_fleet(environment.fleet).workers]
    if host is not None and host not in names:
        raise UserError(f"--host {host}", "no such worker", f"choose from {', '.join(names)}")
    substrate = substrates.open_substrate(environment)
    try:
        candidates = [name for name in ([host] if host else names) if _runs(substrate, name)]
        refused: HostdError | None = None
        for name in candidates:
            try:
                address, credentials = substrate.address(name), substrate.credentials()
                with HostdApi(name, address, credentials, timeout_s=TIMEOUT_S) as probe:
                    probe.status()
                with HostdApi(name, address, credentials, timeout_s=timeout_s + 1) as api:
                    status, answer = api.ask(method, path, body)
                return status, answer, name
            except HostdError as error:
                refused = error
                if method != "GET":
                    raise
        if refused is not None:
            raise refused
    finally:
        substrate.close()
    where = f"stack {stack}" if host is None else f"host {host}"
    raise UserError(where, "is not up", "start it with `threenines up`", exit_status=HARNESS)


def failure_of(status: int, answer: bytes) -> ApiFailure | None:
    """None for an answer; what hostd says for anything else."""
    if 200 <= status < 300:
        return None
    try:
        return msgspec.json.decode(answer, type=_FailureBody).error
    except msgspec.DecodeError:
        return ApiFailure(
            "indeterminate", f"hostd answered {status}: {answer[:200].decode(errors='replace')}"
        )


def print_json(document: bytes, *, compact: bool) -> None:
    """JSON for a script (one line), or for a person: indented, coloured on a terminal."""
    from rich.console import Console

    console = Console(highlight=False)
    if compact or not console.is_terminal:
        text = msgspec.json.format(document, indent=-1 if compact else 2).decode()
        print(text)
    else:
        console.print_json(document.decode())


def _runs(substrate: Substrate, host: str) -> bool:
    found = substrate.inspect_host(host)
    return found is not None and found.running
