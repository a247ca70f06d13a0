"""What a forked child does before it is an agent: shed what it inherited, then serve or execute."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from infra.topology import AgentSpec
from services.agent.pace import hurry
from services.agent.runner import EXIT_CANNOT_START, run_agent
from services.agent.zygote_messages import ForkRequest


def run_child(request: ForkRequest, run: Path, descriptor_limit: int) -> NoReturn:
    """Becomes the agent and ends the process with it: never returns into the zygote's loop."""
    status = EXIT_CANNOT_START
    try:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (descriptor_limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        )
        status = _run(request, run)
    except BaseException:
        traceback.print_exc()
        status = 1
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)


def _run(request: ForkRequest, run: Path) -> int:
    spec = request.spec
    os.setsid()
    hurried = hurry()
    os.environ.update(request.env)
    _redirect(request.env.get("THREENINES_LOG"))
    _close_inherited()
    _write("/proc/self/comm", spec.name[:15])
    _write("/proc/self/oom_score_adj", "0")
    if spec.command is not None:
        _execute(spec)
    random.seed()
    gc.enable()
    return run_agent(spec, request.incarnation, run, os.environ.get("THREENINES_HOST"), hurried=hurried)


def _redirect(log: str | None) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    if log is None:
        return
    try:
        target = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        print(f"zygote: child keeps the zygote's log: {log}: {error.strerror}", file=sys.stderr, flush=True)
        return
    os.dup2(target, 1)
    os.dup2(target, 2)


def _execute(spec: AgentSpec) -> NoReturn:
    assert spec.command is not None
    program, *arguments = spec.command
    if program == "python":
        program = sys.executable
    os.environ["HOST"] = os.environ.get("THREENINES_LOCAL", "127.0.0.1")
    if spec.port is not None:
        os.environ["PORT"] = str(spec.port)
    os.environ["THREENINES_AGENT"] = spec.name
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # ignored by every Python, expected by most programs
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(program, [program, *arguments])
    except OSError as error:
        print(f"{spec.name}: cannot execute {program}: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(EXIT_CANNOT_START)


def _close_inherited() -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            with contextlib.suppress(OSError):  # the listing's own descriptor
                os.close(int(name))


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        pass  # cosmetic: the agent serves as well without it
