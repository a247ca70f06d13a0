"""Matplotlib drawings as SVG that lives inside a page: bare, deterministic, coloured by the page's variables.

Figures are painted with sentinel colours (`INK`, `BAD`, `SERIES`, …) that no drawing uses by chance; on the
way out each becomes `var(--…)`: one drawing serves light and dark. Text stays text, ids get a prefix.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, MUTED, GRID, BAD, ACCENT = "#010203", "#020304", "#030405", "#040506", "#050607"
SERIES = ("#060708", "#070809", "#08090a", "#090a0b")
WIDTH_IN = 4.6
_MOST_LETTERS = 34
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    BAD: "--bad",
    ACCENT: "--accent",
    **{colour: f"--series-{i}" for i, colour in enumerate(SERIES, 1)},
}
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "threenines",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.6,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "figure.facecolor": "none",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "axes.formatter.use_mathtext": False,
}


def svg(paint: Callable[[Figure], None], prefix: str, alt: str, height_in: float) -> str:
    """Paint a figure and return its `<svg>` element; `alt` is read out to those who cannot see it."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
        FigureCanvasSVG(figure)
        paint(figure)
        buffer = io.StringIO()
        with warnings.catch_warnings():
            # Text stays text: the reader's browser has the letters that matplotlib's own font lacks.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(
                buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
            )
    return _themed(buffer.getvalue(), prefix, alt)


def label(text: str) -> str:
    """A label that fits: printable, cut where it is long, never one that matplotlib would hide."""
    shown = "".join(c if c.isprintable() else " " for c in text).lstrip("_")
    return shown if len(shown) <= _MOST_LETTERS else shown[: _MOST_LETTERS - 1] + "…"


def _themed(text: str, prefix: str, alt: str) -> str:
    """The bare `<svg>` element: ids of its own, colours from the page, a label for readers of the screen."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", text)
    text = re.sub(r'(xlink:)?href="#([^"]+)"', rf'href="#{prefix}-\2"', text)
    text = re.sub(r"font: [^;\"]*?([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    for sentinel, variable in _VARIABLES.items():
        text = text.replace(sentinel, f"var({variable})")
    box = re.search(r'viewBox="[^"]+"', text)
    assert box is not None, "matplotlib always writes a viewBox"
    start = text.index(">") + 1
    label = html.escape(alt, quote=True)
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" {box.group()} role="img" aria-label="{label}" class="plot">'
    )
    return re.sub(r"\n\s*", "\n", opening + text[start:]).strip()
