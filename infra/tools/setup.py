"""Brings everything that a fresh machine lacks: `make setup`, or `python3 -m infra.tools.setup`.

Only the standard library is used, since this runs before anything is installed. Everything lands in
`.venv/` and `.tools/` of the checkout. Finished steps are stamped and skipped the next time.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__" and not __package__:  # run as a file: make `infra` importable
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import argparse
import fcntl
import os
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from infra.tools.children import Children, Stopped, error_of
from infra.tools.errors import EXIT_CANNOT_WORK, SetupError
from infra.tools.layout import Layout
from infra.tools.plan import plan_setup
from infra.tools.python_env import require_python
from infra.tools.steps import Progress, pending_steps, run_steps

EXIT_USAGE = 64
EXIT_INTERRUPTED = 130
LOCK_PATIENCE_S = 900.0
_LOCK_POLL_S = 0.5


def main(argv: Sequence[str] | None = None) -> int:
    """Set up, and return the exit status: 0, 3 (could not), 64 (usage), 130 (interrupted)."""
    arguments = _parse(sys.argv[1:] if argv is None else argv)
    layout = Layout(arguments.root.resolve())
    children = Children(layout.logs)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        require_python(sys.version_info[:2])
        with only_one(layout.lock):
            bring_all(layout, children)
    except SetupError as error:
        print(error.line(), file=sys.stderr)
        return EXIT_CANNOT_WORK
    except OSError as error:
        print(error_of("setup", error).line(), file=sys.stderr)
        return EXIT_CANNOT_WORK
    except (KeyboardInterrupt, Stopped):
        children.stop()
        print("threenines: setup: interrupted; run make setup again, it goes on from here", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def bring_all(layout: Layout, children: Children) -> None:
    """Run the steps that are not done yet. Raises SetupError."""
    progress = Progress(_say)
    steps = plan_setup(layout, children)
    pending = pending_steps(steps)
    if not pending:
        took_s = progress.elapsed_s()
        _say(f"set-up is complete: {len(steps)} steps, all done before (checked in {took_s:.1f} s)")
        return
    shutil.rmtree(layout.scratch, ignore_errors=True)
    layout.scratch.mkdir(parents=True)
    run_steps(pending, children, progress)
    _say(f"set-up is complete: {len(pending)} of {len(steps)} steps done in {progress.elapsed_s():.0f} s")


@contextmanager
def only_one(lock: Path, patience_s: float = LOCK_PATIENCE_S) -> Iterator[None]:
    """Hold the lock of the set-up; wait for another one that runs. Raises SetupError after `patience_s`."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+") as file:
        deadline = time.monotonic() + patience_s
        told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "unknown"
            if time.monotonic() >= deadline:
                what = f"another set-up (process {holder}) still runs"
                raise SetupError("setup", what, "wait for it, or end it, and run make setup again")
            if not told:
                _say(f"another set-up runs (process {holder}): waiting for it")
                told = True
            time.sleep(_LOCK_POLL_S)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="setup", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(__file__).resolve().parents[2],
        help="the checkout (default: this one)",
    )
    try:
        return parser.parse_args(argv)
    except SystemExit as leaving:
        raise SystemExit(EXIT_USAGE if leaving.code else 0) from None


def _say(line: str) -> None:
    print(line, flush=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    raise SystemExit(main())
