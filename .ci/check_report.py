"""Checks that a run's folder holds a whole report: `python .ci/check_report.py reports/out/latest`.

The JSON must meet the checked-in schema and hold every row of the requirement catalogue that the schema
knows, JUnit must parse and agree with it in number, HTML and Markdown must be there and not refer to
anything outside. The run must have come to its end, and no criterion may have failed that holds on a machine
of any speed: every agent is registered, and no agent has two owners or loses an acknowledged write. What else
did not pass is told: limits in time, and calls that fail because their time is up, say as much about a shared
machine as about the product. Exit status: 0 sound, 1 not.
"""

from __future__ import annotations

import json
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import jsonschema

SCHEMA = Path(__file__).resolve().parents[1] / "reports" / "schema" / "report.schema.json"
OUTSIDE = re.compile(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", re.IGNORECASE)
LEAST_HTML_BYTES = 10_000
LEAST_MARKDOWN_BYTES = 500
AT_ANY_SPEED = ("SD-1", "RL-8")
"""Rows that may not fail, with their parts."""


def problems_of(folder: Path, schema: Path = SCHEMA) -> list[str]:
    """What is wrong with the report in `folder`, a line each."""
    problems: list[str] = []
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        rules = json.loads(schema.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return [f"report.json or its schema cannot be read: {error}"]
    validator = jsonschema.validators.validator_for(rules)(rules)
    for fault in validator.iter_errors(report):
        problems.append(
            f"report.json: {'/'.join(str(p) for p in fault.absolute_path)}: {fault.message[:200]}"
        )
    criteria = report.get("criteria", []) if isinstance(report, dict) else []
    if not any(isinstance(c, dict) and c.get("evidence") == "measured" for c in criteria):
        problems.append("report.json: no criterion was measured")
    problems += _run_problems(report) if isinstance(report, dict) else []
    problems += _junit_problems(folder / "junit.xml")
    for name, least in (("report.html", LEAST_HTML_BYTES), ("report.md", LEAST_MARKDOWN_BYTES)):
        try:
            text = (folder / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{name} cannot be read: {error}")
            continue
        if len(text.encode()) < least:
            problems.append(f"{name} has {len(text.encode())} bytes, that is no report")
        if name.endswith(".html") and OUTSIDE.search(text):
            problems.append(f"{name} loads something from outside: {OUTSIDE.search(text)}")
    return problems


def _run_problems(report: dict[str, Any]) -> list[str]:
    state = report.get("run", {}).get("state")
    problems = [] if state == "finished" else [f"the run did not come to its end: it is {state}"]
    failed = (c for c in report.get("criteria", []) if c.get("verdict") == "fail")
    return problems + [f"{c['id']} failed" for c in failed if str(c["id"]).split(".")[0] in AT_ANY_SPEED]


def undecided(report: dict[str, Any]) -> list[str]:
    """What was measured and did not pass, a line each."""
    return [
        f"{c['id']}: {c['verdict']} (not gated here)"
        for c in report["criteria"]
        if c.get("evidence") == "measured" and c["verdict"] != "pass"
    ]


def _junit_problems(file: Path) -> list[str]:
    try:
        root = ET.parse(file).getroot()  # noqa: S314 (our own file)
    except (OSError, ET.ParseError) as error:
        return [f"junit.xml cannot be read: {error}"]
    if root.tag not in {"testsuites", "testsuite"}:
        return [f"junit.xml begins with <{root.tag}>"]
    return ["junit.xml holds no test case"] if root.find(".//testcase") is None else []


def main(arguments: list[str]) -> int:
    """Print what is wrong, if anything."""
    folder = Path(arguments[0]) if arguments else Path("reports/out/latest")
    problems = problems_of(folder)
    for problem in problems:
        print(f"threenines: report: {problem}", file=sys.stderr)
    if not problems:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        print("\n".join([*undecided(report), f"{folder.resolve().name}: the report is whole"]))
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
