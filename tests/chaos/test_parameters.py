"""Words to faults: units, bounds, names; and every fault described."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos import presentation
from chaos.errors import BadFault
from chaos.fault import catalogue
from chaos.parameters import make_fault, parse_duration_s, parse_words, unit_of
from infra.tools.paths import PROJECT_ROOT

WAY = {"host": "a", "to": "etcd-b"}


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (["latency=200"], "latency_ms", 200),
        (["latency_ms=200"], "latency_ms", 200),
        (["latency=0.2s"], "latency_ms", 200),
        (["latency=200 ms"], "latency_ms", 200),
        (["latency=200000us"], "latency_ms", 200),
        (["latency=1m"], "latency_ms", 60_000),
        (["streams=there"], "streams", "there"),
    ],
)
def test_a_parameter_in_any_of_its_units(words: list[str], field: str, value: object) -> None:
    fault = make_fault("link-latency", {**WAY, **parse_words(words, "x")})
    assert getattr(fault, field) == value


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("link-latncy", {}, "fault 'link-latncy': there is none of this name; did you mean link-latency?"),
        ("xyzzy", {}, "see threenines chaos list"),
        ("link-latency", {"host": "a"}, "link-latency: to is missing; add to=TO"),
        ("link-latency", {**WAY, "latenzy": 1}, "link-latency 'latenzy': .*; did you mean latency_ms?"),
        ("link-latency", {**WAY, "latency": "5kg"}, "latency_ms: is '5kg'; give milliseconds, like 100"),
        ("link-latency", {**WAY, "latency": "fast"}, "latency_ms: is 'fast'; give milliseconds"),
        (
            "link-latency",
            {**WAY, "latency": "0"},
            "expected `int` >= 1; see threenines chaos show",
        ),
        ("link-latency", {**WAY, "latency": "1.5ms"}, "latency_ms: expected `int`"),
        ("link-latency", {**WAY, "latency": 1, "latency_ms": 2}, "latency_ms: it is given twice"),
        ("link-latency", {**WAY, "streams": "up"}, "streams: invalid enum value 'up'"),
        ("link-packet-loss", {"host": "a", "share": "120%"}, "share: expected `float` <= 0.95"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(name: str, given: dict[str, object], told: str) -> None:
    with pytest.raises(BadFault) as error:
        make_fault(name, given)
    assert re.search(re.sub(r"([`?])", r"\\\1", told), str(error.value)), str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("word", ["latency", "=5", "latency=", ""])
def test_a_word_that_is_no_parameter(word: str) -> None:
    with pytest.raises(BadFault, match="write key=value"):
        parse_words([word], "link-latency")


@pytest.mark.parametrize(("text", "seconds"), [("10", 10.0), ("250ms", 0.25), ("2m", 120.0), ("1h", 3600.0)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration_s(text, "--duration") == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "0", "-1", "5kg", "nan", "1e99"])
def test_a_wrong_duration(text: str) -> None:
    with pytest.raises(BadFault, match="--duration"):
        parse_duration_s(text, "--duration")


@settings(deadline=None)
@given(value=st.integers(1, 60_000), unit=st.sampled_from([("ms", 1.0), ("us", 1e3), ("s", 1e-3), ("", 1.0)]))
def test_units_agree(value: int, unit: tuple[str, float]) -> None:
    word = f"{value * unit[1]:.10g}{unit[0]}"
    made = make_fault("link-latency", {**WAY, "latency": word})
    assert made == make_fault("link-latency", {**WAY, "latency_ms": value})


def test_every_fault_is_described_and_listed() -> None:
    listed = json.loads(presentation.listing_json())
    assert [set(listed), {one["name"] for one in listed["faults"]}] == [
        {"faults", "scenarios"},
        set(catalogue()),
    ]
    for view in presentation.fault_views():
        assert view.group in presentation.GROUPS
        assert view.summary.endswith(".")
        for one in view.parameters:
            assert one.description, f"{view.name} {one.name}"
            assert unit_of(one.name) or one.type != "number" or one.name == "share"
        assert f"chaos run {view.name}" in presentation.shown(view.name)


def test_the_docs_have_the_present_table(tmp_path: Path) -> None:
    page = PROJECT_ROOT / "docs" / "chaos.md"
    copy = tmp_path / "chaos.md"
    copy.write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
    presentation.write_table(copy)
    assert copy.read_text(encoding="utf-8") == page.read_text(encoding="utf-8"), presentation.BEGIN
