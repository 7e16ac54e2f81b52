"""From `--recipe` and flags to validated settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsipipe.config import Recipe


Changes = dict[str, dict[str, Any]]


def recipe_from(source: Path | None, changes: Changes) -> Recipe:
    """Recipe of a file or a bundled one by name (or the defaults) with what flags change; None changes nothing.

    A picture that says what stains shall look like is read once, here.
    """
    from wsipipe.config import Recipe, load_recipe, updated

    recipe = updated(Recipe() if source is None else load_recipe(source), changes)
    if recipe.stain.method == "none":
        return recipe
    from wsipipe.pipeline.stain import with_target

    return with_target(recipe)


def classes_from(text: str | None) -> list[dict[str, Any]] | None:
    """Several classes from "Tumor,Stroma,Background=Ignore*,Background=Glass": names, or names and patterns.

    A name that comes again has more than one pattern. Patterns with commas go into a recipe.
    """
    if text is None:
        return None
    patterns: dict[str, list[str]] = {}
    for item in text.split(","):
        name, _, pattern = (part.strip() for part in item.partition("="))
        patterns.setdefault(name, []).extend([pattern] if pattern else [])
    return [{"name": name, "patterns": found} for name, found in patterns.items()]


def weights_from(source: str | None) -> str | None:
    """Make the path of a weights file absolute, for workers with a working folder of their own."""
    return str(Path(source).absolute()) if source is not None and Path(source).is_file() else source
