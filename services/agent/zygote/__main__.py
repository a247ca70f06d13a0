"""`python -m services.agent.zygote`: imports, freezes, forks on request until it is killed.

Nothing here may start an event loop, a thread or a pool, or set a signal handler: children inherit them all.
`gc.disable()` stands before the imports and `gc.freeze()` after them, so that no collection ever writes to
the pages that the children share.
"""

import gc

gc.disable()

import importlib  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

DEFAULT_PRELOAD = "services.agent.reference"


def main() -> int:
    """Serves until killed; the exit status when it cannot."""
    run = os.environ.get("THREENINES_RUN")
    if not run:
        print("threenines: zygote: THREENINES_RUN is not set; start it as a unit of a stack", file=sys.stderr)
        return 64
    names = ["services.agent.runner", "services.registry.snapshot"]
    names += os.environ.get("THREENINES_PRELOAD", DEFAULT_PRELOAD).split(",")
    for name in filter(None, (name.strip() for name in names)):
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a foreign module raises: the agent that needs it will say so
            print(
                f"zygote: cannot preload {name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True
            )
    from services.agent.zygote.server import Zygote

    zygote = Zygote(Path(run))
    try:
        zygote.open()
    except OSError as error:
        print(f"threenines: zygote: {error}; is another one running here?", file=sys.stderr)
        return 3
    gc.freeze()
    return zygote.serve()


if __name__ == "__main__":
    sys.exit(main())
