"""`python -m services.agent SPEC.json`: one agent in an interpreter of its own, without a zygote.

SPEC.json is an `AgentSpec`; `-` reads it from standard input. For development, and the benchmarks'
baseline.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import msgspec

from infra.topology import AgentSpec
from services.agent.runner import run_agent


def main() -> int:
    """The exit status."""
    run = os.environ.get("THREENINES_RUN")
    if len(sys.argv) != 2 or not run:
        print("threenines: services.agent: needs THREENINES_RUN and one argument; SPEC.json", file=sys.stderr)
        return 64
    try:
        text = sys.stdin.buffer.read() if sys.argv[1] == "-" else Path(sys.argv[1]).read_bytes()
        spec = msgspec.json.decode(text, type=AgentSpec)
    except (OSError, msgspec.DecodeError) as error:
        print(f"threenines: {sys.argv[1]}: {error}; give an AgentSpec as JSON", file=sys.stderr)
        return 64
    incarnation = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return run_agent(spec, incarnation, Path(run), os.environ.get("THREENINES_HOST"))


if __name__ == "__main__":
    sys.exit(main())
