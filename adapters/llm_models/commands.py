"""``llm chatplan``: models that are not in the hub's cache."""

from __future__ import annotations

from pathlib import Path

import click

from chatplan.adapters.llm_models.known import added_models, save_models

__all__ = ["chatplan"]


@click.group()
def chatplan() -> None:
    """Models that chatplan runs in this process."""


@chatplan.command()
@click.argument("model")
def add(model: str) -> None:
    """Make MODEL known, a name on the hub or a folder, as chatplan/MODEL."""
    name = _named(model)
    if name not in added_models():
        save_models([*added_models(), name])
    click.echo(f"chatplan/{name}")


@chatplan.command()
@click.argument("model")
def remove(model: str) -> None:
    """Forget a MODEL that was added; its files stay."""
    name = _named(model, must_exist=False)
    if name not in added_models():
        raise click.ClickException(f"{name} was not added; there are {', '.join(added_models()) or 'none'}")
    save_models([other for other in added_models() if other != name])


def _named(model: str, must_exist: bool = True) -> str:
    """A folder by its absolute path; a name on the hub as it is."""
    path = Path(model).expanduser()
    if path.is_dir():
        return str(path.absolute())
    if must_exist and (model.startswith((".", "/", "~")) or model.count("/") != 1):
        raise click.ClickException(f"{model} is neither a folder nor a name on the hub like owner/name")
    return str(path.absolute()) if model.startswith((".", "~")) else model
