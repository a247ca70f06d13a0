"""The lock files: everything has a hash, nothing names where it comes from."""

from __future__ import annotations

import re
import tomllib

import pytest

from infra.tools.paths import PROJECT_ROOT

LOCKS = sorted(
    (*PROJECT_ROOT.glob("*.lock"), *(PROJECT_ROOT / "infra" / "tools").glob("*/requirements.lock"))
)
MODULES = sorted((PROJECT_ROOT / "infra" / "tools").glob("*/go.*"))


def requirements(text: str) -> list[str]:
    """The logical lines of a lock: continuations joined, comments dropped."""
    joined = re.sub(r"\\\n", " ", text)
    return [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda p: str(p.relative_to(PROJECT_ROOT)))
def test_a_lock_has_hashes_and_no_host(lock) -> None:
    text = lock.read_text()
    for line in requirements(text):
        assert re.match(r"^[A-Za-z0-9._-]+(\[[a-z,]+\])?==\S+ ", line), line[:80]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", line), line[:80]
        assert not re.search(r"://|^-|--(extra-)?index-url|--find-links|--trusted-host", line), line[:80]
    assert "://" not in text


def test_every_direct_dependency_is_locked() -> None:
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]
    direct = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    locked = {
        line.split("==")[0].lower().replace("_", "-")
        for line in requirements((PROJECT_ROOT / "requirements.lock").read_text())
    }
    missing = {re.split(r"[=<>~!\[ ]", name)[0].lower().replace("_", "-") for name in direct} - locked
    assert not missing


def test_modules_replace_nothing_and_name_no_proxy() -> None:
    assert len(MODULES) >= 8
    for file in MODULES:
        text = file.read_text()
        assert not re.search(r"https?://", text), file
        assert not re.search(r"^\s*(replace|exclude)\b", text, re.MULTILINE), file
