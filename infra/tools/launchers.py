"""The small programs that the Pulumi engine looks for on PATH beside its own.

`pulumi-resource-pulumi-python` starts the SDK's dynamic providers, `pulumi-language-python` runs a Python
program. The second is written only where the official one is missing.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from infra.tools.paths import foreign_path
from infra.tools.stamps import write_atomically

PROVIDER = "pulumi-resource-pulumi-python"
LANGUAGE = "pulumi-language-python"

_PROVIDER_TEXT = """#!/bin/sh
# The engine starts this for resources whose provider is a Python class.
# PULUMI_PYTHON_CMD names another interpreter.
exec "${{PULUMI_PYTHON_CMD:-{python}}}" -u -m pulumi.dynamic "$@"
"""

_LANGUAGE_TEXT = """#!/bin/sh
# The engine starts this to run a program of `runtime: python`.
PYTHONPATH={root}${{PYTHONPATH:+:$PYTHONPATH}} exec {python} -u -m infra.tools.language_host "$@"
"""


def launcher_texts(root: Path, python: Path, official_language: Path | None) -> Mapping[str, str]:
    """The launchers to write, by name."""
    texts = {PROVIDER: _PROVIDER_TEXT.format(python=python)}
    if official_language is None:
        texts[LANGUAGE] = _LANGUAGE_TEXT.format(root=root, python=python)
    return texts


def official_language_host() -> Path | None:
    """The official language host, when somebody installed Pulumi as a whole."""
    found = shutil.which(LANGUAGE, path=foreign_path())
    return Path(found) if found else None


def write_launchers(bin_folder: Path, texts: Mapping[str, str]) -> None:
    """Write them, each whole or not at all, and take away one of ours that is not wanted any more."""
    for name, text in texts.items():
        write_atomically(bin_folder / name, text, mode=0o755)
    for name in {PROVIDER, LANGUAGE} - set(texts):
        (bin_folder / name).unlink(missing_ok=True)
