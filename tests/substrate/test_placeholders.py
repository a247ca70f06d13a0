from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.plan import ReadyCheck, UnitSpec
from infra.substrates.base import SubstrateError
from infra.substrates.placeholders import Places, render

NAMES = ("data", "config", "run", "pki", "address", "local")
HOSTS = {"pc2": "10.77.1.12", "witness": "10.77.1.13"}


def address_of(host: str) -> str:
    if host not in HOSTS:
        raise SubstrateError(f"host {host}", "unknown", "add it")
    return HOSTS[host]


PLACES = Places(
    data="/d", config="/c", run="/r", pki="/p", address="10.77.1.11", local="127.0.0.1", address_of=address_of
)


@pytest.mark.parametrize(
    ("text", "resolved"),
    [
        ("{data}/x", "/d/x"),
        ("{address}:{address:pc2}", "10.77.1.11:10.77.1.12"),
        ('{"a": "{local}"}', '{"a": "127.0.0.1"}'),
        ("{{ $labels.host }}", "{{ $labels.host }}"),
        ("{unknown} {} {data", "{unknown} {} {data"),
        ("{address:}", "{address:}"),
        ("", ""),
    ],
)
def test_resolves_only_its_own_placeholders(text: str, resolved: str) -> None:
    assert PLACES.resolve(text) == resolved


def test_an_unknown_host_is_an_error() -> None:
    with pytest.raises(SubstrateError, match="nowhere"):
        PLACES.resolve("{address:nowhere}")


pieces = st.one_of(
    st.sampled_from([f"{{{name}}}" for name in NAMES] + [f"{{address:{host}}}" for host in HOSTS]),
    st.text(alphabet='ab{}: "\n$', max_size=6),
)


@given(st.lists(pieces, max_size=12).map("".join))
def test_agrees_with_plain_replacing(text: str) -> None:
    # No value holds a brace, so replacing one placeholder after the other is the same thing.
    expected = text
    for name in NAMES:
        expected = expected.replace(f"{{{name}}}", getattr(PLACES, name))
    for host, address in HOSTS.items():
        expected = expected.replace(f"{{address:{host}}}", address)
    if any(f"{{{name}}}" in expected for name in NAMES):  # a replacement joined braces to a new placeholder
        return
    assert PLACES.resolve(text) == expected


def test_render_reaches_every_part() -> None:
    unit = UnitSpec(
        host="mainpc",
        name="x",
        program="python",
        args=("{data}",),
        env={"K": "{run}"},
        files={"a/b.conf": "{pki}"},
        ready=ReadyCheck(path="{run}/x.sock"),
    )
    rendition = render(unit, PLACES)
    assert rendition.args == ("/d",)
    assert rendition.env == {"K": "/r"}
    assert rendition.files == {"a/b.conf": "/p"}
    assert rendition.ready_path == "/r/x.sock"


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "a//b"])
def test_a_file_must_stay_in_its_folder(name: str) -> None:
    unit = UnitSpec(host="mainpc", name="x", program="python", files={name: ""})
    with pytest.raises(SubstrateError, match="leaves its folder"):
        render(unit, PLACES)
