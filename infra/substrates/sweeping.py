"""What a crash of an earlier session left of a stack, and its removal. Touches only what bears our marks."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from infra.substrates.census import MARK, SPAWNER, environment_of, group_base, identify, marked, remove_group
from infra.substrates.files import locked, remove_tree
from infra.substrates.layout import StackRecord, run_root
from infra.substrates.network import LoopbackNetwork, NamespaceNetwork, Network
from infra.substrates.stack import Stack

_PART_AGE_S = 60.0


def sweep_stack(stack: Stack, runs: Callable[[str], bool]) -> tuple[str, ...]:
    """Removes the leftovers of `stack` and says what they were; a host that runs stays as it is.

    Left over are: programs whose session died, processes of a host whose supervisor is gone, everything of
    a host that is not on record (its making or its removal was cut off), and half-written files. Another
    state directory's living stack of the same name is not touched. Raises SubstrateError.
    """
    if stack.foreign():
        return ()
    found: list[str] = []
    with locked(stack.layout.lock):
        record = stack.layout.read() or _assumed(stack)
        network: Network = (
            NamespaceNetwork(stack.name, record.subnet_index)
            if os.geteuid() == 0
            else LoopbackNetwork(stack.name, record.subnet_index)
        )
        known = set(stack.layout.host_names())
        for host in sorted(known | _traces(stack, record, network)):
            found += _sweep_host(stack, record, network, host, known=host in known, runs=runs)
        found += _half_written(stack.layout.state)
        if not known:
            found += stack.release_shared(record, network)
    return tuple(found)


def _sweep_host(
    stack: Stack,
    record: StackRecord,
    network: Network,
    host: str,
    *,
    known: bool,
    runs: Callable[[str], bool],
) -> list[str]:
    from infra.substrates.census import Census

    found = []
    group = None if record.cgroup is None else Path(record.cgroup) / host
    census = Census(stack=stack.name, host=host, cgroup=group, namespace=network.namespace(host))
    if known and runs(host):
        for process in marked(lambda environ: environ.get(MARK) == census.mark and _orphaned(environ)):
            command = _command(process.pid)
            process_ended = identify(process.pid) == process
            if process_ended:
                found.append(f"{host}: program {command} ({process.pid}) of a session that died")
        _end_orphans(census.mark)
        return found
    killed = census.kill()
    if killed:
        found.append(f"{host}: {len(killed)} processes without a supervisor")
    if known:
        return found
    found += [f"{host}: {what}" for what in network.remove(host)]
    if group is not None and group.is_dir():
        remove_group(group)
        found.append(f"{host}: control group")
    run = Path(record.run) / host
    if run.is_dir():
        remove_tree(run)
        found.append(f"{host}: run folder")
    return found


def _end_orphans(mark: str) -> None:
    import signal

    from infra.substrates.census import send, wait_gone

    orphans = marked(lambda environ: environ.get(MARK) == mark and _orphaned(environ))
    for process in orphans:
        send(process, signal.SIGKILL)
    wait_gone(orphans, 5.0)


def _orphaned(environ: dict[str, str]) -> bool:
    """Whether a spawned program's session is gone."""
    spawner = environ.get(SPAWNER, "").split()
    if len(spawner) != 2:
        return False
    living = identify(int(spawner[0]))
    return living is None or living.starttime != int(spawner[1])


def _traces(stack: Stack, record: StackRecord, network: Network) -> set[str]:
    """Names of hosts of which anything is there, on record or not."""
    hosts = set(network.leftovers())
    run = Path(record.run)
    if run.is_dir():
        hosts |= {path.name for path in run.iterdir() if path.is_dir()}
    if record.cgroup is not None and Path(record.cgroup).is_dir():
        hosts |= {path.name for path in Path(record.cgroup).iterdir() if path.is_dir()}
    prefix = f"{stack.name}/"
    for process in marked(lambda environ: environ.get(MARK, "").startswith(prefix)):
        mark = ""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            mark = environment_of(process.pid).get(MARK, "")
        if mark.startswith(prefix):
            hosts.add(mark.removeprefix(prefix))
    return hosts


def _assumed(stack: Stack) -> StackRecord:
    """What an earlier session would have decided, where its record is gone."""
    base = group_base(stack.name)
    return StackRecord(
        mode="",
        subnet_index=stack.environment.subnet_index,
        run=str(run_root() / stack.name),
        cgroup=None if base is None else str(base),
        hosts={},
    )


def _half_written(state: Path) -> list[str]:
    found = []
    for path in state.rglob(".*.part"):
        if time.time() - path.stat().st_mtime > _PART_AGE_S:
            path.unlink(missing_ok=True)
            found.append(f"half-written file {path.name}")
    return found


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return "?"
