"""What a run is rendered to: true to its data, the same bytes each time, safe with hostile strings."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import msgspec
import pytest

from reports import history, markdown, render, store
from reports.model import Report, SeriesFile, Verdict, Verdicts, encode
from reports.store import RunError
from tests.reports.synthetic import HOSTILE, write_run

OUTPUTS = ("report.html", "report.json", "report.md", "junit.xml")
KINDS = ("passing", "failing", "mixed", "hostile")


class Page(HTMLParser):
    """Collects what the checks ask about."""

    VOID = frozenset({"meta", "link", "br", "input", "img", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.problems: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1] != tag:
            self.problems.append(f"</{tag}> closes {self.open[-1:]}")
        else:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text.append(data)

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {kind: write_run(tmp_path_factory.mktemp(kind), "run-1", kind=kind) for kind in KINDS}
    for folder in folders.values():
        render.render(folder)
    return folders


@pytest.mark.parametrize(("kind", "verdict"), [("passing", "pass"), ("failing", "fail"), ("mixed", "fail")])
def test_report_json_says_what_the_verdicts_say(rendered: dict[str, Path], kind: str, verdict: str) -> None:
    report = json.loads((rendered[kind] / "report.json").read_bytes())
    assert next(iter(report)) == "schema"
    assert report["schema"] == "threenines.report/1"
    assert report["verdict"] == verdict
    source = json.loads((rendered[kind] / "verdicts.json").read_bytes())
    told = {c["id"]: c for c in report["criteria"]}
    assert list(told) == [c["id"] for c in source["criteria"]], "the catalogue's order is kept"
    for criterion in source["criteria"]:
        assert {k: told[criterion["id"]][k] for k in criterion} == criterion


def test_a_passing_quick_run_proves_no_release(rendered: dict[str, Path]) -> None:
    report = msgspec.json.decode((rendered["passing"] / "report.json").read_bytes(), type=Report)
    assert (report.verdict, report.release.verdict) == (Verdict.PASS, Verdict.INCONCLUSIVE)
    assert report.coverage.rows == 46
    assert report.coverage.passed == report.coverage.planned == 5
    assert report.coverage.not_measured == 41
    scores = {c.id: (c.passed, c.rows) for c in report.categories}
    assert scores["service-discovery"] == (4, 8)
    assert scores["performance"] == (0, 10)
    for criterion in report.criteria:
        if criterion.verdict is Verdict.NOT_MEASURED:
            c = criterion
            assert [c.estimate, c.bound, c.n, c.exceedances, c.grade] == [None] * 5, (
                "what does not apply is null, never 0"
            )


def test_the_same_files_give_the_same_bytes(rendered: dict[str, Path], tmp_path: Path) -> None:
    before = {name: (rendered["mixed"] / name).read_bytes() for name in OUTPUTS}
    copy = tmp_path / "elsewhere" / "run-1"
    shutil.copytree(rendered["mixed"], copy)
    for name in OUTPUTS:
        (copy / name).unlink()
    render.render(copy)
    assert {name: (copy / name).read_bytes() for name in OUTPUTS} == before


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_is_whole_and_fetches_nothing(rendered: dict[str, Path], kind: str) -> None:
    text = (rendered[kind] / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.problems == []
    assert page.open == []
    assert not page.all("script")
    assert not page.all("img")
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in {"href", "src", "xlink:href", "action", "srcset"}:
                assert value is not None
                assert value.startswith(("#", "data:,")), (tag, value)
    style = "".join(re.findall(r"<style>(.*?)</style>", text, flags=re.DOTALL))
    assert "url(" not in style
    assert "@import" not in style
    used = set(re.findall(r"https?://[^\s\"'<>]+", text))
    assert used <= {"http://www.w3.org/2000/svg"}, "a name of a namespace is no request"


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_can_be_read_without_eyes(rendered: dict[str, Path], kind: str) -> None:
    page = Page((rendered[kind] / "report.html").read_text(encoding="utf-8"))
    ids = [a["id"] for _, a in page.tags if a.get("id")]
    assert len(ids) == len(set(ids)), "ids are unique, those inside drawings included"
    for _, attributes in page.tags:
        for name in ("aria-labelledby", "href"):
            value = attributes.get(name) or ""
            if name == "aria-labelledby" and value:
                assert value in ids
            if name == "href" and value.startswith("#"):
                assert value[1:] in ids, value
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert len(page.all("main")) == 1
    assert page.all("html")[0]["lang"] == "en"
    for drawing in page.all("svg"):
        assert drawing.get("aria-hidden") == "true" or (drawing["role"] == "img" and drawing["aria-label"])
    assert all("scope" in a for a in page.all("th"))


def test_every_criterion_is_on_the_page_once_in_full(rendered: dict[str, Path]) -> None:
    page = Page((rendered["mixed"] / "report.html").read_text(encoding="utf-8"))
    report = json.loads((rendered["mixed"] / "report.json").read_bytes())
    anchors = {a["id"] for _, a in page.tags if a.get("id")}
    text = " ".join("".join(page.text).split())
    for criterion in report["criteria"]:
        assert "c-" + criterion["id"].lower().replace(".", "-") in anchors
        assert criterion["title"] in text
    for criterion in report["criteria"]:
        if criterion["planned"] and criterion["verdict"] != "pass":
            assert criterion["remedy"] in text
    assert report["run"]["plan_sha256"] in text
    assert "Made-up data" in text


def test_hostile_strings_stay_text(rendered: dict[str, Path]) -> None:
    folder = rendered["hostile"]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "\x1b" not in page
    assert "onerror=alert(2)&gt;" in page or "onerror=alert(2)&#" in page
    assert "49" not in re.findall(r"\{\{7\*7\}\}|49", page)[:1], "no second templating"
    comment = (folder / "report.md").read_text(encoding="utf-8")
    assert "<script" not in comment.replace("\\<", "")
    assert "\x1b" not in comment
    suites = ElementTree.fromstring((folder / "junit.xml").read_bytes())
    outputs = "".join(e.text or "" for e in suites.iter("system-out"))
    assert HOSTILE.replace("\x1b", "\ufffd") in outputs


@pytest.mark.parametrize(
    "text", ["a | b", "# x", "<b>", "[x](y)", "`x`", "a\nb", "@team", "*x*", "\x1b[0m", "~~x~~", "$x$"]
)
def test_markdown_escapes(text: str) -> None:
    escaped = markdown.escape(text)
    assert "\n" not in escaped
    assert escaped.isprintable()
    for position, character in enumerate(escaped):
        if character in "|#<[`*~$@":
            assert escaped[position - 1] == "\\"


def test_the_comment_fits_a_pull_request(rendered: dict[str, Path]) -> None:
    for kind in KINDS:
        assert len((rendered[kind] / "report.md").read_text()) < 65_536


@pytest.mark.parametrize("kind", ["passing", "failing", "mixed"])
def test_junit_counts_add_up(rendered: dict[str, Path], kind: str) -> None:
    root = ElementTree.fromstring((rendered[kind] / "junit.xml").read_bytes())
    cases = list(root.iter("testcase"))
    assert int(root.attrib["tests"]) == len(cases) == 48
    assert int(root.attrib["failures"]) == len(list(root.iter("failure")))
    assert int(root.attrib["skipped"]) == len(list(root.iter("skipped"))) == 41
    for suite in root.iter("testsuite"):
        assert int(suite.attrib["tests"]) == len(suite.findall("testcase"))
    names = {c.attrib["name"].split()[0]: c for c in cases}
    failure = names["RL-3.failover"].find("failure")
    if kind == "passing":
        assert failure is None
    else:
        assert failure is not None
        assert "remedy: " in (failure.text or "")
        assert "claim: " in (failure.text or "")


def test_junit_is_not_green_when_the_gate_is_not(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "run-1", kind="passing", plots=False)
    plan = (folder / "plan.json").read_bytes()
    (folder / "plan.json").write_bytes(plan + b"\n")
    render.render(folder)
    root = ElementTree.fromstring((folder / "junit.xml").read_bytes())
    assert int(root.attrib["failures"]) == 1


def test_a_run_without_plots_is_rendered_and_says_so(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "run-1")
    (folder / "series.json").unlink()
    render.render(folder)
    assert "kept no data for plots" in (folder / "report.html").read_text()


def test_empty_series_draw_nothing(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "run-1")
    (folder / "series.json").write_bytes(encode(SeriesFile(series=())))
    render.render(folder)
    assert 'class="plot"' not in (folder / "report.html").read_text()


def test_a_planned_criterion_that_was_never_judged_is_not_measured(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "run-1", kind="passing", plots=False)
    verdicts = msgspec.json.decode((folder / "verdicts.json").read_bytes(), type=Verdicts)
    kept = tuple(c for c in verdicts.criteria if c.id != "RL-3.detect")
    (folder / "verdicts.json").write_bytes(encode(msgspec.structs.replace(verdicts, criteria=kept)))
    report = render.render(folder)
    assert report.verdict is Verdict.INCONCLUSIVE
    (lost,) = [c for c in report.criteria if c.id == "RL-3.detect"]
    assert (lost.verdict, lost.planned) == (Verdict.NOT_MEASURED, True)


def test_a_result_judged_twice_is_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "run-1", plots=False)
    verdicts = msgspec.json.decode((folder / "verdicts.json").read_bytes(), type=Verdicts)
    twice = (*verdicts.criteria, verdicts.criteria[0])
    (folder / "verdicts.json").write_bytes(encode(msgspec.structs.replace(verdicts, criteria=twice)))
    with pytest.raises(RunError, match="twice"):
        render.render(folder)


def test_the_run_before_stands_beside_and_a_regression_fails(tmp_path: Path) -> None:
    first = write_run(tmp_path, "run-1", kind="passing", plots=False)
    render.render(first)
    second = write_run(tmp_path, "run-2", kind="failing", plots=False)
    run = json.loads((second / "run.json").read_text())
    later = {"started": "2026-11-21T09:00:00Z", "ended": "2026-11-21T09:05:00Z"}
    (second / "run.json").write_text(json.dumps({**run, **later}))
    report = render.render(second)
    assert report.comparison is not None
    assert report.comparison.run == "run-1"
    assert [r.id for r in report.comparison.regressions] == ["RL-3.failover"]
    assert "run-1" in (second / "report.md").read_text()
    files = store.load(first)
    assert history.previous(files.run, tmp_path) is None, "a later run is not an earlier one"


def _later(folder: Path) -> None:
    run = json.loads((folder / "run.json").read_text())
    times = {"started": "2026-11-21T09:00:00Z", "ended": "2026-11-21T09:05:00Z"}
    (folder / "run.json").write_text(json.dumps({**run, **times}))


def test_before_a_run_was_accepted_the_newest_stands_beside_and_fails_nothing(tmp_path: Path) -> None:
    first = write_run(tmp_path, "run-1", kind="failing", plots=False)
    render.render(first)
    verdicts = msgspec.json.decode((first / "verdicts.json").read_bytes(), type=Verdicts)
    second = write_run(tmp_path, "run-2", kind="failing", plots=False)
    _later(second)
    worse = tuple(
        msgspec.structs.replace(c, verdict=Verdict.FAIL, estimate=2000.0) if c.id == "SD-4" else c
        for c in verdicts.criteria
    )
    (second / "verdicts.json").write_bytes(encode(msgspec.structs.replace(verdicts, criteria=worse)))
    report = render.render(second)
    assert report.comparison is not None
    assert (report.comparison.run, report.comparison.accepted) == ("run-1", False)
    assert [r.id for r in report.comparison.regressions] == ["SD-4"]
    assert "passed in the last accepted run" not in report.reason
    (told,) = [c for c in report.criteria if c.id == "SD-4"]
    (before,) = [c for c in verdicts.criteria if c.id == "SD-4"]
    assert (told.previous, told.previous_estimate, told.previous_bound, told.previous_n) == (
        Verdict.PASS,
        before.estimate,
        before.bound,
        before.n,
    )
    page = " ".join("".join(Page((second / "report.html").read_text()).text).split())
    assert "none was accepted yet, so nothing counts as a regression: 1 criterion passed there" in page


def test_an_accepted_run_stands_beside_rather_than_a_newer_one(tmp_path: Path) -> None:
    render.render(write_run(tmp_path, "run-0", kind="passing", plots=False))
    second = write_run(tmp_path, "run-1", kind="failing", plots=False)
    _later(second)
    render.render(second)
    third = write_run(tmp_path, "run-2", kind="failing", plots=False)
    run = json.loads((third / "run.json").read_text())
    (third / "run.json").write_text(json.dumps({**run, "started": "2026-11-22T09:00:00Z"}))
    report = render.render(third)
    assert report.comparison is not None
    assert (report.comparison.run, report.comparison.accepted) == ("run-0", True)


def test_the_first_screen_answers_whether_to_release(rendered: dict[str, Path]) -> None:
    for kind, answer in (("passing", "Not proven"), ("failing", "No")):
        page = (rendered[kind] / "report.html").read_text()
        (first,) = re.findall(r"<h1>(.*?)</h1>", page, flags=re.DOTALL)
        assert re.sub(r"<[^>]+>", "", first).strip() == f"Can we release? {answer}"
        assert page.index("<h1>") < page.index('id="todo-h"' if kind == "failing" else 'id="categories-h"')


# ------------------------------------------------------------------------------------------------ schema


def _schema() -> dict[str, object]:
    path = Path(render.__file__).parent / "schema" / "report.schema.json"
    schema: dict[str, object] = json.loads(path.read_text())
    return schema


def test_the_schema_is_one_and_names_every_field_of_the_types() -> None:
    schema = _schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    generated = msgspec.json.schema(Report)["$defs"]
    definitions = schema["$defs"]
    assert isinstance(definitions, dict)
    assert set(generated["Report"]["properties"]) == set(schema["properties"])  # type: ignore[call-overload]
    pairs = (
        ("Run", "run"),
        ("Criterion", "criterion"),
        ("CategoryScore", "category"),
        ("PlannedCriterion", "planned"),
    )
    for ours, theirs in pairs:
        assert set(generated[ours]["properties"]) == set(definitions[theirs]["properties"]), ours


CONTRACT = {
    "run": ("id", "started", "ended", "profile", "environment", "commit", "seed", "plan_sha256"),
    "categories": ("id", "threshold", "score", "verdict"),
    "criteria": (
        "id", "title", "category", "claim", "unit", "target", "verdict", "evidence", "estimate", "bound", "n",
        "exceedances", "coverage", "confidence",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("place", "field"), [(p, f) for p, fields in CONTRACT.items() for f in fields])
def test_a_report_that_lacks_a_field_of_the_contract_is_refused(
    rendered: dict[str, Path], place: str, field: str
) -> None:
    report = json.loads((rendered["passing"] / "report.json").read_bytes())
    holder = report[place][0] if isinstance(report[place], list) else report[place]
    del holder[field]
    with pytest.raises(RunError, match="schema"):
        render.validate(json.dumps(report).encode(), Path("report.json"))


@pytest.mark.parametrize(
    ("identifier", "change"),
    [
        ("PF-1", {"n": 0}),
        ("PF-1", {"estimate": 0}),
        ("PF-1", {"evidence": "measured"}),
        ("SD-1", {"evidence": "none"}),
        ("SD-1", {"verdict": "passed"}),
        ("SD-1", {"confidence": 95}),
        ("SD-1", {"id": "discovery"}),
        ("SD-1", {"n": -1}),
    ],
)
def test_the_schema_refuses_what_cannot_be(
    rendered: dict[str, Path], identifier: str, change: dict[str, object]
) -> None:
    report = json.loads((rendered["passing"] / "report.json").read_bytes())
    (criterion,) = [c for c in report["criteria"] if c["id"] == identifier]
    criterion.update(change)
    with pytest.raises(RunError, match="schema"):
        render.validate(json.dumps(report).encode(), Path("report.json"))


# ---------------------------------------------------------------------------------------------- contrast


def _channel(value: int) -> float:
    part = value / 255
    return part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4


def _contrast(one: str, other: str) -> float:
    """WCAG 2.2, relative luminance."""
    lights = sorted(
        sum(w * _channel(int(c[i : i + 2], 16)) for w, i in ((0.2126, 1), (0.7152, 3), (0.0722, 5)))
        for c in (one, other)
    )
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def _themes() -> dict[str, dict[str, str]]:
    css = (Path(render.__file__).parent / "templates" / "style.css").read_text()
    light, dark = re.findall(r":root \{(.*?)\}", css, flags=re.DOTALL)[:2]
    named = re.compile(r"--([\w-]+): (#[0-9a-f]{6})")
    variables = {"light": dict(named.findall(light)), "dark": dict(named.findall(dark))}
    assert set(variables["light"]) == set(variables["dark"])
    return variables


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(
    ("front", "back"),
    [
        *(("ink", b) for b in ("bg", "card", "good-bg", "bad-bg", "open-bg", "none-bg")),
        *(("muted", b) for b in ("bg", "card")),
        *(("accent", b) for b in ("bg", "card")),
        *((t, f"{t}-bg") for t in ("good", "bad", "open", "none")),
        *((t, "card") for t in ("good", "bad", "open", "none")),
    ],
)
def test_words_stand_out_from_their_ground(theme: str, front: str, back: str) -> None:
    colours = _themes()[theme]
    assert _contrast(colours[front], colours[back]) >= 4.5


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("front", ["series-1", "series-2", "series-3", "series-4", "bad", "accent"])
def test_marks_stand_out_from_their_ground(theme: str, front: str) -> None:
    colours = _themes()[theme]
    assert _contrast(colours[front], colours["card"]) >= 3.0
