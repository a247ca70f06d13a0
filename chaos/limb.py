"""`python -m chaos.limb`: the harness' hand on a host. Questions come as JSON lines, answers go out likewise.

It sees what a program of the host sees: its local addresses, its sockets, its disk. Everything that it holds
ends with it, and it ends with its input. Every question is answered within its deadline.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from chaos import limb_network as network
from chaos import messages as m
from chaos.taker import HELD_DESCRIPTOR, MB, nameless
from infra.substrates import census

MARK = "THREENINES_FAULT"
"""Variable of takers: the fault that they belong to."""
_THREADS = 32
GPU_S = 20.0


class Takers:
    """Resources that are held on this host."""

    def __init__(self) -> None:
        self._held: dict[str, list[subprocess.Popen[bytes]]] = {}
        self._troubles: dict[str, str] = {}
        self._folder = os.environ.get("THREENINES_DATA", "/tmp")  # noqa: S108  # a host always has its own

    def take(self, ask: m.Take) -> int:
        """How many processes take it now."""
        count = ask.amount if ask.resource is m.Resource.CPU else 1
        # Their parent by name: one that starts late must not take whoever inherits it for that.
        kind, limits = ask.resource.value, (str(ask.amount), str(ask.seconds), str(os.getpid()))
        argv: tuple[str, ...] = ("-S", "-m", "chaos.taker", kind, *limits, self._folder)
        if kind.startswith("gpu-"):
            argv = ("-m", "chaos.gpu_taker", kind.removeprefix("gpu-"), *limits, str(ask.device))
        self._held[ask.id] = [
            subprocess.Popen(
                (sys.executable, *argv),
                env={**os.environ, MARK: ask.id},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            for _ in range(count)
        ]
        return count

    def taken(self, ask: m.Taken) -> m.TakenView:
        cpu_s = memory = disk = 0.0
        alive = 0
        for child in self._held.get(ask.id, ()):
            if child.poll() is not None:
                if child.returncode > 0 and child.stderr is not None:
                    said = child.stderr.read().decode(errors="replace").strip()
                    if said:  # only once: whoever looks later is told it too
                        self._troubles[ask.id] = said
                continue
            alive += 1
            with contextlib.suppress(OSError, ValueError, IndexError):  # it ends now, or holds no disk
                cpu_s += _cpu_s(child.pid)
                memory += _resident_bytes(child.pid) / MB
                disk += Path(f"/proc/{child.pid}/fd/{HELD_DESCRIPTOR}").stat().st_blocks * 512 / MB
        return m.TakenView(
            processes=alive,
            cpu_s=cpu_s,
            memory_mb=memory,
            disk_mb=disk,
            disk_free_mb=_disk(self._folder)[0],
            trouble=self._troubles.get(ask.id, ""),
        )

    def leave(self, ask: m.Leave) -> int:
        """Ends the takers of this host that belong to the fault; how many there were."""
        pids = [pid for pid in _marked(ask.id, os.environ.get("THREENINES_MARK", "")) if pid != os.getpid()]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for fault in [ask.id] if ask.id else list(self._held):
            self._troubles.pop(fault, None)
            for child in self._held.pop(fault, ()):
                child.wait()
                if child.stderr is not None:
                    child.stderr.close()
        return len(pids)

    def write_ms(self, size_kb: int) -> float:
        """How long so much takes to be on the disk."""
        handle = nameless(Path(self._folder))
        try:
            begin = time.monotonic()
            os.write(handle, os.urandom(size_kb << 10))
            os.fsync(handle)
            return (time.monotonic() - begin) * 1000
        finally:
            os.close(handle)

    def facts(self) -> m.FactsView:
        free, total = _disk(self._folder)
        return m.FactsView(
            memory_free_mb=_memory_free_mb(),
            disk_free_mb=free,
            disk_total_mb=total,
            cores=os.cpu_count() or 1,
        )


class Limb:
    """Answers questions, several at a time."""

    def __init__(self) -> None:
        self._takers = Takers()
        self._out = threading.Lock()

    def answer(self, ask: m.AnyRequest) -> object:
        """The answer's value. Raises OSError, network.Hung, network.Trouble."""
        match ask:
            case m.Proxies() | m.AddToxic() | m.SetWay() | m.ClearWay() | m.ResetWays():
                return network.toxiproxy(ask)
            case m.Handshake():
                return network.handshake(ask)
            case m.Ping():
                return network.ping(ask)
            case m.Call():
                return network.call(ask)
            case m.Redis():
                return network.redis(ask)
            case m.Take():
                return self._takers.take(ask)
            case m.Taken():
                return self._takers.taken(ask)
            case m.Leave():
                return self._takers.leave(ask)
            case m.Facts():
                return self._takers.facts()
            case m.Gpu():
                return gpu(ask.device)
            case m.Clock():
                return time.time_ns()
            case m.WriteSpeed():
                return self._takers.write_ms(ask.size_kb)

    def serve(self, line: bytes) -> None:
        """Answers one line."""
        question = msgspec.json.decode(line, type=m.Question)
        try:
            value = msgspec.json.encode(self.answer(question.request))
            answer = m.Answer(number=question.number, value=msgspec.Raw(value))
        except network.Hung as error:
            answer = m.Answer(number=question.number, error=str(error), hung=True)
        except (network.Trouble, OSError) as error:
            answer = m.Answer(number=question.number, error=str(error) or type(error).__name__)
        except Exception as error:  # a mistake in here must not look like a host that is silent
            answer = m.Answer(number=question.number, error=f"{type(error).__name__}: {error}")
        with self._out:
            sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
            sys.stdout.buffer.flush()

    def close(self) -> None:
        """Lets go of everything."""
        self._takers.leave(m.Leave())


def main() -> int:
    """Serves until its input ends or nobody reads its answers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the harness ends the limb
    socket.setdefaulttimeout(5.0)
    limb = Limb()
    pool = ThreadPoolExecutor(_THREADS)
    try:
        for line in sys.stdin.buffer:
            pool.submit(limb.serve, line)
    finally:
        limb.close()
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(0)  # threads may still wait for a server that hangs


def gpu(device: int) -> m.GpuView:
    """A GPU as NVML has it, read by a process of its own: a driver that hangs must not hold the limb.

    Raises network.Trouble, network.Hung.
    """
    argv = (sys.executable, "-m", "chaos.nvml", str(device))
    try:
        done = subprocess.run(argv, capture_output=True, timeout=GPU_S, check=False)
    except subprocess.TimeoutExpired:
        raise network.Hung(f"NVML did not answer in {GPU_S:g} s") from None
    if done.returncode != 0:
        raise network.Trouble(done.stderr.decode(errors="replace").strip() or "NVML cannot be read")
    return msgspec.json.decode(done.stdout, type=m.GpuView)


def _marked(fault: str, host: str) -> list[int]:
    """The processes of this host that carry the fault's mark; no fault: any."""

    def ours(environ: dict[str, str]) -> bool:
        mark = environ.get(MARK)
        return environ.get(census.MARK) == host and (mark == fault if fault else mark is not None)

    return [process.pid for process in census.marked(ours)]


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGESIZE")


def _memory_free_mb() -> float:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _disk(folder: str) -> tuple[float, float]:
    room = os.statvfs(folder)
    return room.f_bavail * room.f_frsize / MB, room.f_blocks * room.f_frsize / MB


if __name__ == "__main__":
    sys.exit(main())
