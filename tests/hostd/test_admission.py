"""What the last door lets in."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.topology import AgentSpec, HealthCheck, HealthKind
from services.hostd.access import RIGHTS, ApiRole, Right, role_of_name
from services.hostd.admission import objection, read_spec

ROLES = {"mainpc": "worker", "pc2": "worker", "witness": "witness"}
GOOD = AgentSpec(name="alpha", home="mainpc", category="c", handler="m:A")
HTTP = HealthCheck(kind=HealthKind.HTTP)


def test_good_ones_pass() -> None:
    assert objection(GOOD, ROLES) is None
    program = AgentSpec(name="web", home="pc2", category="c", command=("x",), port=80, health=HTTP)
    assert objection(program, ROLES) is None


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"name": "Alpha"}, "name"),
        ({"name": "../etc"}, "name"),
        ({"home": "witness"}, "home"),
        ({"home": "mars"}, "home"),
        ({"standby": "mars"}, "standby"),
        ({"standby": "mainpc"}, "same host"),
        ({"handler": None}, "either"),
        ({"command": ("x",), "port": 80, "health": HTTP}, "either"),
        ({"handler": None, "command": (), "port": 80, "health": HTTP}, "empty"),
        ({"handler": None, "command": ("x",), "health": HTTP}, "port"),
        ({"handler": None, "command": ("x",), "port": 0, "health": HTTP}, "range"),
        ({"handler": None, "command": ("x",), "port": 80}, "http or tcp"),
        ({"health": HTTP}, "http or tcp"),
        ({"health": HealthCheck(interval_ms=0)}, "interval_ms"),
        ({"health": HealthCheck(unhealthy_after=0)}, "unhealthy_after"),
        ({"depends_on": ("alpha",)}, "itself"),
    ],
)
def test_wrong_ones_are_named(change: dict[str, object], word: str) -> None:
    text = objection(msgspec.structs.replace(GOOD, **change), ROLES)
    assert text is not None
    assert word in text
    assert "\n" not in text


@given(st.binary(max_size=300))
def test_bytes_that_are_no_definition_are_refused_in_one_line(body: bytes) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        read_spec(body, "alpha")
    assert "\n" not in str(caught.value)


def test_the_name_must_be_the_path_s() -> None:
    assert read_spec(msgspec.json.encode(GOOD), "alpha") == GOOD
    with pytest.raises(ValueError, match="path"):
        read_spec(msgspec.json.encode(GOOD), "beta")


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("operator", ApiRole.OPERATOR),
        ("monitor", ApiRole.MONITOR),
        ("host:pc2", ApiRole.HOST),
        ("host:", None),
        ("host", None),
        ("Operator", None),
        ("", None),
        ("local", None),
    ],
)
def test_roles(name: str, role: ApiRole | None) -> None:
    assert role_of_name(name) is role


def test_only_the_operator_administers_and_only_local_programs_register() -> None:
    assert [role for role in ApiRole if Right.ADMINISTER in RIGHTS[role]] == [ApiRole.OPERATOR]
    assert [role for role in ApiRole if Right.REGISTER in RIGHTS[role]] == [ApiRole.LOCAL]
