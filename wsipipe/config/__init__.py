"""Settings: pydantic models, frozen and validated; YAML in, one clear line out when something is wrong."""

from wsipipe.config.files import bundled_recipes, load_recipe, parse_recipe, updated
from wsipipe.config.masks import PredictSettings, SegmentSettings
from wsipipe.config.methods import (
    CosineSettings,
    CrfSettings,
    CvmPlusSettings,
    CvmSettings,
    DirectVariationalSettings,
    DualBranchSettings,
    MeanTeacherSettings,
    MixMatchSettings,
)
from wsipipe.config.recipe import Recipe
from wsipipe.config.slides import TUNING, USER_CODE, EncoderSettings, StainSettings, TileSettings, TissueSettings
from wsipipe.config.training import MANY_CLASSES, ClassSettings, MethodName, NetworkSettings, TrainingSettings

__all__ = [
    "MANY_CLASSES",
    "TUNING",
    "USER_CODE",
    "ClassSettings",
    "CosineSettings",
    "CrfSettings",
    "CvmPlusSettings",
    "CvmSettings",
    "DirectVariationalSettings",
    "DualBranchSettings",
    "EncoderSettings",
    "MeanTeacherSettings",
    "MethodName",
    "MixMatchSettings",
    "NetworkSettings",
    "PredictSettings",
    "Recipe",
    "SegmentSettings",
    "StainSettings",
    "TileSettings",
    "TissueSettings",
    "TrainingSettings",
    "bundled_recipes",
    "load_recipe",
    "parse_recipe",
    "updated",
]
