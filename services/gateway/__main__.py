"""`python -m services.gateway`: serves until SIGTERM."""

from __future__ import annotations

import asyncio
import signal
import sys

from services.agent.log import configure
from services.agent.loop import new_event_loop
from services.gateway.config import ConfigError, GatewayConfig, load_config
from services.gateway.server import Gateway, ListenError


def main() -> int:
    """0 after SIGTERM, 64 for a wrong configuration, 3 when it cannot listen."""
    configure("gateway")
    try:
        config = load_config()
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(_serve(config))
    except ConfigError as error:
        print(f"threenines: gateway: {error}", file=sys.stderr)
        return 64
    except ListenError as error:
        print(f"threenines: gateway: {error}", file=sys.stderr)
        return 3
    return 0


async def _serve(config: GatewayConfig) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    gateway = Gateway(config)
    await gateway.start()
    await stop.wait()
    await gateway.stop()


if __name__ == "__main__":
    sys.exit(main())
