"""Which instance takes a call: a table, then a naive oracle."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.registry.model import Instance, InstanceState, Resolution, Role
from services.routing.choice import NoInstance, choose
from tests.agent.kit import instance


def resolution(*instances: Instance) -> Resolution:
    return Resolution(name="worker", revision=1, generation=1, stale=False, age_ms=0, instances=instances)


HERE, THERE, FAR = instance(host="mainpc"), instance(host="pc2"), instance(host="pc3")
DOWN = instance(host="mainpc", state=InstanceState.UNHEALTHY)
STANDBY = instance(host="mainpc", role=Role.STANDBY)

TABLE = [
    ((HERE,), {}, "mainpc"),
    ((THERE, HERE), {}, "mainpc"),  # local first
    ((THERE, HERE), {"mainpc": 9}, "mainpc"),  # even when busier
    ((DOWN, THERE), {}, "pc2"),  # healthy first
    ((STANDBY, THERE), {}, "pc2"),  # primary first
    ((THERE, FAR), {"pc2": 2, "pc3": 1}, "pc3"),  # least in flight
    ((THERE, FAR), {}, "pc2"),  # the resolution's order
    ((FAR, THERE), {}, "pc3"),
]


@pytest.mark.parametrize(("instances", "inflight", "host"), TABLE)
def test_table(instances: tuple[Instance, ...], inflight: dict[str, int], host: str) -> None:
    assert choose(resolution(*instances), "mainpc", inflight).host == host


@pytest.mark.parametrize("instances", [(), (DOWN,)])
def test_nobody(instances: tuple[Instance, ...]) -> None:
    with pytest.raises(NoInstance):
        choose(resolution(*instances), "mainpc", {})


hosts = st.sampled_from(["a", "b", "c", "d"])


@given(
    st.lists(
        st.builds(
            lambda host, state, role: instance(host=host, state=state, role=role),
            hosts,
            st.sampled_from(InstanceState),
            st.sampled_from(Role),
        ),
        max_size=6,
    ),
    hosts,
    st.dictionaries(hosts, st.integers(0, 5)),
)
def test_no_better_one_is_passed_over(instances: list[Instance], here: str, inflight: dict[str, int]) -> None:
    up = [one for one in instances if one.state is InstanceState.UP]
    if not up:
        with pytest.raises(NoInstance):
            choose(resolution(*instances), here, inflight)
        return
    best = sorted(up, key=lambda i: (i.role is Role.STANDBY, i.host != here, inflight.get(i.host, 0)))[0]
    assert choose(resolution(*instances), here, inflight) is best
