"""The agents of the reference fleet: small work of the kind that an assistant system's agents do.

Every one of them answers `ask`, `remember`, `recall` and `stats`, keeps bounded state, calls the agents that
it depends on (never deeper than the `depth` of the request) and burns `work_us` of CPU per request.
"""

from __future__ import annotations

import asyncio
import os
import time
import zlib
from collections import Counter
from typing import ClassVar, Final, TypeVar, cast

import msgspec

from infra.topology import AgentSpec
from services.agent.errors import AgentError, CallError
from services.agent.sdk import Agent, Caller, method
from services.agent.state import State

MAX_DEPTH: Final = 4
MAX_TEXT: Final = 16_384
MAX_KEY: Final = 256
WORK_US: Final = 50
ASK_LIMIT_S: Final = 2.0
CHAOS: Final = "THREENINES_CHAOS"
MODES: Final = ("none", "errors", "slow", "wrong", "garbage", "stall", "no-model")
MAX_FAULT_S: Final = 120.0


class Ask(msgspec.Struct, frozen=True):
    """A question; `depth` is how many more agents deep it may be passed on."""

    text: str
    depth: int = 0


class Answer(msgspec.Struct, frozen=True):
    """`chain` names who worked on it, in order; `missing` the dependencies that could not be asked."""

    text: str
    agent: str
    incarnation: int
    chain: list[str]
    missing: list[str]


class Remember(msgspec.Struct, frozen=True):
    """A value to keep under a key."""

    key: str
    value: str


class Recall(msgspec.Struct, frozen=True):
    """The key of a value."""

    key: str


class Recalled(msgspec.Struct, frozen=True):
    """The value, or None when there is none (any more)."""

    key: str
    value: str | None


class Store(msgspec.Struct, frozen=True):
    """A value for a register."""

    key: str
    value: str


class Stored(msgspec.Struct, frozen=True):
    """A register's value (None: never written), and who acted at which epoch to say so."""

    key: str
    value: str | None
    host: str
    epoch: int
    incarnation: int


class Misbehave(msgspec.Struct, frozen=True):
    """How to fail from now on, for `seconds`.

    `errors` (every call), `slow` (none answers), `wrong` (values that nobody stored), `garbage` (bytes in
    place of answers), `stall` (the event loop stands still), `no-model` (nothing is generated), `none`.
    """

    mode: str
    seconds: float = 30.0


class Stats(msgspec.Struct, frozen=True):
    """What an agent has done since it started."""

    agent: str
    incarnation: int
    uptime_s: float
    handled: dict[str, int]
    state_items: int


WRONG: Final[dict[type, str]] = {Answer: "text", Recalled: "value", Stored: "value"}
"""What of an answer is false while an agent answers wrongly."""
S = TypeVar("S", Answer, Recalled, Stored)


