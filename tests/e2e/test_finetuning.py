"""From points to a mask with an encoder that was tuned on them, by the command line."""

from __future__ import annotations

import shutil

import yaml
from typer.testing import CliRunner

from wsipipe.store.checkpoint import load_checkpoint
from wsipipe.store.feature_map import FeatureMap
from wsipipe_cli.main import app

RECIPE = {
    "tile": {"mpp": 4.0, "patch_size_px": 32},
    "network": {"width": 4, "depth": 1},
    "training": {"epochs": 1, "method": "partial_ce", "previews": 1},
}
POINTS = "x,y,label\n300,300,Tumor\n600,400,Tumor\n500,200,Stroma\n800,500,Stroma"


def wsipipe(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_train_and_predict_with_a_tuned_encoder(slide_path, tmp_path):
    shutil.copy(slide_path, tmp_path / "s.svs")
    (tmp_path / "s.csv").write_text(POINTS)
    (tmp_path / "manifest.csv").write_text("slide,points\ns.svs,s.csv")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    told = wsipipe(
        *("train", tmp_path / "manifest.csv", "--finetune-encoder", "--encoder", "resnet18", "--weights", "none"),
        *("--recipe", tmp_path / "recipe.yaml", "--device", "cpu", "-o", tmp_path),
    )
    assert "best of 1 epochs is 1" in told
    run = tmp_path / "runs" / "manifest"
    checkpoint = load_checkpoint(run / "checkpoint.safetensors")
    assert checkpoint.recipe.encoder.trainable
    wsipipe("predict", tmp_path / "s.svs", "--model", run, "--device", "cpu", "-o", tmp_path)
    assert list((tmp_path / "masks").glob("s*.tif"))
    (tuned,) = (tmp_path / "features").glob("*tuned*/s.h5")
    with FeatureMap.open(tuned) as features:
        assert features.info.weights_digest == checkpoint.provenance["weights_digest"]
