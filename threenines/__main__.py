"""The command line: reads the arguments, runs one command, turns its outcome into an exit status."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Sequence
from itertools import pairwise

from threenines import errors

PROGRAM = "threenines"
COMPLETION = frozenset({"--install-completion", "--show-completion"})
SHELLS = frozenset({"bash", "zsh", "fish", "powershell", "pwsh"})
NAMED_SHELL = "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"
"""Typer's switch between looking for the calling shell and being told its name."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `threenines` program; leaves by `SystemExit` with the command's status."""
    status = run(arguments)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # What reads our output has gone: nobody is left to tell. Keep the interpreter's own last flush quiet.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = errors.BROKEN_PIPE
    raise SystemExit(status)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; errors are told on stderr."""
    try:
        from threenines.commands import build

        given = list(sys.argv[1:] if arguments is None else arguments)
        if names_shell(given):
            os.environ[NAMED_SHELL] = "1"
        outcome = build().main(given or ["--help"], prog_name=PROGRAM, standalone_mode=False)
    except KeyboardInterrupt:
        return _interrupted()
    except errors.PipeClosed:
        return errors.BROKEN_PIPE
    except Exception as error:
        return _told(error)
    status = outcome if isinstance(outcome, int) else errors.PASS
    return _interrupted() if status == errors.INTERRUPTED else status


def names_shell(arguments: Sequence[str]) -> bool:
    """True when a completion option names its shell: called by make or cron, there is none to find."""
    return any(a in COMPLETION and b in SHELLS for a, b in pairwise(arguments))


def _interrupted() -> int:
    _say(("", "threenines: interrupted"))
    return errors.INTERRUPTED


def _told(error: Exception) -> int:
    if os.environ.get(errors.DEBUG_VARIABLE, "") not in {"", "0"}:
        traceback.print_exception(error)
    usage = errors.usage_line(error)
    if usage is not None:
        _say((usage,))
        return errors.USAGE
    lines = errors.lines_of(error)
    if lines:
        _say(lines)
        return errors.exit_status_of(error)
    name = type(error).__name__
    what = errors.one_line(f"{name}: {error}" if str(error) else name)
    _say((f"threenines: internal: {what}; run again with {errors.DEBUG_VARIABLE}=1 for the traceback",))
    return errors.INTERNAL


def _say(lines: Sequence[str]) -> None:
    with contextlib.suppress(OSError):
        sys.stderr.write("\n".join(lines) + "\n")
        sys.stderr.flush()


if __name__ == "__main__":
    main()