class ReferenceAgent(Agent):
    """Passes a question to its dependencies, round robin, and adds its own word to what comes back."""

    role: ClassVar[str] = "reference"

    def __init__(
        self,
        spec: AgentSpec,
        *,
        incarnation: int = 0,
        caller: Caller | None = None,
        state: State | None = None,
    ) -> None:
        super().__init__(spec, incarnation=incarnation, caller=caller, state=state)
        self._began = time.monotonic()
        self._handled: Counter[str] = Counter()
        self._turn = 0
        self._work_us = float(self.settings.get("work_us", WORK_US))
        self._fan_out = int(self.settings.get("fan_out", 1))
        self._mode = "none"
        self._mode_until = 0.0

    @method(idempotent=True)
    async def ask(self, request: Ask) -> Answer:
        """Works on a question, with the help of dependencies while `depth` lasts."""
        if self._mode != "none":
            await self._fail()
        if len(request.text) > MAX_TEXT:
            raise AgentError(f"text of {len(request.text)} characters, at most {MAX_TEXT} are taken")
        self._handled["ask"] += 1
        digest = self.work(request.text)
        text = self.think(request.text, digest)
        chain, missing = [self.name], []
        if request.depth > 0:
            asked = Ask(text, min(request.depth, MAX_DEPTH) - 1)
            for name, answer in await asyncio.gather(*(self._pass_on(n, asked) for n in self._next())):
                if answer is None:
                    missing.append(name)
                else:
                    chain += answer.chain
                    missing += answer.missing
        return self._spoil(Answer(text, self.name, self.incarnation, chain, missing))

    @method(idempotent=True)
    async def remember(self, request: Remember) -> Recalled:
        """Keeps a value; the least recently used one goes when there are too many."""
        if self._mode != "none":
            await self._fail()
        if not 0 < len(request.key) <= MAX_KEY:
            raise AgentError(f"key of {len(request.key)} characters, 1 to {MAX_KEY} are taken")
        self._handled["remember"] += 1
        await self.state.put(f"key/{request.key}", request.value[:MAX_TEXT])
        return Recalled(request.key, request.value[:MAX_TEXT])

    @method(idempotent=True)
    async def recall(self, request: Recall) -> Recalled:
        """The value kept under a key."""
        if self._mode != "none":
            await self._fail()
        self._handled["recall"] += 1
        value = await self.state.get(f"key/{request.key}")
        return self._spoil(Recalled(request.key, None if value is None else str(value)))

    @method()
    async def store(self, request: Store) -> Stored:
        """Writes a register. Never repeated by a caller's library: an outcome that is unknown stays so."""
        if not 0 < len(request.key) <= MAX_KEY:
            raise AgentError(f"key of {len(request.key)} characters, 1 to {MAX_KEY} are taken")
        if self._mode != "none":
            await self._fail()
        epoch = self.epoch
        value = request.value[:MAX_TEXT]
        await self.state.put(f"register/{request.key}", value)
        return self._stored(request.key, value, epoch)

    @method(idempotent=True)
    async def fetch(self, request: Recall) -> Stored:
        """Reads a register."""
        if self._mode != "none":
            await self._fail()
        epoch = self.epoch
        value = await self.state.get(f"register/{request.key}")
        return self._spoil(self._stored(request.key, None if value is None else str(value), epoch))

    @method()
    def misbehave(self, request: Misbehave) -> str:
        """Fails on purpose until the time is up or the process is replaced; only where chaos is allowed."""
        if os.environ.get(CHAOS) != "1":
            raise AgentError("this stack does not allow faults")
        if request.mode not in MODES:
            raise AgentError(f"mode {request.mode[:40]!r}: one of {', '.join(MODES)}")
        self._mode = request.mode
        seconds = min(max(request.seconds, 0.0), MAX_FAULT_S)
        self._mode_until = time.monotonic() + seconds
        if request.mode == "stall":  # after the answer to this has left
            asyncio.get_running_loop().call_later(0.05, time.sleep, seconds)
        return request.mode

    async def _fail(self) -> None:
        if time.monotonic() >= self._mode_until:
            self._mode = "none"
        elif self._mode == "slow":
            await asyncio.sleep(self._mode_until - time.monotonic())
        elif self._mode == "errors":
            raise RuntimeError("misbehaves as it was told to")

    def _spoil(self, answer: S) -> S:
        """The answer, or what stands in its place while this agent misbehaves."""
        if time.monotonic() >= self._mode_until:
            return answer
        if self._mode == "garbage":
            return cast(S, os.urandom(64))
        if self._mode == "wrong":
            return msgspec.structs.replace(answer, **{WRONG[type(answer)]: f"wrong-{os.urandom(4).hex()}"})
        return answer

    def _stored(self, key: str, value: str | None, epoch: int) -> Stored:
        host = os.environ.get("THREENINES_HOST", "")
        return Stored(key, value, host, epoch, self.incarnation)

    @method(idempotent=True)
    def stats(self) -> Stats:
        """What this agent has done since it started."""
        uptime_s = time.monotonic() - self._began
        return Stats(self.name, self.incarnation, uptime_s, dict(self._handled), len(self.state))

    def think(self, text: str, digest: int) -> str:
        """This agent's word on a text; what subclasses change."""
        return f"{self.role} {digest:08x}: {text[:200]}"

    def work(self, text: str) -> int:
        """Burns the agent's `work_us` of CPU on a text; a checksum of it."""
        data = text.encode()
        digest = zlib.crc32(data)
        until = time.thread_time() + self._work_us / 1e6
        while time.thread_time() < until:
            digest = zlib.crc32(data, digest)
        return digest

    def _next(self) -> list[str]:
        names = self.spec.depends_on
        if not names:
            return []
        start, count = self._turn % len(names), min(self._fan_out, len(names))
        self._turn += 1
        return [names[(start + i) % len(names)] for i in range(count)]

    async def _pass_on(self, name: str, request: Ask) -> tuple[str, Answer | None]:
        # An answer without one helper is worth more than none: what failed is named in `missing`.
        try:
            reply = await self.call(name, "ask", request, timeout_s=ASK_LIMIT_S)
            return name, msgspec.convert(reply, Answer)
        except (CallError, msgspec.ValidationError):
            self._handled["missing"] += 1
            return name, None


