"""The harness's ends of its programs on the hosts: probes that obey, load generators that run."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO

import msgspec

from infra.substrates.base import Substrate
from loadtests.protocol import CONTROL_PREFIX, AnyAnswer, AnyCommand, Done, Hello, Stop
from loadtests.raw import Raw
from loadtests.record import Record
from verification.history import Journal

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 5.0
CHUNK_BYTES = 1 << 16
EVERY = "*"
"""In place of a key: records with any."""

Listener = Callable[[Record], None]


class LinkError(Exception):
    """A program on a host that does not do its work: where, what, mend. The harness cannot go on."""

    exit_status = 3

    def __init__(self, where: str, what: str, mend: str) -> None:
        super().__init__(f"{where}: {what}; {mend}")
        self.where = where
        self.what = what
        self.mend = mend


class ProbeLink:
    """One probe on one host. Its records go to the journal as they come; listeners see those of their key."""

    def __init__(self, host: str, process: subprocess.Popen[bytes], journal: Journal, log: Path) -> None:
        self.host = host
        self._process = process
        self._journal = journal
        self._log = log
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Done]] = {}
        self._listeners: dict[str | None, list[Listener]] = {}
        self._hello: asyncio.Future[Hello] = asyncio.get_running_loop().create_future()
        self._answers = msgspec.json.Decoder(AnyAnswer)
        self._records = msgspec.json.Decoder(Record)
        self._reading: asyncio.Task[None] | None = None
        self._ending = False
        self.ended = asyncio.Event()
        """Set when its output has ended: its process is gone."""

    @classmethod
    async def start(cls, substrate: Substrate, host: str, journal: Journal, log: Path) -> ProbeLink:
        """Starts a probe on `host` and waits until it answers. Raises LinkError."""
        process = await _spawned(partial(_spawn_probe, substrate, host, log))
        link = cls(host, process, journal, log)
        link._reading = asyncio.create_task(link._read())
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await asyncio.shield(link._hello)
        except TimeoutError:
            await link.close()
            raise link._error("did not answer") from None
        except BaseException:
            await link.close()
            raise
        return link

    async def ask(self, command: AnyCommand, timeout_s: float | None = None) -> Done:
        """Sends the command under an id of its own and waits for its answer.

        Raises LinkError when the probe is gone, TimeoutError after `timeout_s`. A command that failed is
        answered with `error` set: that is for the caller to judge.
        """
        command = msgspec.structs.replace(command, id=next(self._ids))
        if self._reading is None or self._reading.done():
            raise self._error("has ended")
        future: asyncio.Future[Done] = asyncio.get_running_loop().create_future()
        self._waiting[command.id] = future
        try:
            self._send(command)
            async with asyncio.timeout(timeout_s):
                return await future
        finally:
            self._waiting.pop(command.id, None)

    @contextlib.contextmanager
    def listening(self, key: str | None, listener: Listener) -> Iterator[None]:
        """While it lasts, `listener` gets every record with this key; `EVERY`: with any."""
        self._listeners.setdefault(key, []).append(listener)
        try:
            yield
        finally:
            self._listeners[key].remove(listener)
            if not self._listeners[key]:
                del self._listeners[key]

    async def close(self) -> None:
        """Ends the probe: asks, waits, kills."""
        self._ending = True
        if self._reading is not None and not self._reading.done():
            with contextlib.suppress(OSError):
                self._send(Stop(id=0))
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        await _end(self._process, STOP_TIMEOUT_S)
        if self._reading is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await asyncio.gather(self._reading, return_exceptions=True)
            self._reading.cancel()

    def _send(self, command: AnyCommand) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(msgspec.json.encode(command) + b"\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            raise self._error("has ended") from None

    async def _read(self) -> None:
        assert self._process.stdout is not None
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=CHUNK_BYTES * 16)
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), self._process.stdout
        )
        rest = b""
        try:
            while data := await reader.read(CHUNK_BYTES):
                *lines, rest = (rest + data).split(b"\n")
                self._take(lines)
        finally:
            transport.close()
            self.ended.set()
            waiting: list[asyncio.Future[Done] | asyncio.Future[Hello]] = [
                *self._waiting.values(),
                self._hello,
            ]
            for future in waiting:
                if not future.done():
                    future.set_exception(self._error("has ended"))
                    future.exception()  # whoever waits gets it; nobody waiting is no fault

    def _take(self, lines: list[bytes]) -> None:
        history = [line for line in lines if not line.startswith(CONTROL_PREFIX)]
        if history:
            self._journal.write(b"\n".join(history) + b"\n")
        for line in lines:
            if line.startswith(CONTROL_PREFIX):
                self._answered(self._answers.decode(line))
            elif self._listeners:
                record = self._records.decode(line)
                for listener in (*self._listeners.get(record.key, ()), *self._listeners.get(EVERY, ())):
                    listener(record)

    def _answered(self, answer: AnyAnswer) -> None:
        if isinstance(answer, Hello):
            if not self._hello.done():
                self._hello.set_result(answer)
            return
        future = self._waiting.get(answer.id)
        if future is not None and not future.done():
            future.set_result(answer)

    def _error(self, what: str) -> LinkError:
        return LinkError(f"probe on {self.host}", f"{what}{_last_words(self._log)}", f"see {self._log}")


class LoadLink:
    """A Locust on one host; its history goes straight to a file."""

    def __init__(self, host: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.host = host
        self._process = process
        self._log = log

    @classmethod
    async def start(
        cls,
        substrate: Substrate,
        host: str,
        *,
        workload: str,
        users: int,
        seed: int,
        raw: Raw = Raw.ALL,
        run_s: int,
        history: Path,
        log: Path,
    ) -> LoadLink:
        """Starts the load; it ends by itself with this process, or after `run_s`. Raises LinkError."""
        argv = [
            *("python", "-m", "locust", "-f", locustfile(), "--headless", "--only-summary"),
            *("--users", str(users), "--spawn-rate", str(users), "--run-time", f"{run_s}s"),
            *("--workload", workload, "--history", "-", "--raw", raw.value, "--seed", str(seed)),
            "--end-with-input",
        ]
        process = await _spawned(partial(_spawn_load, substrate, host, argv, history, log))
        link = cls(host, process, log)
        try:
            await link._until_it_runs(history)
        except BaseException:
            await asyncio.shield(link.stop())
            raise
        return link

    async def _until_it_runs(self, history: Path) -> None:
        """Waits for the first line of its history, which it writes when the load begins."""
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while not await asyncio.to_thread(_has_content, history):
                    self.check()
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise self._error("did not begin") from None

    def check(self) -> None:
        """Raises LinkError when it has ended."""
        if self._process.poll() is not None:
            raise self._error(f"ended with status {self._process.returncode}")

    async def stop(self) -> None:
        """Ends the load; what it has done is written."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        await _end(self._process, STOP_TIMEOUT_S * 2)

    def _error(self, what: str) -> LinkError:
        return LinkError(f"load on {self.host}", f"{what}{_last_words(self._log)}", f"see {self._log}")


