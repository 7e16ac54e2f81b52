"""Methods by the name that a recipe gives them."""

from __future__ import annotations

from collections.abc import Callable

from wsipipe.config import Recipe
from wsipipe.models.methods.base import Method
from wsipipe.models.methods.full import FullSupervision
from wsipipe.models.methods.variational import ContrastMapTeacher, CvmTeacher


def build_method(recipe: Recipe) -> Method:
    """Build the method of a recipe, with its own settings."""
    builders: dict[str, Callable[[], Method]] = {
        "partial_ce": Method,
        "full": FullSupervision,
        "contrast_map": lambda: ContrastMapTeacher(recipe.cvm),
        "cvm": lambda: CvmTeacher(recipe.cvm),
    }
    return builders[recipe.training.method]()