class Matches(msgspec.Struct, frozen=True):
    """Keys that fit, oldest use first."""

    keys: list[str]


class Search(msgspec.Struct, frozen=True):
    """What keys must begin with, and how many are wanted."""

    prefix: str
    limit: int = 20


class MemoryAgent(ReferenceAgent):
    """Finds what was remembered."""

    role = "memory"

    @method(idempotent=True)
    async def search(self, request: Search) -> Matches:
        """Keys of remembered values by prefix."""
        self._handled["search"] += 1
        keys = await self.state.keys(f"key/{request.prefix}")
        return Matches([key.removeprefix("key/") for key in keys[: max(0, request.limit)]])


class Steps(msgspec.Struct, frozen=True):
    """A plan as steps in order."""

    steps: list[str]


class ReasoningAgent(ReferenceAgent):
    """Takes a task apart."""

    role = "reasoning"

    @method(idempotent=True)
    async def plan(self, request: Ask) -> Steps:
        """The clauses of a text, in the order in which they would be worked on."""
        self._handled["plan"] += 1
        self.work(request.text)
        clauses = request.text.replace(";", ".").replace(" then ", ".").split(".")
        return Steps([clause.strip() for clause in clauses if clause.strip()][:32])


class SpeechAgent(ReferenceAgent):
    """Splits what would be spoken into phrases."""

    role = "speech"

    def think(self, text: str, digest: int) -> str:
        words = text.split()[:60]
        return " | ".join(" ".join(words[i : i + 6]) for i in range(0, len(words), 6))


class Frame(msgspec.Struct, frozen=True):
    """One grey picture, row by row."""

    width: int
    height: int
    pixels: bytes


class Seen(msgspec.Struct, frozen=True):
    """Mean brightness (0 to 255), and the share of pixels at edges (0 to 1)."""

    brightness: float
    edges: float


class VisionAgent(ReferenceAgent):
    """Looks at small pictures."""

    role = "vision"

    @method(idempotent=True)
    async def look(self, request: Frame) -> Seen:
        """Brightness and edges of a picture."""
        size = request.width * request.height
        if request.width < 2 or request.height < 1 or size != len(request.pixels) or size > 16_384:
            raise AgentError(f"{request.width} x {request.height} does not fit {len(request.pixels)} pixels")
        self._handled["look"] += 1
        pixels, width = request.pixels, request.width
        edges = sum(abs(pixels[i] - pixels[i + 1]) > 32 for i in range(size - 1) if i % width != width - 1)
        return Seen(sum(pixels) / size, edges / size)


class Use(msgspec.Struct, frozen=True):
    """A tool by name and what it is to work on."""

    tool: str
    text: str


