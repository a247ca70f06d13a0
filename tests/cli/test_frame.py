"""The command line's frame: help, errors as one line, exit statuses, pipes, signals, colours, completion."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import typer

from threenines import commands, errors
from threenines.__main__ import run
from threenines.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
CLEAN = {
    k: v
    for k, v in os.environ.items()
    if k not in {"FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS", "NO_COLOR", "TERM"}
}


def threenines(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "threenines", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**CLEAN, **environment},
        check=False,
        timeout=60,
    )


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> object:
    """A command `probe` that does what the test says."""

    def install(function: object) -> None:
        module = ModuleType("threenines.commands.probe")
        module.probe = function  # type: ignore[attr-defined]
        module.__spec__ = commands.__spec__
        monkeypatch.setitem(sys.modules, module.__name__, module)
        entry = commands.Entry("probe", "Probe.", "Stack")
        monkeypatch.setattr(commands, "TABLE", (*commands.TABLE, entry))

    return install


def raising(error: BaseException) -> object:
    def probe() -> None:
        raise error

    return probe


def test_help_lists_the_commands_and_imports_none() -> None:
    shown = threenines("--help")
    assert shown.returncode == 0
    for name in ("check", "report", "Examples", "--install-completion"):
        assert name in shown.stdout
    code = (
        "import sys; from threenines.__main__ import run; status = run(['--help']); "
        "heavy = {'matplotlib', 'numpy', 'pulumi', 'aiohttp', 'scipy', 'locust'} & set(sys.modules); "
        "ours = {m for m in sys.modules if m.startswith('threenines.commands.')}; "
        "sys.exit(f'{heavy} {ours}' if heavy or ours or status else 0)"
    )
    quiet = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert quiet.returncode == 0, quiet.stderr


def test_no_arguments_show_the_help() -> None:
    shown = threenines()
    assert shown.returncode == 0
    assert "Usage: threenines" in shown.stdout


def test_the_version_is_that_of_the_distribution() -> None:
    shown = threenines("--version")
    assert (shown.returncode, shown.stdout) == (0, "threenines 0.1.0\n")


@pytest.mark.parametrize(
    "entry", [e for e in commands.TABLE if importlib.util.find_spec(e.module)], ids=lambda e: e.name
)
def test_every_command_that_exists_shows_its_help(entry: commands.Entry) -> None:
    shown = threenines(entry.name, "--help")
    assert shown.returncode == 0, shown.stderr
    assert f"threenines {entry.name}" in shown.stdout
    assert "Examples" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["repor"], "did you mean 'report'"),
        (["nothing-like-it"], "no such command 'nothing-like-it'"),
        (["report", "--nope"], "`threenines report --help`"),
        (["--nope"], "`threenines --help`"),
        (["report", "a", "b"], "threenines report --help"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_64(arguments: list[str], says: str) -> None:
    shown = threenines(*arguments)
    assert (shown.returncode, shown.stdout) == (64, "")
    assert shown.stderr.count("\n") == 1
    assert shown.stderr.startswith("threenines: ")
    assert says in shown.stderr


class Elsewhere(Exception):
    """An error of a package that knows nothing of the command line."""

    def __init__(self, **fields: object) -> None:
        super().__init__("x")
        self.__dict__.update(fields)


class Problem:
    def __init__(self, where: str, what: str, mend: str) -> None:
        self.where, self.what, self.mend = where, what, mend


@pytest.mark.parametrize(
    ("error", "status", "lines"),
    [
        (UserError("fleet.yaml", "is empty", "write it"), 64, ["threenines: fleet.yaml: is empty; write it"]),
        (UserError("etcd", "is down", "start it", exit_status=4), 4, ["threenines: etcd: is down; start it"]),
        (Elsewhere(where="a", what="b", mend="c"), 3, ["threenines: a: b; c"]),
        (Elsewhere(where="a", what="b", mend="c", exit_status=2), 2, ["threenines: a: b; c"]),
        (Elsewhere(where="a", what="b", mend=""), 3, ["threenines: a: b"]),
        (
            Elsewhere(problems=(Problem("f:1", "no name", "give one"), Problem("f:2", "twice", "drop one"))),
            64,
            ["threenines: f:1: no name; give one", "threenines: f:2: twice; drop one"],
        ),
        (UserError("a\nb", "\x1b[31mred\x07", "c"), 64, ["threenines: a b: \\x1b[31mred\\x07; c"]),
    ],
)
def test_a_described_error_is_its_lines_and_its_status(
    command: object, capsys: pytest.CaptureFixture[str], error: Exception, status: int, lines: list[str]
) -> None:
    command(raising(error))  # type: ignore[operator]
    assert run(["probe"]) == status
    assert capsys.readouterr().err.splitlines() == lines


@pytest.mark.parametrize(
    "error", [ValueError("odd\nthing"), KeyError("k"), RuntimeError(), OSError(2, "gone")]
)
def test_a_defect_is_one_line_and_70(
    command: object, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.delenv(errors.DEBUG_VARIABLE, raising=False)
    command(raising(error))  # type: ignore[operator]
    assert run(["probe"]) == 70
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith(f"threenines: internal: {type(error).__name__}")
    assert "THREENINES_DEBUG=1" in told


def test_the_traceback_is_there_when_asked_for(
    command: object, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(errors.DEBUG_VARIABLE, "1")
    command(raising(ValueError("odd")))  # type: ignore[operator]
    assert run(["probe"]) == 70
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("outcome", [0, 1, 2, 3])
def test_a_command_s_own_status_is_kept(command: object, outcome: int) -> None:
    def probe() -> None:
        raise typer.Exit(outcome)

    command(probe)  # type: ignore[operator]
    assert run(["probe"]) == outcome


def test_an_interrupt_is_told_and_130(command: object, capsys: pytest.CaptureFixture[str]) -> None:
    command(raising(KeyboardInterrupt()))  # type: ignore[operator]
    assert run(["probe"]) == 130
    assert capsys.readouterr().err == "\nthreenines: interrupted\n"


def test_a_reader_that_went_away_is_no_error(command: object, capsys: pytest.CaptureFixture[str]) -> None:
    command(raising(BrokenPipeError(32, "Broken pipe")))  # type: ignore[operator]
    assert run(["probe"]) == 141
    assert capsys.readouterr().err == ""


def test_a_closed_pipe_leaves_no_noise() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        shown = subprocess.run(
            [sys.executable, "-m", "threenines", "--version"],
            stdout=write,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env=CLEAN,
            check=False,
            timeout=60,
            preexec_fn=lambda: signal.signal(signal.SIGPIPE, signal.SIG_IGN),
        )
    finally:
        os.close(write)
    assert shown.returncode == 141
    assert shown.stderr == b""


def test_colours_only_on_a_terminal() -> None:
    assert "\x1b" not in threenines("--help").stdout
    assert "\x1b[" in threenines("--help", FORCE_COLOR="1").stdout
    assert "\x1b[3" not in threenines("--help", FORCE_COLOR="1", NO_COLOR="1").stdout


@pytest.mark.parametrize(("words", "expected"), [("threenines rep", "report"), ("threenines ch", "check")])
def test_the_shell_completes_commands(words: str, expected: str) -> None:
    shown = threenines(
        COMP_WORDS=words,
        COMP_CWORD="1",
        _THREENINES_COMPLETE="complete_bash",
        _TYPER_COMPLETE_TEST_DISABLE="1",
    )
    assert shown.returncode == 0
    assert expected in shown.stdout.split()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(shell: str) -> None:
    shown = threenines("--show-completion", shell)
    assert shown.returncode == 0
    assert "_THREENINES_COMPLETE" in shown.stdout


@pytest.mark.parametrize(
    ("text", "flowed"),
    [
        ("a\nb\n\nc\nd", "a b\n\nc d"),
        ("a\n\n  code\n  more", "a\n\n  code\n  more"),
        ("a\n\n- x\n- y", "a\n\n- x\n- y"),
        ("", ""),
    ],
)
def test_help_flows(text: str, flowed: str) -> None:
    assert commands.reflow(text) == flowed
