"""`threenines evidence`: take a run to another machine, or in from one, so that it still proves something."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reports import store

EXAMPLES = (
    "threenines evidence keygen                      once on each machine that measures",
    "threenines evidence trust gpu-host KEY          on the machine that decides",
    "threenines evidence export latest               writes RUN.evidence.zip",
    "threenines evidence import RUN.evidence.zip     checks it and takes it in",
)

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="rich", help="Carry evidence from machine to machine, signed."
)

Keys = Annotated[
    Path | None, typer.Option(help="Folder of the keys, if not the state directory's.", show_default=False)
]
Runs = Annotated[
    Path | None, typer.Option(help="Where runs are kept, if not in reports/out.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print it for a script.")]


def keys_folder(keys: Path | None) -> Path:
    """Where this machine's key and those that it trusts are kept."""
    if keys is not None:
        return keys.absolute()
    from infra.environment import load_environment

    return Path(load_environment().state_dir) / "evidence"


@app.command()
def keygen(keys: Keys = None) -> None:
    """Make this machine's signing key, and print the public one for those who are to trust it."""
    from verification import evidence_keys

    public = evidence_keys.make_key(keys_folder(keys))
    typer.echo(public)
    typer.echo(f"fingerprint {evidence_keys.fingerprint(public)}", err=True)


@app.command()
def trust(
    name: Annotated[str | None, typer.Argument(help="What to call it.", show_default=False)] = None,
    key: Annotated[str | None, typer.Argument(help="The public key.", show_default=False)] = None,
    keys: Keys = None,
    json: Json = False,
) -> None:
    """Trust a machine's public key; without arguments, list those that are trusted."""
    from threenines.errors import UserError
    from verification import evidence_keys

    folder = keys_folder(keys)
    if name is not None:
        if key is None:
            raise UserError("usage", "a name without a key", "threenines evidence trust NAME KEY")
        evidence_keys.trust(folder, name, key)
    known = evidence_keys.trusted(folder)
    if json:
        import msgspec

        typer.echo(msgspec.json.format(msgspec.json.encode(known), indent=2).decode())
        return
    for one in known.keys:
        typer.echo(f"{one.fingerprint}  {one.public_key}  {one.name}")
    if not known.keys:
        typer.echo("no key is trusted", err=True)


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="A run's id, its folder, or latest.", metavar="RUN")],
    out: Annotated[Path | None, typer.Option(help="The file to write.", show_default=False)] = None,
    runs: Runs = None,
    keys: Keys = None,
) -> None:
    """Write a run as one signed file."""
    from datetime import UTC, datetime

    from verification import evidence

    folder = store.resolve(run, runs if runs is not None else store.default_out())
    target = out if out is not None else Path(f"{folder.name}.evidence.zip")
    manifest = evidence.export_bundle(folder, keys_folder(keys), target, datetime.now(UTC))
    typer.echo(f"{target}: run {manifest.run}, {len(manifest.files)} files, signed")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A bundle.", metavar="FILE")],
    runs: Runs = None,
    keys: Keys = None,
) -> None:
    """Check a bundle and take its run in, as evidence of the class *imported*.

    Refused: a bundle that was changed, one that a stranger signed, one of another schema, a run that is here.
    """
    from datetime import UTC, datetime

    from verification import evidence, evidence_keys

    home = runs if runs is not None else store.default_out()
    folder, manifest, key = evidence.import_bundle(
        file, evidence_keys.trusted(keys_folder(keys)), home.absolute(), datetime.now(UTC)
    )
    commit = "no commit" if manifest.commit is None else f"commit {manifest.commit[:12]}"
    changed = ", changed since" if manifest.commit_dirty else ""
    typer.echo(f"{folder.name}: {manifest.profile}, {commit}{changed}, ended {manifest.ended}, by {key.name}")
