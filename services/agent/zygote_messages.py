"""Bodies of the zygote's methods (docs/contracts.md, Zygote)."""

from __future__ import annotations

import msgspec

from infra.topology import AgentSpec


class ForkRequest(msgspec.Struct, frozen=True):
    """Body of `fork`: the agent to start, and what is added to its environment."""

    spec: AgentSpec
    incarnation: int
    env: dict[str, str] = {}


class Forked(msgspec.Struct, frozen=True):
    """Answer of `fork`; the pidfd comes beside it. `forked_ns`: `CLOCK_BOOTTIME`."""

    pid: int
    forked_ns: int


class Running(msgspec.Struct, frozen=True):
    """One entry of `list`; its pidfd comes beside it."""

    name: str
    pid: int
    incarnation: int


class Exit(msgspec.Struct, frozen=True):
    """One entry of `exits`. `status`: exit status, or minus the signal that ended it."""

    name: str
    pid: int
    incarnation: int
    status: int


FDS_PER_MESSAGE = 250
"""Descriptors on one message; the kernel takes at most 253 (SCM_MAX_FD)."""
