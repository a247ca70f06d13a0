"""Which processes belong to a host, and how all of them end at once.

A process belongs to a host when it is in the host's control group (cgroup v2, where we may make one), carries
the host's mark in its environment, or lives in the host's network namespace. Children inherit all three, also
when they fork twice. Never by name, and never this process or one it descends from. (cgroups(7), proc(5))
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import select
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from infra.substrates.base import ProcessView, SubstrateError

MARK = "THREENINES_MARK"
"""Variable that every process of a host inherits: `<stack>/<host>`."""
SPAWNER = "THREENINES_SPAWNER"
"""Variable of spawned programs: `PID STARTTIME` of the session that wants their results."""

_END_S = 10.0
_EXEC_S = 1.0
"""How long a program that is being loaded is waited for; it takes microseconds, unless it starves."""
_LOOK_S = 0.001
_MOST_LOOKS = 50
"""On a machine where something ends all the time, so many looks have to do."""


@dataclass(frozen=True, order=True)
class Process:
    """A process that cannot be mistaken for a later one of the same number. `starttime` is in clock ticks."""

    pid: int
    starttime: int

    @property
    def instance(self) -> str:
        """A short name of this one process of this one boot."""
        return hashlib.sha256(f"{_boot_id()}:{self.pid}:{self.starttime}".encode()).hexdigest()[:16]


def identify(pid: int) -> Process | None:
    """The living process `pid`; None when there is none or only its zombie."""
    fields = _stat(pid)
    if fields is None or fields[0] in ("Z", "X"):
        return None
    return Process(pid, int(fields[19]))


def stopped(pid: int) -> bool:
    """Whether a process stands still by a signal."""
    fields = _stat(pid)
    return fields is not None and fields[0] in ("T", "t")


def _stands_still(process: Process) -> bool:
    """Whether no thread runs its own code any more: a signal only takes effect when the kernel next runs it.

    One that waits in the kernel ("D") meets the signal before it comes back.
    """
    try:
        threads = os.listdir(f"/proc/{process.pid}/task")
    except OSError:
        return True  # gone
    states = {fields[0] for thread in threads if (fields := _stat(process.pid, thread)) is not None}
    return states <= {"T", "t", "D", "Z", "X"} or identify(process.pid) != process


def view_of(process: Process) -> ProcessView | None:
    """What can be seen of exactly `process`; None when it is gone or another user's."""
    try:
        open_files = len(os.listdir(f"/proc/{process.pid}/fd"))
        limit = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)[0]
    except OSError:
        return None
    view = ProcessView(
        instance=process.instance,
        stopped=stopped(process.pid),
        open_files=open_files,
        open_files_limit=limit,
    )
    return view if identify(process.pid) == process else None


def send(process: Process, number: int) -> bool:
    """Sends a signal to exactly `process`; False when it is gone. Raises PermissionError."""
    with _opened(process) as handle:
        if handle is None:
            return False
        try:
            signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            return False
        return True


def wait_gone(processes: Iterable[Process], timeout_s: float) -> bool:
    """Waits until every one of `processes` has ended (a zombie has); False when the time is over."""
    end = time.monotonic() + timeout_s
    for process in processes:
        with _opened(process) as handle:
            if handle is None:
                continue
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
                return False
    return True


def marked(accept: Callable[[dict[str, str]], bool]) -> frozenset[Process]:
    """The processes whose environment, as far as it may be read, is accepted."""
    return _survey(accept).found


@dataclass(frozen=True)
class _Survey:
    """One look at every process: the accepted ones, those without memory (zombies, the kernel's own), and
    whether somebody vanished between the listing and the look at its environment: it may have forked before.
    """

    found: frozenset[Process]
    hollow: frozenset[int]
    vanished: bool


def _survey(
    accept: Callable[[dict[str, str]], bool], meet: Callable[[Process], object] = lambda _: None
) -> _Survey:
    """Looks at everyone, the youngest first; calls `meet` with each accepted process at once."""
    found, hollow, vanished = set(), set(), False
    for pid in _pids():
        try:
            environ = environment_of(pid)
        except FileNotFoundError:
            vanished = True
            continue
        except ProcessLookupError:
            hollow.add(pid)
            continue
        if environ and accept(environ):
            process = identify(pid)
            if process is None:
                hollow.add(pid)
                continue
            meet(process)
            found.add(process)
    return _Survey(frozenset(found), frozenset(hollow), vanished)


