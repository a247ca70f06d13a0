"""The harness' side of limbs: one program on each host, started when first needed, asked with deadlines."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TypeVar

import msgspec

from chaos import messages as m
from chaos.errors import NotReached, Refused
from infra.substrates.base import Substrate, SubstrateError

V = TypeVar("V")

ANSWER_S = 4.0
"""Every question ends well within this on a host that runs."""
_START_S = 10.0
"""On top for the first one: a Python start on a busy machine."""


class Limb:
    """One host's limb. Any thread may ask; answers come in any order."""

    def __init__(self, host: str, program: subprocess.Popen[bytes]) -> None:
        self.host = host
        self._program = program
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future[m.Answer]] = {}
        self._lock = threading.Lock()
        self._warm = False
        self._reader = threading.Thread(target=self._read, name=f"limb-{host}", daemon=True)
        self._reader.start()

    @property
    def alive(self) -> bool:
        """Whether the program runs (also while its host is frozen)."""
        return self._program.poll() is None

    def ask(self, request: m.AnyRequest, kind: type[V], timeout_s: float) -> V:
        """The answer. Raises NotReached (nobody answered in time), Refused (the server said no)."""
        number = next(self._numbers)
        future: Future[m.Answer] = Future()
        with self._lock:
            self._waiting[number] = future
        line = msgspec.json.encode(m.Question(number, request)) + b"\n"
        where = f"host {self.host}"
        try:
            assert self._program.stdin is not None
            self._program.stdin.write(line)
            self._program.stdin.flush()
            answer = future.result(timeout_s + (0 if self._warm else _START_S))
        except FutureTimeout:
            raise NotReached(where, f"no answer in {timeout_s:g} s", "see whether it runs") from None
        except (OSError, ValueError, EOFError):
            raise NotReached(where, "the program there has ended", "see whether it runs") from None
        finally:
            with self._lock:
                self._waiting.pop(number, None)
        self._warm = True
        if answer.hung:
            raise NotReached(where, answer.error, "it may have happened all the same")
        if answer.error:
            raise Refused(where, answer.error, "look at that server's log")
        return msgspec.json.decode(answer.value, type=kind)

    def close(self) -> None:
        """Ends the program, and with it all that it holds."""
        with contextlib.suppress(OSError):
            if self._program.stdin is not None:
                self._program.stdin.close()
        try:
            self._program.wait(2)
        except subprocess.TimeoutExpired:  # its host is frozen
            self._program.kill()
        self._reader.join(2)

    def _read(self) -> None:
        assert self._program.stdout is not None
        with contextlib.suppress(OSError, ValueError, msgspec.MsgspecError):
            for line in self._program.stdout:
                answer = msgspec.json.decode(line, type=m.Answer)
                with self._lock:
                    future = self._waiting.get(answer.number)
                if future is not None and not future.done():
                    future.set_result(answer)
        self._program.stdout.close()
        with self._lock:
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(EOFError())


class Reach:
    """The limbs of a stack. Safe between threads."""

    def __init__(self, substrate: Substrate) -> None:
        self._substrate = substrate
        self._limbs: dict[str, Limb] = {}
        self._lock = threading.Lock()

    def ask(self, host: str, request: m.AnyRequest, kind: type[V], timeout_s: float = ANSWER_S) -> V:
        """Asks on a host. Raises NotReached, Refused."""
        return self._limb(host).ask(request, kind, timeout_s)

    def close(self) -> None:
        """Ends every limb."""
        with self._lock:
            limbs, self._limbs = list(self._limbs.values()), {}
        for limb in limbs:
            limb.close()

    def _limb(self, host: str) -> Limb:
        with self._lock:
            limb = self._limbs.get(host)
            if limb is None or not limb.alive:
                try:
                    program = self._substrate.spawn(
                        host,
                        ("python", "-m", "chaos.limb"),
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.DEVNULL,
                    )
                except SubstrateError as error:
                    raise NotReached(error.where, error.what, error.mend) from error
                limb = self._limbs[host] = Limb(host, program)
            return limb
