"""The pages in a real browser: nothing is refused, nothing runs, nothing sticks out, all words can be read.

Skipped where there is no Chromium on PATH (Debian's `chromium`, `google-chrome`).
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from reports import review_pages
from reports.render import render
from reports.review import Period
from tests.reports.past import november
from tests.reports.synthetic import write_run
from tests.reports.test_scenarios import MIXED, night

CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH"),
]

# Words that stand out from the ground behind them by less than WCAG 2.2 asks: 4.5, or 3 where they are large.
CONTRAST = """
const parse = text => { const c = document.createElement('canvas').getContext('2d');
  c.fillStyle = text; c.fillRect(0, 0, 1, 1); return [...c.getImageData(0, 0, 1, 1).data].slice(0, 3); };
const light = rgb => { const [r, g, b] = rgb.map(v => v / 255)
  .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const known = {}, bright = text => known[text] ??= light(parse(text));
const ground = (element, view) => { for (let e = element; e; e = e.parentElement) {
  const found = view.getComputedStyle(e).backgroundColor;
  if (!/, 0\\)$|transparent/.test(found)) return found; } return 'white'; };
const weak = (page, view) => { const seen = {}; let count = 0;
  const walk = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const text = walk.currentNode.textContent.trim(), e = walk.currentNode.parentElement;
    if (!text || e.closest('.sr, .skip, style') || !e.getClientRects().length) continue;
    const style = view.getComputedStyle(e), inside = e.closest('svg') && e.tagName === 'text';
    const front = bright(inside ? style.fill : style.color), back = bright(ground(e, view));
    const ratio = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    count += 1; if (ratio < (large ? 3 : 4.5)) seen[text.slice(0, 40)] = ratio.toFixed(2); }
  return {count, seen, ground: ground(page.body, view)}; };
"""
WIDE = """
const wide = (page, width) => [...page.body.querySelectorAll('*')]
  .filter(e => !e.closest('.sr, .skip, .defs, .rows thead') && e.getBoundingClientRect().right > width + 1)
  .map(e => `${e.tagName}.${e.getAttribute('class')}`).slice(0, 5);
"""


DARK = "@media (prefers-color-scheme: dark)"
LOOKS = [
    ("hostile", 320, "light"),
    ("hostile", 390, "dark"),
    ("hostile", 768, "light"),
    ("mixed", 1280, "light"),
    ("mixed", 1280, "dark"),
    ("night", 320, "light"),
    ("night", 1280, "dark"),
    ("review", 390, "light"),
    ("review", 880, "dark"),
    ("review", 1280, "light"),
]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("out")
    folders = {kind: write_run(out / kind, "run-1", kind=kind) for kind in ("hostile", "mixed")}
    folders["night"] = night(out / "night", MIXED)
    for folder in folders.values():
        render(folder)
    november(out / "past")
    written = review_pages.write(Period.parse("2026-Q4"), out / "past")
    return {name: folder / "report.html" for name, folder in folders.items()} | {"review": written.html}


def browse(path: Path, tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    return subprocess.run(
        [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
            "--no-first-run", "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", *options,
            "--dump-dom", path.as_uri(),
        ],
        capture_output=True, text=True, timeout=90, check=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def seen(pages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Every page in frames of several widths, in both themes, looked at by a script of the frames' owner."""
    frames, told = [], {}
    for name, width, theme in LOOKS:
        text = pages[name].read_text(encoding="utf-8")
        assert DARK in text
        text = text.replace(DARK, "@media all" if theme == "dark" else "@media not all")
        frames.append(
            f'<iframe id="{name}-{width}-{theme}" style="width:{width}px;height:800px;border:0" '
            f'srcdoc="{html.escape(text, quote=True)}"></iframe>'
        )
    folder = tmp_path_factory.mktemp("frames")
    (folder / "frame.html").write_text(
        f"<!doctype html><title>waiting</title>{''.join(frames)}<script>{CONTRAST}{WIDE}"
        "window.onload = () => { const told = {};"
        "for (const frame of document.querySelectorAll('iframe')) {"
        "const page = frame.contentDocument, view = frame.contentWindow, root = page.documentElement;"
        "page.querySelectorAll('details').forEach(d => { d.open = true; });"
        "told[frame.id] = {inner: root.scrollWidth, outer: root.clientWidth,"
        "wide: wide(page, root.clientWidth), weak: weak(page, view)}; }"
        "document.title = 'answer ' + JSON.stringify(told); }</script>",
        encoding="utf-8",
    )
    shown = browse(folder / "frame.html", folder, "--window-size=1400,900")
    found = re.search(r"<title>answer (.*?)</title>", shown.stdout, flags=re.DOTALL)
    assert found is not None, shown.stderr[-2000:]
    told = json.loads(html.unescape(found[1]))
    assert len(told) == len(LOOKS)
    return told


@pytest.mark.parametrize(
    ("name", "title"),
    [("hostile", "Fail: quick on local, run-1"), ("review", "Quarterly review, 2026-Q4")],
)
def test_the_browser_refuses_nothing_and_runs_nothing(
    pages: dict[str, Path], tmp_path: Path, name: str, title: str
) -> None:
    shown = browse(pages[name], tmp_path)
    assert re.findall(r".*:CONSOLE.*", shown.stderr) == [], (
        "no violation of the page's own policy, no script error"
    )
    assert f"<title>{title}</title>" in shown.stdout


@pytest.mark.parametrize(("name", "width", "theme"), LOOKS)
def test_nothing_sticks_out(seen: dict[str, dict[str, Any]], name: str, width: int, theme: str) -> None:
    look = seen[f"{name}-{width}-{theme}"]
    assert look["wide"] == []
    assert look["inner"] == look["outer"] <= width


@pytest.mark.parametrize(("name", "width", "theme"), LOOKS)
def test_all_words_stand_out_as_painted(
    seen: dict[str, dict[str, Any]], name: str, width: int, theme: str
) -> None:
    weak = seen[f"{name}-{width}-{theme}"]["weak"]
    assert weak["ground"] == {"light": "rgb(244, 245, 248)", "dark": "rgb(14, 17, 22)"}[theme]
    assert weak["count"] > 100
    assert weak["seen"] == {}