def environment_of(pid: int) -> dict[str, str]:
    """The variables of ours that `pid` started with; empty when they may not be read.

    A process in the middle of execve(2) shows none although it will have some: it is waited for.
    Raises FileNotFoundError when there is no such process, ProcessLookupError when it has no memory.
    """
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes() or _once_loaded(pid)
    except PermissionError:
        return {}
    if b"THREENINES_" not in raw:
        return {}
    pairs = (item.partition(b"=") for item in raw.split(b"\0") if item.startswith(b"THREENINES_"))
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


def _once_loaded(pid: int) -> bytes:
    """The environment of a process that showed none: empty, or execve(2) had not laid out its memory yet.

    Until it has, the arguments read empty as well (proc_pid_cmdline(5)).
    """
    end = time.monotonic() + _EXEC_S
    while True:
        loaded = bool(Path(f"/proc/{pid}/cmdline").read_bytes())
        raw = Path(f"/proc/{pid}/environ").read_bytes()
        if raw or loaded:
            return raw
        if time.monotonic() >= end:
            raise ProcessLookupError(f"process {pid} is still being loaded")
        time.sleep(_LOOK_S)


def dwellers(namespace: Path | None) -> frozenset[Process]:
    """The processes that live in a network namespace."""
    if namespace is None:
        return frozenset()
    try:
        wanted = os.stat(namespace)
    except FileNotFoundError:
        return frozenset()
    found = set()
    for pid in _pids():
        with contextlib.suppress(OSError):
            there = os.stat(f"/proc/{pid}/ns/net")
            if (there.st_ino, there.st_dev) == (wanted.st_ino, wanted.st_dev):
                process = identify(pid)
                if process is not None:
                    found.add(process)
    return frozenset(found)


@dataclass(frozen=True)
class Census:
    """The processes of one host."""

    stack: str
    host: str
    cgroup: Path | None
    namespace: Path | None

    @property
    def mark(self) -> str:
        return f"{self.stack}/{self.host}"

    def processes(self) -> frozenset[Process]:
        """Everyone alive, by all three signs, without ourselves and our ancestors."""
        return self._look().found

    def _look(self, *, stop: bool = False) -> _Survey:
        """Everyone of this host, stopped at sight if so wanted."""
        spared = _lineage()

        def meet(process: Process) -> None:
            if stop and process.pid not in spared:
                send(process, signal.SIGSTOP)

        survey = _survey(lambda environ: environ.get(MARK) == self.mark, meet)
        others = (group_members(self.cgroup) | dwellers(self.namespace)) - survey.found
        for process in others:
            meet(process)
        found = frozenset(p for p in survey.found | others if p.pid not in spared)
        return _Survey(found, survey.hollow, survey.vanished)

    def stop(self) -> frozenset[Process]:
        """SIGSTOP to all: until a look finds nobody new and nobody just gone, so that nobody forks away."""
        met: set[Process] = set()
        hollow: frozenset[int] = frozenset()
        for _ in range(_MOST_LOOKS):
            look = self._look(stop=True)
            settled = not look.vanished and look.hollow <= hollow and look.found <= met
            met |= look.found
            hollow = look.hollow
            if settled:
                break
        return frozenset(met)

    def freeze(self, timeout_s: float = _END_S) -> None:
        """Everybody stands still when this returns. Raises SubstrateError.

        In one stroke by the kernel where there is a control group (`cgroup.freeze`), by signals for whoever
        is outside of it; then also for a control group that holds ourselves.
        """
        if self.cgroup is not None and self.cgroup.is_dir() and self._apart():
            set_frozen(self.cgroup, True, timeout_s)
            if self.processes() <= group_members(self.cgroup):
                return
        end = time.monotonic() + timeout_s
        for process in self.stop():
            while not _stands_still(process):
                if time.monotonic() >= end:
                    raise SubstrateError(
                        f"host {self.host}", f"process {process.pid} does not stop", "look at its state"
                    )
                time.sleep(_LOOK_S)

    def thaw(self, timeout_s: float = _END_S) -> None:
        """Everybody goes on; whoever was stopped by a signal too. Raises SubstrateError."""
        if self.cgroup is not None and self.cgroup.is_dir():
            set_frozen(self.cgroup, False, timeout_s)
        for process in self.processes():
            send(process, signal.SIGCONT)

    def _apart(self) -> bool:
        return self.cgroup is None or _lineage().isdisjoint(p.pid for p in group_members(self.cgroup))

    def kill(self, timeout_s: float = _END_S) -> tuple[Process, ...]:
        """SIGKILL to all at once; returns who was there. Raises SubstrateError when some do not end.

        With a control group the kernel kills them in one stroke (`cgroup.kill`). Else everyone is stopped
        first, until a look finds nobody new and nobody just gone, so that nobody can fork away from it.
        """
        killed: set[Process] = set()
        if self.cgroup is not None and self._apart():
            killed |= set(group_members(self.cgroup))
            _kill_group(self.cgroup)
        while True:
            everybody = self.stop()
            for process in everybody:
                send(process, signal.SIGKILL)
            killed |= everybody
            if not wait_gone(killed, timeout_s):
                left = ", ".join(str(p.pid) for p in sorted(self.processes()))
                raise SubstrateError(
                    f"host {self.host}", f"processes {left} do not end", "look at their state"
                )
            if not everybody:
                return tuple(sorted(killed))


