"""The environment's `failover` is hostd's `ownership`; where it is off, hostd's configuration is silent."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.environment import ConfigError, environment_from
from infra.topology import Fleet, HostRole, HostSpec
from infra.units import host_configuration

HOSTS = (HostSpec(name="mainpc", role=HostRole.WORKER), HostSpec(name="pc2", role=HostRole.WORKER))


@pytest.mark.parametrize(
    ("values", "told"), [({}, None), ({"failover": "false"}, None), ({"failover": "true"}, True)]
)
def test_hostd_is_told_of_ownership_where_failover_is_on(values: dict[str, str], told: bool | None) -> None:
    given = {"fleet": "fleet.yaml", "stateDir": "state", **values}
    environment = environment_from(given, "local", base=Path("/c"), source="config")
    fleet = Fleet(schema="threenines.fleet/1", name="f", hosts=HOSTS, agents=())
    assert host_configuration(HOSTS[0], fleet, environment).get("ownership") is told


def test_another_word_is_refused_with_the_mend() -> None:
    given = {"fleet": "fleet.yaml", "stateDir": "state", "failover": "perhaps"}
    with pytest.raises(ConfigError, match="failover"):
        environment_from(given, "local", base=Path("/c"), source="config")
