"""What a limb is asked and answers: JSON lines, msgspec structs with tags. Durations are in the names."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Request(msgspec.Struct, frozen=True, kw_only=True, tag_field="ask", forbid_unknown_fields=True):
    """Base of all questions."""


class Proxies(Request, frozen=True, kw_only=True, tag="proxies"):
    """Every way of this host's Toxiproxy, as it is."""


class Toxic(msgspec.Struct, frozen=True, kw_only=True):
    """A toxic of Toxiproxy (its README, "Toxics"); `stream`: upstream (requests), downstream (answers)."""

    name: str
    type: str
    stream: str = "downstream"
    toxicity: float = 1.0
    attributes: dict[str, int] = {}


class AddToxic(Request, frozen=True, kw_only=True, tag="add-toxic"):
    """Puts a toxic on a way; one of that name is replaced."""

    proxy: str
    toxic: Toxic


class SetWay(Request, frozen=True, kw_only=True, tag="set-way"):
    """Opens or shuts a way; shut: connections are refused, those that stand are closed."""

    proxy: str
    enabled: bool


class ClearWay(Request, frozen=True, kw_only=True, tag="clear-way"):
    """Opens a way and takes these toxics from it; `toxics` None: all."""

    proxy: str
    toxics: tuple[str, ...] | None = None


class ResetWays(Request, frozen=True, kw_only=True, tag="reset-ways"):
    """Opens every way and takes every toxic."""


class Handshake(Request, frozen=True, kw_only=True, tag="handshake"):
    """Begins TLS with a server as this host does: the first exchange of any service of a stack."""

    port: int
    address: str = ""
    """Empty: this host's local address."""
    name: str
    """The host that the certificate must name."""
    timeout_ms: int = 2000
    close: bool = False
    """Also measures how long the other side takes to close after our goodbye."""


class Ping(Request, frozen=True, kw_only=True, tag="ping"):
    """Asks an agent, hostd, the zygote or the gateway for a sign of life over its own socket."""

    target: str
    """"agent/<name>", "hostd", "zygote" or "gateway"."""
    timeout_ms: int = 1000


class Call(Request, frozen=True, kw_only=True, tag="call"):
    """Calls a method of an agent over its own socket; `body` and the answer are JSON texts."""

    agent: str
    method: str
    body: str = "{}"
    timeout_ms: int = 2000


class Redis(Request, frozen=True, kw_only=True, tag="redis"):
    """Sends one command to this host's Redis, directly, with the host's certificate."""

    address: str
    port: int
    name: str
    command: tuple[str, ...]
    timeout_ms: int = 2000


class Resource(StrEnum):
    """What can be taken from everybody on a host."""

    CPU = "cpu"
    MEMORY = "memory"
    DISK = "disk"
    GPU_MEMORY = "gpu-memory"
    GPU_COMPUTE = "gpu-compute"


class Take(Request, frozen=True, kw_only=True, tag="take"):
    """Starts to take a resource, for at most `seconds`; ends with the limb at the latest.

    `amount`: processes (cpu), MiB (memory), MiB to leave free (disk), MiB or percent of a GPU.
    """

    id: str
    resource: Resource
    amount: int
    device: int = 0
    seconds: float


class Taken(Request, frozen=True, kw_only=True, tag="taken"):
    """How much of a resource is taken at present."""

    id: str


class Leave(Request, frozen=True, kw_only=True, tag="leave"):
    """Gives a resource back; also one that a limb of another harness has taken. No `id`: everything."""

    id: str = ""


class Facts(Request, frozen=True, kw_only=True, tag="facts"):
    """Free memory, free disk of the stack's data, cores."""


class Gpu(Request, frozen=True, kw_only=True, tag="gpu"):
    """A GPU as NVML has it."""

    device: int = 0


class Clock(Request, frozen=True, kw_only=True, tag="clock"):
    """The host's wall clock, in nanoseconds since 1970."""


class WriteSpeed(Request, frozen=True, kw_only=True, tag="write-speed"):
    """How long so many KiB take to be on the host's disk, in milliseconds."""

    size_kb: int = 256


AnyRequest = (
    Proxies
    | AddToxic
    | SetWay
    | ClearWay
    | ResetWays
    | Handshake
    | Ping
    | Call
    | Redis
    | Take
    | Taken
    | Leave
    | Facts
    | Gpu
    | Clock
    | WriteSpeed
)


class Question(msgspec.Struct, frozen=True):
    """A numbered question on its line."""

    number: int
    request: AnyRequest


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Its answer: `value` as the question's answer type, or why there is none.

    `hung`: nobody answered in time, so what was asked may have happened.
    """

    number: int
    value: msgspec.Raw = msgspec.Raw(b"null")
    error: str = ""
    hung: bool = False


class ProxyView(msgspec.Struct, frozen=True, kw_only=True):
    """A way as Toxiproxy has it."""

    name: str
    listen: str
    upstream: str
    enabled: bool
    toxics: tuple[Toxic, ...] = ()


class HandshakeView(msgspec.Struct, frozen=True, kw_only=True):
    """How beginning TLS went. `outcome`: ok, refused, reset, closed, timeout, or the error's words."""

    outcome: str
    took_ms: float
    bytes_in: int = 0
    pieces_in: int = 0
    close_ms: float | None = None


class PingView(msgspec.Struct, frozen=True, kw_only=True):
    """A sign of life: `outcome` as for a handshake, and the incarnation that gave it."""

    outcome: str
    took_ms: float
    incarnation: int = 0


class CallView(msgspec.Struct, frozen=True, kw_only=True):
    """An agent's answer as JSON text; `outcome` is ok, garbage, timeout, …, or the failure's code."""

    outcome: str
    took_ms: float
    body: str = ""


class RedisView(msgspec.Struct, frozen=True, kw_only=True):
    """Redis' answer in words; an error begins with "-"."""

    text: str


class TakenView(msgspec.Struct, frozen=True, kw_only=True):
    """What is taken: processes alive, CPU seconds burnt so far, MiB resident, MiB of disk, MiB left free."""

    processes: int
    cpu_s: float
    memory_mb: float
    disk_mb: float
    disk_free_mb: float
    trouble: str = ""


class FactsView(msgspec.Struct, frozen=True, kw_only=True):
    """A host's room."""

    memory_free_mb: float
    disk_free_mb: float
    disk_total_mb: float
    cores: int


class GpuView(msgspec.Struct, frozen=True, kw_only=True):
    """A device as NVML has it. `busy_percent`: the share of the last moments in which it computed."""

    name: str
    total_mb: float
    used_mb: float
    busy_percent: float
    simulated: bool
