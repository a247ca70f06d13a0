"""What can go wrong with a call, as types.

A *definite* error means that the call had no effect that its caller must fear (it was refused, or its handler
said no); an *indeterminate* one means that nobody knows whether the handler ran to its end.
"""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """The codes of a `Failure` on the wire (docs/contracts.md, Wire)."""

    NOT_FOUND = "not-found"
    NO_METHOD = "no-method"
    BAD_REQUEST = "bad-request"
    HANDLER_ERROR = "handler-error"
    TOO_LARGE = "too-large"
    DRAINING = "draining"
    FENCED = "fenced"
    OVERLOADED = "overloaded"
    UNAVAILABLE = "unavailable"
    DEADLINE = "deadline"
    INDETERMINATE = "indeterminate"


DEFINITE: frozenset[str] = frozenset(Code) - {Code.DEADLINE, Code.INDETERMINATE}


class FrameError(Exception):
    """The bytes of a peer are no frame of ours: fatal for that connection, and only for it."""


class CallError(Exception):
    """A call that did not bring a reply. `code` is a `Code` (or one that a newer peer invented)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = str(code)
        self.message = message

    @property
    def definite(self) -> bool:
        """True when the outcome is known; an unknown code counts as unknown."""
        return self.code in DEFINITE


class AgentError(Exception):
    """Raised by a handler that refuses a request on purpose: its one line goes to the caller.

    The caller gets it as `bad-request`; any other exception of a handler becomes `handler-error`.
    """
