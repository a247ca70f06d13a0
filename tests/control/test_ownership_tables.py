"""The tables of ownership themselves, and the page that shows them."""

from __future__ import annotations

import pytest

from services.control.ownership_diagram import BEGIN, END, PAGE, drawn, placed
from services.control.stances import MAY_ACT, PROVEN, TABLE, VOICES, Do, Stance, Symbol, Voice


def test_the_page_shows_the_tables_as_they_are() -> None:
    page = PAGE.read_text()
    assert placed(page) == page, "run: python -m services.control.ownership_diagram --write"
    assert page.count("stateDiagram-v2") == drawn().count("stateDiagram-v2") == 4


def test_a_page_without_its_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="marks"):
        placed(f"text {BEGIN} text")
    with pytest.raises(ValueError, match="marks"):
        placed(f"text {END}")


def test_acting_begins_only_with_an_acknowledgement() -> None:
    begins = {
        (start, symbol)
        for (start, symbol), rule in TABLE.items()
        if rule.to in MAY_ACT and start not in MAY_ACT
    }
    assert begins == {(Stance.CLAIMING, Symbol.DONE), (Stance.UNSURE, Symbol.DONE)}


def test_a_handover_leaves_the_acting_stances_before_its_outcome() -> None:
    assert TABLE[Stance.DRAINED, Symbol.YIELD].to not in MAY_ACT
    sent = {stance for (stance, symbol) in TABLE if symbol is Symbol.YIELD}
    assert sent == {Stance.DRAINED}


def test_every_stance_is_reached_and_left_and_ends_when_the_record_names_another() -> None:
    assert {rule.to for rule in TABLE.values()} == set(Stance)
    for stance in set(Stance) - {Stance.ELSEWHERE}:
        assert TABLE[stance, Symbol.NAMES_OTHER].to is Stance.ELSEWHERE


def test_agents_hear_of_every_end_of_their_service() -> None:
    for (start, _), rule in TABLE.items():
        served = start in PROVEN or start is Stance.YIELDING
        if served and rule.to in (Stance.ELSEWHERE, Stance.NAMED):
            assert Do.DEMOTE in rule.do


def test_a_replaced_daemon_never_speaks_again() -> None:
    assert not [start for (start, _) in VOICES if start is Voice.REPLACED]