class ToolAgent(ReferenceAgent):
    """Runs small tools on a text."""

    role = "tool"

    @method(idempotent=True)
    async def use(self, request: Use) -> Answer:
        """Runs one of: count, reverse, upper, digest."""
        self._handled["use"] += 1
        match request.tool:
            case "count":
                result = str(len(request.text.split()))
            case "reverse":
                result = request.text[::-1]
            case "upper":
                result = request.text.upper()
            case "digest":
                result = f"{self.work(request.text):08x}"
            case _:
                raise AgentError(f"no tool {request.tool[:64]!r}; there are count, reverse, upper, digest")
        return Answer(result, self.name, self.incarnation, [self.name], [])


class Translate(msgspec.Struct, frozen=True):
    """A text and the language that it is to be put into (a two-letter code)."""

    text: str
    language: str


class TranslationAgent(ReferenceAgent):
    """Marks a text as translated, with a memory of what it did before."""

    role = "translation"

    @method(idempotent=True)
    async def translate(self, request: Translate) -> Answer:
        """The text, tagged with its language; repeated texts come from the agent's memory."""
        self._handled["translate"] += 1
        key = f"tm/{request.language}/{zlib.crc32(request.text.encode()):08x}"
        known = await self.state.get(key)
        if known is None:
            self.work(request.text)
            known = f"[{request.language}] {request.text[:MAX_TEXT]}"
            await self.state.put(key, known)
        return Answer(str(known), self.name, self.incarnation, [self.name], [])


class Example(msgspec.Struct, frozen=True):
    """One observation of a label."""

    label: str
    value: float


class Learned(msgspec.Struct, frozen=True):
    """Count, mean and variance of a label so far."""

    label: str
    count: int
    mean: float
    variance: float


class LearningAgent(ReferenceAgent):
    """Keeps running statistics of what it is shown (Welford's algorithm, Technometrics 1962)."""

    role = "learning"

    @method()
    async def learn(self, request: Example) -> Learned:
        """Adds one observation: not idempotent, a repeat counts twice."""
        self._handled["learn"] += 1
        key = f"learned/{request.label[:MAX_KEY]}"
        known = await self.state.get(key)
        count, mean, spread = msgspec.convert(known or [0, 0.0, 0.0], tuple[int, float, float])
        count += 1
        delta = request.value - mean
        mean += delta / count
        spread += delta * (request.value - mean)
        await self.state.put(key, [count, mean, spread])
        return Learned(request.label, count, mean, spread / count)


class Watched(msgspec.Struct, frozen=True):
    """Which of the watched agents answered a ping."""

    up: list[str]
    down: list[str]


class MonitorAgent(ReferenceAgent):
    """Asks its dependencies whether they are there."""

    role = "monitor"

    @method(idempotent=True)
    async def watch(self) -> Watched:
        """Pings every dependency."""
        self._handled["watch"] += 1
        names = self.spec.depends_on
        answers = await asyncio.gather(*(self._pings(name) for name in names))
        up = [name for name, answered in zip(names, answers, strict=True) if answered]
        return Watched(up, [name for name in names if name not in up])

    async def _pings(self, name: str) -> bool:
        try:
            await self.call(name, "_ping", timeout_s=0.5)
        except CallError:
            return False
        return True


class ModelAgent(ReferenceAgent):
    """Stands for an agent that keeps a model: generates text token by token from a fixed chain."""

    role = "model"
    concurrency = 16

    @method(idempotent=True)
    async def generate(self, request: Ask) -> Answer:
        """Some words that follow from the text: the same text gives the same words."""
        self._handled["generate"] += 1
        if self._mode == "no-model" and time.monotonic() < self._mode_until:
            raise RuntimeError("the model cannot be loaded")
        digest, words = self.work(request.text), request.text.split()[:256] or ["nothing"]
        out = []
        for _ in range(min(int(self.settings.get("tokens", 16)), 256)):
            digest = zlib.crc32(digest.to_bytes(4, "big"))
            out.append(words[digest % len(words)])
        return Answer(" ".join(out), self.name, self.incarnation, [self.name], [])
