"""The table of commands. A command's module is imported only when that command runs or shows its own help.

Each module `threenines.commands.<name>` has a function `<name>` with typer annotations (or `app`, a
`typer.Typer` with subcommands) and may have `EXAMPLES`: the lines shown below its help.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from threenines.errors import PipeClosed

HELP = """Run a fleet of agents on two hosts, break it on purpose, and prove what it promises.

Exit status of what judges: 0 pass, 1 fail, 2 not proven; 3 and up: the harness could not do its work;
64: wrong usage or input."""

EXAMPLES = (
    "threenines doctor                     what is installed, what is missing",
    "threenines check fleet.yaml           is the manifest right?",
    "threenines up && threenines status    start the stack and look at it",
    "threenines verify --profile quick     measure it and write the report",
    "threenines report latest              render the newest run again",
)


@dataclass(frozen=True)
class Entry:
    """A line of the table."""

    name: str
    summary: str
    panel: str

    @property
    def module(self) -> str:
        return f"{__name__}.{self.name.replace('-', '_')}"


_STACK, _FLEET, _PROOF, _HISTORY = "Stack", "Fleet", "Proof", "Results"

TABLE = (
    Entry("check", "Validate a fleet manifest.", _STACK),
    Entry("doctor", "Say which tools are there, which are missing, and how to get them.", _STACK),
    Entry("up", "Bring the stack up, or to what the manifest now says.", _STACK),
    Entry("status", "Show hosts, units and agents.", _STACK),
    Entry("down", "Take the stack down and leave nothing behind.", _STACK),
    Entry("resolve", "Find where an agent is served.", _FLEET),
    Entry("call", "Call a method of an agent.", _FLEET),
    Entry("verify", "Measure a running stack against its criteria and write the report.", _PROOF),
    Entry("chaos", "Break things on purpose, under guard.", _PROOF),
    Entry("sim", "Run the ownership protocol through simulated weeks of faults.", _PROOF),
    Entry("soak", "Watch a stack for seven days, and say at any moment how it stands.", _PROOF),
    Entry("selftest", "Judge the judge on systems whose truth is known.", _PROOF),
    Entry("criteria", "List what must be true.", _HISTORY),
    Entry("report", "Render a run again.", _HISTORY),
    Entry("compare", "Set two runs side by side.", _HISTORY),
    Entry("review", "Review a month or a quarter of runs.", _HISTORY),
    Entry("gate", "Decide from stored evidence whether a release may go out.", _HISTORY),
    Entry("evidence", "Carry evidence from machine to machine, signed.", _HISTORY),
)


class LazyGroup(TyperGroup):
    """A group that knows its commands from `TABLE` and imports one only to run it or to show its help."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [entry.name for entry in TABLE if importlib.util.find_spec(entry.module) is not None]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        entry = next((e for e in TABLE if e.name == cmd_name), None)
        if entry is None or importlib.util.find_spec(entry.module) is None:
            return None
        return TyperCommand(
            entry.name, help=entry.summary, short_help=entry.summary, rich_help_panel=entry.panel
        )

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        self.commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        name, command, rest = super().resolve_command(ctx, args)
        if name is None or command is None:
            return name, command, rest
        return name, load(name), rest

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _pipe():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _pipe():
            return super().invoke(ctx)


def build() -> Any:
    """The whole command line, without importing any command."""
    app = typer.Typer(
        name="threenines",
        cls=LazyGroup,
        help=reflow(HELP),
        epilog=_examples(EXAMPLES),
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    return typer.main.get_command(app)


def load(name: str) -> Any:
    """Import one command and build it, its examples below its help."""
    entry = next(e for e in TABLE if e.name == name)
    module = importlib.import_module(entry.module)
    epilog = _examples(getattr(module, "EXAMPLES", ()))
    settings: dict[str, Any] = {"help_option_names": ["-h", "--help"]}
    app = getattr(module, "app", None)
    if isinstance(app, typer.Typer):
        app.info.name, app.info.epilog, app.info.context_settings = name, epilog, settings
        app._add_completion = False
        return typer.main.get_command(app)
    single = typer.Typer(add_completion=False, rich_markup_mode="rich")
    function = getattr(module, name.replace("-", "_"))
    text = reflow(inspect.getdoc(function) or "")
    single.command(name, help=text, epilog=epilog, context_settings=settings)(function)
    return typer.main.get_command(single)


def reflow(text: str) -> str:
    """Join the lines of each paragraph, so that help wraps at the terminal's width and not at the source's.

    A paragraph that begins with a list, a code sample (indent) or a form feed mark keeps its lines.
    """
    paragraphs = text.split("\n\n")
    return "\n\n".join(
        p if "\n " in p or p.startswith(("\b", "- ")) else p.replace("\n", " ") for p in paragraphs
    )


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"threenines {version('threenines')}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    pass


def _examples(lines: tuple[str, ...] | list[str]) -> str | None:
    if not lines:
        return None
    return "\n".join(("[bold]Examples[/bold]", *(f"  {line}".replace("[", r"\[") for line in lines)))


@contextmanager
def _pipe() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise PipeClosed from error
