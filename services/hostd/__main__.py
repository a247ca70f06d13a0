"""`python -m services.hostd`: the daemon of a host. THREENINES_CONFIG names its configuration."""

from __future__ import annotations

import asyncio
import os
import ssl
import sys

from services.agent.log import configure
from services.hostd.config import ConfigError, load_config
from services.hostd.daemon import serve
from services.hostd.priority import stand_out
from services.registry.model import SnapshotError

EXIT_USAGE = 64
EXIT_CANNOT_WORK = 3


def main() -> int:
    """The exit status: 0 after SIGTERM, 64 for a wrong configuration, 3 when this host cannot be served."""
    path = os.environ.get("THREENINES_CONFIG")
    if not path:
        return _say("hostd: THREENINES_CONFIG is not set; start it as a unit of a stack", EXIT_USAGE)
    try:
        config = load_config(path)
    except ConfigError as error:
        return _say(str(error), EXIT_USAGE)
    configure("hostd")
    stand_out()
    try:
        return asyncio.run(serve(config))
    except SnapshotError as error:
        return _say(str(error), EXIT_CANNOT_WORK)
    except ssl.SSLError as error:
        return _say(f"{config.pki}: {error}; renew the host's certificate", EXIT_CANNOT_WORK)
    except OSError as error:
        what = f"{error.filename or config.host}: {error.strerror or error}"
        return _say(f"{what}; see that nothing else serves this host", EXIT_CANNOT_WORK)


def _say(line: str, status: int) -> int:
    print(f"threenines: {line}", file=sys.stderr, flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
