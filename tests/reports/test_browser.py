"""The page in a real browser: nothing is refused, nothing runs, nothing sticks out on a phone.

Skipped where there is no Chromium (`apt-get install chromium` brings one).
"""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from reports.render import render
from tests.reports.synthetic import write_run

CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; `apt-get install chromium` brings one"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("out"), "run-1", kind="hostile")
    render(folder)
    return folder / "report.html"


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


def test_the_browser_refuses_nothing_and_runs_nothing(page: Path, tmp_path: Path) -> None:
    shown = browse(page, tmp_path)
    assert re.findall(r".*:CONSOLE.*", shown.stderr) == [], (
        "no violation of the page's own policy, no script error"
    )
    assert "<title>Fail: quick on local, run-1</title>" in shown.stdout


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_sticks_out(page: Path, tmp_path: Path, width: int) -> None:
    frame = tmp_path / "frame.html"
    inner = html.escape(page.read_text(encoding="utf-8"), quote=True)
    frame.write_text(
        "<!doctype html><title>waiting</title>"
        f'<iframe style="width:{width}px;height:800px;border:0" srcdoc="{inner}"></iframe>'
        "<script>document.querySelector('iframe').onload = e => {"
        "const root = e.target.contentDocument.documentElement;"
        "document.title = `measured ${root.scrollWidth} ${root.clientWidth}`; }</script>",
        encoding="utf-8",
    )
    shown = browse(frame, tmp_path, "--window-size=1400,900")
    found = re.search(r"<title>measured (\d+) (\d+)</title>", shown.stdout)
    assert found is not None
    assert int(found[1]) <= int(found[2]) <= width
