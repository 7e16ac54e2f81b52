"""Settings: bad ones are told in one line with the setting and its value; recipes load by file and by name."""

from __future__ import annotations

import pytest

from wsipipe.config import Recipe, bundled_recipes, load_recipe, parse_recipe, updated
from wsipipe.errors import ConfigError
from wsipipe.pipeline.training_state import trained_settings


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tile: {mp: 1}", "unknown setting 'tile.mp'"),
        ("tile: {mpp: -1}", "tile.mpp: Input should be greater than 0.02, got -1"),
        ("tile: {patch_size_px: 256, overlap_px: 256}", "overlap_px 256 must be smaller than patch_size_px 256"),
        ("training: {method: magic}", "training.method: Input should be"),
        ("predict: {window: 64, overlap: 40}", "overlap 40 must be at most half of window 64"),
        ("cvm: {eta: .nan}", "cvm.eta"),
        ("- 1", "holds list, not settings"),
        ("tile: {", "is not YAML"),
    ],
)
def test_bad_settings_are_told_in_one_line(tmp_path, text, told):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    assert told in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_names_the_bundled_ones():
    with pytest.raises(ConfigError, match=r"no such recipe.*slide"):
        load_recipe("nope")


@pytest.mark.parametrize("name", sorted(bundled_recipes()))
def test_every_bundled_recipe_loads(name):
    assert load_recipe(name).digest()


def test_the_named_recipes_are_there():
    assert {"slide", "camelyon16", "tissue_cores", "smoke", "demo"} <= set(bundled_recipes())


def test_digest_follows_every_setting():
    base = Recipe()
    assert base.digest() == Recipe().digest()
    assert updated(base, {"cvm": {"eta": 0.61}}).digest() != base.digest()


def test_flags_that_are_not_given_change_nothing():
    assert updated(Recipe(), {"tile": {"mpp": None, "patch_size_px": None}}) == Recipe()


def test_flags_are_validated_like_files():
    with pytest.raises(ConfigError, match=r"tile\.mpp.*got 1000"):
        updated(Recipe(), {"tile": {"mpp": 1000}})


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        parse_recipe({}).tile.mpp = 3


def test_what_a_training_depends_on_leaves_other_methods_out():
    told = parse_recipe({"training": {"method": "mixmatch"}}).for_method()
    assert "mixmatch" in told
    assert not {"cvm", "crf", "segment"} & told.keys()
    assert {"tile", "encoder", "network", "training", "predict"} <= told.keys()
    assert "cvm" in parse_recipe({"training": {"method": "contrast_map"}}).for_method()
    every = set(Recipe.model_fields) - {"tile", "encoder", "network", "training", "predict"}
    assert not every & parse_recipe({"training": {"method": "partial_ce"}}).for_method().keys()


def test_views_and_refinement_follow_the_method_unless_said():
    plain, plus = (parse_recipe({"training": {"method": method}}) for method in ("full", "cvm_plus"))
    assert (plain.views, plain.refines, plus.views, plus.refines) == (1, False, 4, True)
    said = parse_recipe({"training": {"method": "cvm_plus"}, "predict": {"views": 1, "refine": False}})
    assert (said.views, said.refines) == (1, False)


def test_cvm_plus_needs_an_encoder_that_stays_the_same():
    with pytest.raises(ConfigError, match=r"encoder.trainable changes, use cvm"):
        parse_recipe({"training": {"method": "cvm_plus"}, "encoder": {"trainable": True}})


def test_another_reference_takes_the_place_of_a_picture_that_was_read():
    target = tuple(float(number) for number in range(1, 9))
    recipe = parse_recipe({"stain": {"method": "macenko", "reference": "given", "target": target}})
    assert updated(recipe, {"stain": {"method": None, "reference": None}}).stain.target == target
    for changes in ({"method": "none"}, {"method": "reinhard"}, {"reference": "published"}, {"reference": "other.png"}):
        found = updated(recipe, {"stain": changes}).stain
        assert found.target is None
        assert found.model_dump().items() >= changes.items()


def test_a_training_depends_on_the_stain_that_it_sees():
    plain = parse_recipe({"training": {"method": "partial_ce"}})
    stained = updated(plain, {"stain": {"method": "macenko"}})
    assert not any(name.startswith("stain.") for name in trained_settings(plain))
    assert trained_settings(stained)["stain.method"] == "macenko"
