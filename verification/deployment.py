"""The stack that a run measures: found as it is, or brought up for the run and taken down after it."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from typing import Protocol

from infra import substrates
from infra.hostd_api import HostdApi, HostdError
from infra.plan import Environment
from infra.substrates.base import Capability, Substrate, SubstrateError
from infra.topology import Fleet, load_fleet
from verification.campaigns.host_faults import heal_leftovers
from verification.progress import Progress

READY_TIMEOUT_S = 30.0
READY_POLL_S = 0.25


class Deployment(Protocol):
    """What the runner needs of a stack. The live one deploys by Pulumi; tests have their own."""

    environment: Environment
    fleet: Fleet

    def capabilities(self) -> frozenset[Capability]:
        """What its hosts can do; also while it is down. Changes nothing. Raises SubstrateError."""
        ...

    def alone(self) -> AbstractContextManager[None]:
        """Keeps other harnesses, and `down`, away from the stack; raises when one works with it."""
        ...

    def prepare(self, progress: Progress) -> Substrate:
        """The stack stands and serves. What it had to bring up, `restore` takes down."""
        ...

    def restore(self, progress: Progress) -> None:
        """The stack is as it was found."""
        ...


@dataclass
class LiveDeployment:
    """A stack of an environment; `keep`: what was brought up stays up."""

    environment: Environment
    keep: bool = False

    def __post_init__(self) -> None:
        self.fleet = load_fleet(self.environment.fleet)
        self._ours = False
        self._substrate: Substrate | None = None

    def capabilities(self) -> frozenset[Capability]:
        """Raises SubstrateError."""
        with closing(substrates.open_substrate(self.environment)) as substrate:
            return substrate.capabilities()

    def alone(self) -> AbstractContextManager[None]:
        """Raises `infra.exclusive.Occupied`."""
        from infra.exclusive import exclusive

        return exclusive(self.environment, "verify")

    def prepare(self, progress: Progress) -> Substrate:
        """Raises what `infra.automation.up` raises, and SubstrateError."""
        from infra import automation

        substrate = substrates.open_substrate(self.environment)
        self._substrate = substrate
        for told in heal_leftovers(substrate, tuple(host.name for host in self.fleet.hosts)):
            progress.say(f"healed what an earlier run left: {told}")
        found = [host.name for host in self.fleet.hosts if _runs(substrate, host.name)]
        self._ours = not found
        if len(found) < len(self.fleet.hosts) or not self._whole(substrate):
            # Also what was cut short halfway, or has lost a part since.
            progress.phase("bringing the stack up")
            try:
                automation.up(
                    self.environment, lambda step: progress.tick(step.done, f"{step.step} {step.resource}")
                )
            except automation.DeploymentInterrupted:
                raise KeyboardInterrupt from None  # the run ends as on any other Ctrl-C
        progress.phase("waiting for the fleet", len(self.fleet.agents))
        self._wait(substrate, progress)
        return substrate

    def restore(self, progress: Progress) -> None:
        """Takes down what `prepare` brought up, unless it is to be kept."""
        if self._substrate is not None:
            self._substrate.close()
        if self._ours and not self.keep:
            from infra import automation

            progress.phase("taking the stack down")
            automation.down(self.environment)

    def _wait(self, substrate: Substrate, progress: Progress) -> None:
        """Waits until every host's daemon sees every agent up; what is missing then, the census shows."""
        names = {agent.name for agent in self.fleet.agents}
        end = time.monotonic() + READY_TIMEOUT_S
        while True:
            least = min(len(names & self._up(substrate, host.name)) for host in self.fleet.workers)
            progress.tick(least)
            if least == len(names) or time.monotonic() > end:
                return
            time.sleep(READY_POLL_S)

    def _whole(self, substrate: Substrate) -> bool:
        """Whether every host's daemon sees every agent up now."""
        names = {agent.name for agent in self.fleet.agents}
        return all(names <= self._up(substrate, host.name) for host in self.fleet.workers)

    def _up(self, substrate: Substrate, host: str) -> frozenset[str]:
        try:
            with HostdApi(host, substrate.address(host), substrate.credentials(), timeout_s=5.0) as api:
                return frozenset(one.name for one in api.agents().agents if one.state == "up")
        except HostdError:
            return frozenset()


def _runs(substrate: Substrate, host: str) -> bool:
    try:
        found = substrate.inspect_host(host)
    except SubstrateError:
        return False
    return found is not None and found.running
