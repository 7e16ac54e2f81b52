"""Stain normalisation of slides: once per slide, the same for all its tiles, told by the map, asked for by models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from slidemaker import write_slide
from stainmaker import BLUE, PURPLE, amounts, stained
from wsipipe.config import Recipe, StainSettings, parse_recipe, updated
from wsipipe.errors import CheckpointError, ConfigError, StainError
from wsipipe.geometry import Region
from wsipipe.models.encoders import build_encoder
from wsipipe.numerics.stain import macenko
from wsipipe.pipeline.extract import extract_slide
from wsipipe.pipeline.feature_plan import feature_path, feature_tag, relevant_settings
from wsipipe.pipeline.manifest import read_manifest
from wsipipe.pipeline.map_source import ImageMap
from wsipipe.pipeline.predict import predict_slide
from wsipipe.pipeline.preparation import Reading, prepare
from wsipipe.pipeline.sources import image_source
from wsipipe.pipeline.stain import RecolouredView, fit_slide, recolouring_of, stain_of, view_of, with_target
from wsipipe.pipeline.train import train
from wsipipe.pipeline.tuning import EncoderTuner
from wsipipe.progress import silent
from wsipipe.slides import MppView, SlideEntry, open_slide
from wsipipe.store.checkpoint import load_checkpoint
from wsipipe.store.feature_info import FeatureMapInfo, to_attributes, to_json
from wsipipe.store.feature_map import FeatureMap

ALL = slice(None)
BASE = parse_recipe(
    {
        "tile": {"mpp": 1.0, "patch_size_px": 64, "tissue": {"min_area_um2": 1000}},
        "encoder": {"name": "filterbank", "kind": "dense", "stride_px": 4},
        "network": {"width": 4, "depth": 1},
        "training": {"epochs": 1, "previews": 0, "method": "partial_ce", "window": 32},
        "predict": {"window": 32, "overlap": 8},
    }
)
METHODS = ("macenko", "reinhard")


def stain(recipe: Recipe, method: str, **more: Any) -> Recipe:
    return updated(recipe, {"stain": {"method": method, **more}})


def entry(path: Path) -> SlideEntry:
    return SlideEntry(path.stem, path)


def on_glass(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.pad(picture, ((64, 64), (64, 64), (0, 0)), constant_values=244)


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One tissue in two stains, 512 x 448 px at 0.5 um."""
    folder, of = tmp_path_factory.mktemp("stained"), amounts(384, 320)
    pictures = {"a": stained(of, PURPLE), "b": stained(of, BLUE, (0.6, 0.8))}
    a, b = (write_slide(folder / f"{name}.svs", on_glass(p), compression=None) for name, p in pictures.items())
    return a, b


def features_of(path: Path, out: Path, recipe: Recipe) -> tuple[NDArray[np.float32], FeatureMapInfo]:
    outcome = extract_slide(entry(path), out, recipe, device="cpu")
    with FeatureMap.open(outcome.outputs[0]) as features:
        return features.read(ALL, ALL), features.info


@pytest.mark.parametrize(("method", "left"), [("macenko", 0.2), ("reinhard", 0.9)])
def test_two_stains_of_one_tissue_give_nearer_features(
    slides: tuple[Path, Path], tmp_path: Path, method: str, left: float
) -> None:
    def apart(recipe: Recipe) -> float:
        (a, _), (b, _) = (features_of(path, tmp_path, recipe) for path in slides)
        inside = (slice(20, 90), slice(20, 100))  # off the glass
        scale = a[inside].std(axis=(0, 1))
        return float((np.abs(a[inside] - b[inside]) / scale).mean())

    before, after = apart(BASE), apart(stain(BASE, method))
    assert before > 0.3
    assert after < left * before


