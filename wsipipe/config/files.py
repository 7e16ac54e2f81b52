"""Recipes from YAML files and bundled ones; what is wrong costs one clear line."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from wsipipe.config.recipe import Recipe
from wsipipe.errors import ConfigError


def bundled_recipes() -> dict[str, Path]:
    """Recipes that come with wsipipe (the files of `configs/`), by name; from a checkout or an installed wheel."""
    folder = Path(__file__).parents[2] / "configs"
    files = sorted(folder.glob("*.yaml")) if folder.is_dir() else _installed_recipes()
    return {file.stem: file for file in files}


def _installed_recipes() -> list[Path]:
    listed = importlib.metadata.files("wsipipe") or []
    return [Path(str(file.locate())) for file in listed if file.match("share/wsipipe/configs/*.yaml")]


def load_recipe(source: str | Path) -> Recipe:
    """Read a recipe.

    Parameters
    ----------
    source : str or Path
        A YAML file, or the name of a bundled recipe ("slide").

    Raises
    ------
    ConfigError
        The file is missing or is no YAML mapping, or a setting is unknown or impossible; the message names the
        setting, its value and what is allowed.
    """
    path = bundled_recipes().get(str(source), Path(source))
    if not path.is_file():
        names = ", ".join(bundled_recipes())
        raise ConfigError("no such recipe", path=path, remedy=f"give a YAML file or one of: {names}")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", path=path) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"is not YAML: {' '.join(str(error).split())}", path=path) from error
    if not isinstance(data, dict):
        raise ConfigError(
            f"holds {type(data).__name__}, not settings", path=path, remedy="start from a file in configs/"
        )
    return parse_recipe(data, source=path)


def parse_recipe(data: dict[str, Any], *, source: str | Path | None = None) -> Recipe:
    """Validate settings from a mapping; see `load_recipe`."""
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise ConfigError("; ".join(_tell(item) for item in error.errors()), path=source) from error


def updated(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    """Copy of a recipe with changes like {"tile": {"mpp": 1.0}}, validated again; None values change nothing."""
    data = recipe.model_dump(mode="json")
    data["encoder"]["backend"] = recipe.encoder.backend  # is never dumped
    stain = data.get("stain", {})
    if stain.get("target") and any(value is not None for value in changes.get("stain", {}).values()):
        stain |= {"target": None, "reference": "published"}  # another method or reference makes another target
    for section, values in changes.items():
        data[section] = data.get(section, {}) | {key: value for key, value in values.items() if value is not None}
    return parse_recipe(data)


def _tell(item: ErrorDetails) -> str:
    where = ".".join(str(part) for part in item["loc"]) or "settings"
    if item["type"] == "extra_forbidden":
        return f"unknown setting {where!r}"
    value = item["input"]
    shown = "" if isinstance(value, dict) else f", got {value!r}"
    return f"{where}: {item['msg'].removeprefix('Value error, ')}{shown}"