def group_base(stack: str) -> Path | None:
    """The control group for `stack`'s hosts, made now; None where this process may not (not root, no v2)."""
    if os.geteuid() != 0:
        return None
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[0] != "cgroup2":
            continue
        base = Path(before.split()[4]) / "threenines" / stack
        try:
            base.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if (base / "cgroup.kill").exists() and os.access(base / "cgroup.procs", os.W_OK):
            return base
        remove_group(base)
    return None


def remove_group(path: Path) -> bool:
    """Removes an empty control group with those below it, and the common parent after the last stack."""
    if not path.is_dir():
        return False
    for child in (p for p in path.iterdir() if p.is_dir()):
        remove_group(child)
    with contextlib.suppress(OSError):
        path.rmdir()
    if path.parent.name == "threenines":
        with contextlib.suppress(OSError):
            path.parent.rmdir()
    return not path.exists()


def group_members(path: Path | None) -> frozenset[Process]:
    """The living processes in a control group and in those below it."""
    if path is None:
        return frozenset()
    found = set()
    for folder, _, _ in os.walk(path):
        with contextlib.suppress(OSError):
            for line in (Path(folder) / "cgroup.procs").read_text(encoding="ascii").split():
                process = identify(int(line))
                if process is not None:
                    found.add(process)
    return frozenset(found)


def set_frozen(path: Path, frozen: bool, timeout_s: float = _END_S) -> None:
    """Freezes or thaws a control group and waits until it is so (cgroup v2, cgroup.freeze).

    Raises SubstrateError when the kernel does not get there in time.
    """
    where = f"control group {path}"
    try:
        (path / "cgroup.freeze").write_text("1" if frozen else "0", encoding="ascii")
        with (path / "cgroup.events").open(encoding="ascii") as events:
            poll = select.poll()
            poll.register(events, select.POLLPRI | select.POLLERR)
            end = time.monotonic() + timeout_s
            while f"frozen {int(frozen)}" not in events.read().splitlines():
                left_ms = (end - time.monotonic()) * 1000
                if left_ms <= 0:
                    raise SubstrateError(
                        where, "it does not " + ("freeze" if frozen else "thaw"), "try again"
                    )
                poll.poll(left_ms)
                events.seek(0)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SubstrateError(
            where, f"it cannot be frozen: {reason}", "run as the user who made it"
        ) from error


def is_frozen(path: Path) -> bool:
    """Whether a control group stands still."""
    try:
        return "frozen 1" in (path / "cgroup.events").read_text(encoding="ascii").splitlines()
    except OSError:
        return False


def _kill_group(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        (path / "cgroup.kill").write_text("1", encoding="ascii")


def _pids() -> Iterator[int]:
    return iter(sorted((int(name) for name in os.listdir("/proc") if name.isdigit()), reverse=True))


def _stat(pid: int, thread: str = "") -> list[str] | None:
    """The fields of /proc/PID/stat after the command's name: state first, so field 22 is at 19.

    Of one thread where `thread` names it.
    """
    try:
        raw = Path(f"/proc/{pid}/task/{thread}/stat" if thread else f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return raw[raw.rindex(b")") + 2 :].decode("ascii").split()


def _lineage() -> frozenset[int]:
    """This process and everyone above it."""
    found: set[int] = set()
    pid = os.getpid()
    while pid > 0 and pid not in found:
        found.add(pid)
        fields = _stat(pid)
        pid = int(fields[1]) if fields else 0
    return frozenset(found)


@contextlib.contextmanager
def _opened(process: Process) -> Iterator[int | None]:
    """A pidfd of exactly `process`, None when it is gone."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield handle if identify(process.pid) == process else None
    finally:
        os.close(handle)


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