def locustfile() -> str:
    """The path of the locustfile."""
    import loadtests

    return str(Path(loadtests.__file__).parent / "locustfile.py")


def _spawn_probe(substrate: Substrate, host: str, log: Path) -> subprocess.Popen[bytes]:
    log.parent.mkdir(parents=True, exist_ok=True)
    argv = ["python", "-m", "loadtests.probe"]
    with open(log, "ab") as errors:
        return substrate.spawn(host, argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)


def _spawn_load(
    substrate: Substrate, host: str, argv: list[str], history: Path, log: Path
) -> subprocess.Popen[bytes]:
    history.parent.mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(history, "ab") as out, open(log, "ab") as errors:
        return substrate.spawn(host, argv, stdin=subprocess.PIPE, stdout=out, stderr=errors)


async def _spawned(spawn: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    """The program that `spawn` starts in a thread; one that nobody waits for any more is ended again."""
    task = asyncio.create_task(asyncio.to_thread(spawn))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        process = await task
        process.kill()
        await _end(process, STOP_TIMEOUT_S)
        raise


def _has_content(path: Path) -> bool:
    return path.stat().st_size > 0


async def _end(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    try:
        await asyncio.to_thread(process.wait, timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        await asyncio.to_thread(process.wait)
    _close(process.stdin)


def _close(stream: IO[bytes] | None) -> None:
    if stream is not None:
        with contextlib.suppress(OSError):
            stream.close()


def _last_words(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return f" ({lines[-1][:300]})" if lines else ""
