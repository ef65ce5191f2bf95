"""`tiderank recipe`: what a recipe sets, and where two differ."""

import json

import click

from streams.options import json_option, recipe_option


@click.group("recipe")
def recipe_command() -> None:
    """A deployment's whole configuration: show, compare, look up."""


@recipe_command.command("show")
@recipe_option
@json_option
def show(recipe: str | None, as_json: bool) -> None:
    """Print every setting of a recipe, as TOML that makes the same recipe.

    Comments at the top say what a file with slots of its own did not keep of its base's lists.
    """
    from streams.config.load import load_with_notes, to_table
    from streams.config.settings import recipe_name
    from streams.config.text import settings

    found, notes = load_with_notes(recipe_name(recipe))
    if as_json:
        click.echo(json.dumps(to_table(found)))
        return
    for note in notes:
        click.echo(f"# {note}")
    for name, value in settings(found).items():
        click.echo(f"{name} = {value}")


@recipe_command.command("diff")
@click.argument("one")
@click.argument("other")
@json_option
def diff(one: str, other: str, as_json: bool) -> None:
    """Print the settings in which recipe OTHER differs from ONE: names of built-in ones, or TOML files."""
    from streams.config.load import load_recipe
    from streams.config.text import difference

    found = difference(load_recipe(one), load_recipe(other))
    if as_json:
        click.echo(json.dumps({name: [left, right] for name, left, right in found}))
        return
    for name, left, right in found:
        click.echo(f"{name}\n  {one}: {left}\n  {other}: {right}")


@recipe_command.command("reference")
def reference() -> None:
    """Print docs/recipe.md: every setting with its type, its default and what it does."""
    from streams.config.text import reference as text

    click.echo(text(), nl=False)
