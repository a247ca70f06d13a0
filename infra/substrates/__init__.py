"""Where hosts live: `open_substrate(environment)` gives the one that the environment names."""

from __future__ import annotations

from infra.plan import Environment, SubstrateKind
from infra.substrates.base import Substrate, SubstrateError


def open_substrate(environment: Environment) -> Substrate:
    """The substrate of `environment`. Raises SubstrateError when it is of a kind not known here."""
    if environment.substrate == SubstrateKind.PROCESS:
        from infra.substrates.process import ProcessSubstrate

        return ProcessSubstrate(environment)
    raise SubstrateError(
        f"environment {environment.stack}",
        f"there is no substrate {environment.substrate!r}",
        'set "substrate" to process',
    )
