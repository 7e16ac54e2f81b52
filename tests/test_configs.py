from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from wsipipe.config import Recipe, load_recipe

FOLDER = Path(__file__).parents[1] / "configs"
RECIPES = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_loads_and_every_line_of_it_counts(path):
    recipe = load_recipe(path).model_dump(mode="json")

    def check(written, loaded):
        for name, value in written.items():
            if isinstance(value, dict):
                check(value, loaded[name])
            else:
                assert loaded[name] == value

    check(yaml.safe_load(path.read_text()), recipe)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_explains_itself(path):
    assert path.read_text().startswith("# ")


def test_the_recipes_that_are_promised_are_there():
    promised = {"slide", "slide_cpu", "camelyon16", "tissue_cores", "smoke", "demo", "glas_cpu"}
    assert {path.stem for path in RECIPES} >= promised


def test_camelyon16_is_the_papers():
    recipe = load_recipe(FOLDER / "camelyon16.yaml")
    training = recipe.training
    assert 4096 / recipe.encoder.stride_px == training.window == 256
    assert (training.epochs, training.learning_rate, training.weight_decay) == (30, 1e-4, 1e-4)
    assert (training.pairs, training.point_width, recipe.cvm.eta) == (3, 1, 0.6)


def test_tissue_cores_are_the_papers():
    recipe = load_recipe(FOLDER / "tissue_cores.yaml")
    assert recipe.encoder.uses_images
    assert (recipe.training.epochs, recipe.training.pairs, recipe.training.point_width) == (50, 5, 3)
    assert recipe.training.window == 768


def test_training_defaults_are_the_papers():
    training = Recipe().training
    assert (training.method, training.kl_weight, training.warmup_epochs) == ("cvm", 1.0, 0)
    assert (training.learning_rate, training.weight_decay) == (1e-4, 1e-4)
