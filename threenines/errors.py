"""How errors leave the command line: one clear line on stderr and an exit status, never a traceback.

The line is `threenines: WHERE: WHAT; MEND`. Exit statuses are the contract of the project: 0 pass, 1 fail,
2 inconclusive or not proven, 3 and up the harness could not do its work, 64 usage or bad input, 70 a defect
of threenines itself, 130 stopped by Ctrl-C. Parts that must not import this module raise errors of their own
with the attributes `where`, `what`, `mend` (and `exit_status`, where 3 is not meant); `lines_of` reads those.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

PASS = 0
FAIL = 1
NOT_PROVEN = 2
HARNESS = 3
USAGE = 64
INTERNAL = 70
INTERRUPTED = 130
BROKEN_PIPE = 141

DEBUG_VARIABLE = "THREENINES_DEBUG"


class UserError(Exception):
    """Something that the person at the keyboard can mend. `exit_status` is 64 unless said otherwise."""

    def __init__(self, where: str, what: str, mend: str, *, exit_status: int = USAGE) -> None:
        super().__init__(f"{where}: {what}; {mend}")
        self.where = where
        self.what = what
        self.mend = mend
        self.exit_status = exit_status


@runtime_checkable
class Described(Protocol):
    """What an error of any package carries so that it can be told in one line."""

    where: str
    what: str
    mend: str


def one_line(text: str) -> str:
    """`text` without line breaks and without control characters that could act on a terminal."""
    flat = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in flat)


def describe(where: str, what: str, mend: str) -> str:
    """The line for stderr."""
    return one_line(f"threenines: {where}: {what}; {mend}" if mend else f"threenines: {where}: {what}")


def lines_of(error: BaseException) -> tuple[str, ...]:
    """The lines that tell `error`, or none when it is not of a kind that describes itself.

    An error with `problems` (a manifest with several mistakes) gives one line for each of them.
    """
    problems: object = getattr(error, "problems", None)
    if isinstance(problems, Iterable) and not isinstance(problems, str):
        told = tuple(describe(p.where, p.what, p.mend) for p in problems if isinstance(p, Described))
        if told:
            return told
    if isinstance(error, Described):
        return (describe(error.where, error.what, error.mend),)
    return ()


def exit_status_of(error: BaseException) -> int:
    """The status for a described error: its own, 64 when it lists problems of an input, else 3."""
    status: object = getattr(error, "exit_status", None)
    if isinstance(status, int):
        return status
    return USAGE if getattr(error, "problems", None) else HARNESS


class PipeClosed(Exception):
    """Whoever read our output went away (`threenines … | head`)."""


def usage_line(error: BaseException) -> str | None:
    """The line for a wrong command line, or `None` when `error` is something else.

    The command-line library keeps its error types private, so they are known by what they offer.
    """
    tell: object = getattr(error, "format_message", None)
    if not callable(tell):
        return None
    context: object = getattr(error, "ctx", None)
    path: object = getattr(context, "command_path", None)
    command = path if isinstance(path, str) else "threenines"
    what = str(tell()).strip().rstrip(".?").replace(". Did you mean", ", did you mean")
    return describe("usage", what[:1].lower() + what[1:], f"see `{command} --help`")
