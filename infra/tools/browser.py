"""A browser for the tests that look at reports in one: `python3 -m infra.tools.browser`, part of `make test`.

It is the one thing that is installed on the system itself, and only where that is Debian's and we are root.
Without it those tests are skipped and say so; nothing else needs it, so it never fails a run.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from pathlib import Path

from infra.tools.children import Children, Stopped
from infra.tools.debian import apt_environment
from infra.tools.errors import SetupError
from infra.tools.layout import Layout

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LONGEST_S = 300.0


def bring(children: Children) -> str:
    """Installs one where there is none and it can be done; one line for the reader."""
    there = next((path for name in BROWSERS if (path := shutil.which(name)) is not None), None)
    if there is not None:
        return f"the tests that look at reports use {there}"
    without = "the tests that look at reports in a browser will be skipped"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return f"{without}: there is no chromium on PATH (apt-get install chromium)"
    print("installing chromium, for the tests that look at reports (once, about 400 MB) …", flush=True)
    limit = threading.Timer(LONGEST_S, children.stop)
    limit.daemon = True
    limit.start()
    try:
        for argv in (("update",), ("install", "-y", "--no-install-recommends", "chromium")):
            children.run("browser", ["apt-get", "-q", *argv], env=apt_environment())
    except (SetupError, Stopped) as error:
        why = error.what if isinstance(error, SetupError) else f"it took more than {LONGEST_S:.0f} s"
        return f"{without}: chromium cannot be installed ({why})"
    finally:
        limit.cancel()
    return "chromium is installed"


def main() -> int:
    """Brings it, or says why not; always 0."""
    print(bring(Children(Layout(Path(__file__).resolve().parents[2]).logs)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
