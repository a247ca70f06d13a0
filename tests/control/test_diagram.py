from __future__ import annotations

from pathlib import Path

from services.control.diagram import page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "agent-life-cycle.md"


def test_the_page_shows_the_table_that_decides() -> None:
    assert PAGE.read_text() == page(), "run: python -m services.control.diagram > docs/agent-life-cycle.md"
