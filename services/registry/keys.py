"""Where each record stands in etcd: `/threenines/<stack>/v1/…` (docs/contracts.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")


class Kind(StrEnum):
    """The folder under the stack's prefix."""

    HOST = "hosts"
    DEFINITION = "definitions"
    AGENT = "agents"


@dataclass(frozen=True, slots=True)
class Key:
    """A key taken apart. `host` is set for the kinds `HOST` (then equal to `name`) and `AGENT`."""

    kind: Kind
    name: str
    host: str | None = None


class Keys:
    """The keys of one stack."""

    def __init__(self, stack: str) -> None:
        _check(stack)
        self.prefix = f"/threenines/{stack}/v1/"

    def host(self, host: str) -> str:
        return f"{self.prefix}{Kind.HOST}/{_check(host)}"

    def definition(self, agent: str) -> str:
        return f"{self.prefix}{Kind.DEFINITION}/{_check(agent)}"

    def instance(self, agent: str, host: str) -> str:
        return f"{self.prefix}{Kind.AGENT}/{_check(agent)}/{_check(host)}"

    def folder(self, kind: Kind) -> str:
        """The prefix of all records of a kind."""
        return f"{self.prefix}{kind}/"

    def parse(self, key: str) -> Key | None:
        """The key taken apart, or None when it is none of ours (a newer schema's, say)."""
        if not key.startswith(self.prefix):
            return None
        parts = key[len(self.prefix) :].split("/")
        if not all(_NAME.fullmatch(part) for part in parts[1:]):
            return None
        match parts:
            case [Kind.HOST, host]:
                return Key(Kind.HOST, host, host)
            case [Kind.DEFINITION, agent]:
                return Key(Kind.DEFINITION, agent)
            case [Kind.AGENT, agent, host]:
                return Key(Kind.AGENT, agent, host)
            case _:
                return None


def _check(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name; names match {_NAME.pattern}")
    return name
