"""Methods by the name that a recipe gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from wsipipe.config import MethodName, Recipe
from wsipipe.models.methods.base import Method
from wsipipe.models.methods.cosine import CosineSimilarity
from wsipipe.models.methods.crf import CrfRegularisation
from wsipipe.models.methods.direct_variational import DirectVariationalEnergy, DirectVariationalTeacher
from wsipipe.models.methods.dual_branch import DualBranch
from wsipipe.models.methods.full import FullSupervision
from wsipipe.models.methods.mean_teacher import MeanTeacher
from wsipipe.models.methods.mixmatch import MixMatch
from wsipipe.models.methods.pooled import PooledCvmTeacher
from wsipipe.models.methods.variational import ContrastMapTeacher, CvmTeacher


def build_method(recipe: Recipe) -> Method:
    """Build the method of a recipe, with its own settings."""
    builders: Mapping[MethodName, Callable[[], Method]] = {
        "partial_ce": Method,
        "mixmatch": lambda: MixMatch(recipe.mixmatch),
        "mean_teacher": lambda: MeanTeacher(recipe.mean_teacher),
        "crf": lambda: CrfRegularisation(recipe.crf),
        "dual_branch": lambda: DualBranch(recipe.dual_branch),
        "cosine": lambda: CosineSimilarity(recipe.cosine),
        "full": FullSupervision,
        "direct_variational": lambda: _direct_variational(recipe),
        "contrast_map": lambda: ContrastMapTeacher(recipe.cvm),
        "cvm": lambda: CvmTeacher(recipe.cvm),
        "cvm_plus": lambda: PooledCvmTeacher(recipe.cvm_plus),
    }
    return builders[recipe.training.method]()


def _direct_variational(recipe: Recipe) -> Method:
    settings = recipe.direct_variational
    return DirectVariationalTeacher(settings) if settings.form == "teacher" else DirectVariationalEnergy(settings)