@pytest.mark.parametrize("kind", ["patch", "dense"])
def test_all_tiles_of_a_slide_are_recoloured_alike(slides: tuple[Path, Path], tmp_path: Path, kind: str) -> None:
    encoder = {"name": "resnet18", "kind": kind, "weights": "none", "stride_px": 32}
    recipe = updated(stain(BASE, "macenko"), {"encoder": encoder})
    values, info = features_of(slides[1], tmp_path, recipe)
    recolouring = recolouring_of(info)
    assert recolouring is not None
    built = build_encoder(recipe.encoder)
    with open_slide(slides[1]) as slide:
        view = MppView(slide, 1.0)
        if kind == "patch":
            pixels = recolouring(view.read(Region(64, 64, 64, 64)))
            expected = built.encode(torch.from_numpy(pixels)[None])[0].numpy()
            got = values[1, 1]
        else:
            halo, (rows, cols, _) = built.halo_px, values.shape
            whole = Region(0, 0, cols * 32, rows * 32).padded(halo, halo, halo, halo)
            encoded = built.encode(torch.from_numpy(recolouring(view.read(whole)))[None])[0].permute(1, 2, 0).numpy()
            expected, got = encoded[halo // 32 + 2, halo // 32 + 3], values[2, 3]
    np.testing.assert_allclose(got, expected, rtol=2e-3, atol=1e-4 * expected.max())


@pytest.mark.parametrize("method", METHODS)
def test_a_map_tells_what_was_fitted_and_is_recognised(slides: tuple[Path, Path], tmp_path: Path, method: str) -> None:
    recipe = stain(BASE, method)
    _, info = features_of(slides[0], tmp_path, recipe)
    with open_slide(slides[0]) as slide:
        fitted = fit_slide(MppView(slide, 1.0), None, recipe.stain)
    assert fitted is not None
    assert len(info.stain_fit) == len(fitted.own)
    assert info.settings["stain"] == {"method": method, "target": list(fitted.target)}
    assert info.stain is not None
    assert info.stain.startswith(f"{method} (")
    assert extract_slide(entry(slides[0]), tmp_path, recipe, device="cpu").status == "skipped"
    assert feature_tag(recipe) == f"filterbank-dense-stride4-1mpp-{method}"


def test_the_fit_of_a_slide_is_the_same_every_time(slides: tuple[Path, Path], tmp_path: Path) -> None:
    recipe = stain(BASE, "macenko")
    fits = [features_of(slides[0], tmp_path / name, recipe)[1].stain_fit for name in ("one", "two")]
    assert fits[0] == fits[1]


def test_without_stain_handling_nothing_changes(slides: tuple[Path, Path], tmp_path: Path) -> None:
    _, info = features_of(slides[0], tmp_path, BASE)
    assert info.stain is None
    assert "stain" not in BASE.model_dump(mode="json")
    assert set(relevant_settings(BASE)) == {"revision", "tile", "encoder"}
    assert "stain" not in to_json(info)
    assert not [name for name in to_attributes(info) if "stain" in name]
    assert stain(BASE, "none", reference="published") == BASE
    assert stain(stain(BASE, "macenko"), "none").digest() == BASE.digest()


def test_methods_and_references_are_other_work(slides: tuple[Path, Path], tmp_path: Path) -> None:
    given = stain(BASE, "macenko", reference="given", target=[*macenko.PUBLISHED[:7], 1.2])
    recipes = [BASE, *(stain(BASE, method) for method in METHODS), given]
    infos = [features_of(slides[0], tmp_path, recipe)[1] for recipe in recipes]
    assert len({info.settings_digest for info in infos}) == 4
    assert len({feature_path(tmp_path, recipe, "a") for recipe in recipes}) == 4
    same = stain(BASE, "macenko", reference="given", target=list(macenko.PUBLISHED))
    assert extract_slide(entry(slides[0]), tmp_path, same, device="cpu").status == "skipped"


def test_a_reference_picture_is_read_once_and_needed_no_more(slides: tuple[Path, Path], tmp_path: Path) -> None:
    picture = tmp_path / "reference.png"
    Image.fromarray(stained(amounts(200, 200, seed=1), BLUE, (0.6, 0.8))).save(picture)
    recipe = stain(BASE, "macenko", reference=str(picture))
    fixed = with_target(recipe)
    assert fixed.stain.reference == "given"
    assert relevant_settings(fixed) == relevant_settings(recipe)
    picture.unlink()
    values, _ = features_of(slides[1], tmp_path, fixed)  # of nearly the look it has
    plain, _ = features_of(slides[1], tmp_path, BASE)
    published, _ = features_of(slides[1], tmp_path, stain(BASE, "macenko"))
    assert np.abs(values - plain).mean() < 0.5 * np.abs(published - plain).mean()
    with pytest.raises(ConfigError, match=r"reference\.png: no such stain reference"):
        with_target(recipe)


@pytest.mark.parametrize("method", METHODS)
def test_a_grey_slide_is_refused_by_name_with_a_remedy(tmp_path: Path, method: str) -> None:
    grey = np.random.default_rng(0).integers(80, 180, (384, 384, 1)).repeat(3, axis=2).astype(np.uint8)
    path = write_slide(tmp_path / "grey.svs", on_glass(grey), compression=None)
    with pytest.raises(StainError, match=rf"grey\.svs: {method}: .*--stain none"):
        extract_slide(entry(path), tmp_path, stain(BASE, method), device="cpu")
    assert not list(tmp_path.rglob("*.h5"))


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"method": "vahadane"}, "stain.method"),
        ({"method": "macenko", "reference": "given"}, "a target goes with reference"),
        ({"method": "macenko", "target": [1.0] * 8}, "a target goes with reference"),
        ({"reference": "picture.png"}, "needs a method, macenko or reinhard"),
        ({"method": "reinhard", "reference": "given", "target": [1.0] * 8}, "has a target of 6 numbers, got 8"),
    ],
)
def test_impossible_settings_are_told(section: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse_recipe({"stain": section})


def test_images_without_an_encoder_are_recoloured_for_training_and_prediction(slides: tuple[Path, Path]) -> None:
    settings = StainSettings(method="macenko")
    source = image_source(entry(slides[1]), 1.0, reader="auto", stain=settings)
    window = slice(30, 90), slice(40, 130)
    with open_slide(slides[1]) as slide:
        view = MppView(slide, 1.0)
        fitted = fit_slide(view, None, settings)
        assert fitted is not None
        expected = fitted(view.read(Region(40, 30, 90, 60)))
        seen = ImageMap(slide, 1.0, settings).read_stored(*window)
    np.testing.assert_array_equal(source.read(*window), expected)
    np.testing.assert_array_equal(seen, expected / np.float32(255))
    plain = image_source(entry(slides[1]), 1.0, reader="auto", stain=StainSettings())
    assert plain == image_source(entry(slides[1]), 1.0, reader="auto")


def write_manifest(folder: Path, slides: tuple[Path, Path]) -> Path:
    points = "x,y,label\n120,150,Tumor\n300,200,Tumor\n200,300,Stroma\n350,330,Stroma\n"
    for path in slides:
        (folder / f"{path.stem}.csv").write_text(points)
    rows = [f"{path},{path.stem}.csv,{split}" for path, split in zip(slides, ("train", "val"), strict=True)]
    manifest = folder / "manifest.csv"
    manifest.write_text("\n".join(["slide,points,split", *rows]))
    return manifest


def test_a_model_brings_its_stain_handling_along(slides: tuple[Path, Path], tmp_path: Path) -> None:
    picture = tmp_path / "reference.png"
    Image.fromarray(stained(amounts(200, 200, seed=1), BLUE)).save(picture)
    recipe = stain(BASE, "macenko", reference=str(picture))
    train(write_manifest(tmp_path, slides), recipe, tmp_path / "run", out=tmp_path, device="cpu")
    picture.unlink()
    checkpoint = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors")
    assert checkpoint.provenance["stain"].startswith("macenko (")
    made = tmp_path / "elsewhere"
    predict_slide(entry(slides[1]), model=tmp_path / "run", out=made, device="cpu")
    (path,) = (made / "features").rglob("*.h5")
    with FeatureMap.open(path) as features:
        assert features.info.stain == checkpoint.provenance["stain"]
        assert stain_of(features.info) == checkpoint.recipe.stain
    extract_slide(entry(slides[1]), made, BASE, device="cpu")
    with pytest.raises(CheckpointError, match=r"trained on features with stain macenko .* these have stain None"):
        predict_slide(entry(feature_path(made, BASE, "b")), model=tmp_path / "run", out=made, device="cpu")


def test_a_model_of_stored_maps_takes_over_their_stain_handling(slides: tuple[Path, Path], tmp_path: Path) -> None:
    recipe = stain(BASE, "reinhard")
    maps = tuple(extract_slide(entry(path), tmp_path, recipe, device="cpu").outputs[0] for path in slides)
    manifest = write_manifest(tmp_path, (maps[0], maps[1]))
    train(manifest, stain(BASE, "macenko"), tmp_path / "run", out=tmp_path, device="cpu")
    assert stain_of_run(tmp_path / "run").method == "reinhard"
    mixed = (maps[0], extract_slide(entry(slides[1]), tmp_path, BASE, device="cpu").outputs[0])
    with pytest.raises(ConfigError, match="holds features with stain None"):
        train(write_manifest(tmp_path, mixed), BASE, tmp_path / "mixed", out=tmp_path, device="cpu")


def stain_of_run(run: Path) -> StainSettings:
    return load_checkpoint(run / "checkpoint.safetensors").recipe.stain


def test_a_tuned_encoder_sees_the_pixels_that_the_map_was_made_of(slides: tuple[Path, Path], tmp_path: Path) -> None:
    encoder = {"name": "resnet18", "kind": "patch", "weights": "none", "trainable": True}
    recipe = updated(stain(BASE, "macenko"), {"encoder": encoder})
    rows = read_manifest(write_manifest(tmp_path, slides))
    data = prepare(rows, recipe, out=tmp_path, reading=Reading(device="cpu"), report=silent)
    sample = data.train[0]
    valid = sample.source.read_valid(sample.rows, sample.cols)
    seen = EncoderTuner(recipe, device=torch.device("cpu"), half=False).look(sample, valid)
    stored = sample.source.read(sample.rows, sample.cols).astype(np.float32)
    np.testing.assert_allclose(seen.permute(1, 2, 0).numpy(), stored, rtol=2e-3, atol=1e-3 * stored.max())


def test_a_view_in_its_own_colours_is_the_plain_one(slides: tuple[Path, Path]) -> None:
    with open_slide(slides[0]) as slide:
        assert type(view_of(slide, 1.0, None)) is MppView
        fitted = fit_slide(MppView(slide, 1.0), None, StainSettings(method="reinhard"))
        assert fitted is not None
        region = Region(10, 20, 30, 40)
        same = view_of(slide, 1.0, replace(fitted, target=fitted.own)).read(region)
        assert np.abs(same.astype(int) - MppView(slide, 1.0).read(region)).max() <= 1
        assert isinstance(view_of(slide, 1.0, fitted), RecolouredView)


def test_real_slides_of_different_stain_become_alike(shared: Path) -> None:
    """Mean colour of the tissue of two sections, one red and one violet."""
    names = {"TCGA-CR-7395.svs": 1.0, "CMU-1-Small-Region.svs": None}
    for method in METHODS:
        colours = []
        for name, mpp in names.items():
            with open_slide(shared / "slides" / name, mpp=mpp) as slide:
                view = MppView(slide, 2.0)
                pixels = view.read(Region(0, 0, view.width, view.height))
                tissue = pixels.min(axis=2) < 200
                fitted = fit_slide(view, None, StainSettings(method=method))  # type: ignore[arg-type]
                assert fitted is not None
                colours.append([p[tissue].mean(axis=0) for p in (pixels, fitted(pixels))])
        before, after = np.abs(np.subtract(*colours)).max(axis=1)
        assert before > 25
        assert after < before / 2
