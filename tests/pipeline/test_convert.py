"""Lists of other projects to maps and back, and a model trained and used on maps without a pixel."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image

from listmaker import patches, write_clam, write_stamp, write_trident
from slidemaker import write_slide
from wsipipe.config import parse_recipe
from wsipipe.errors import CheckpointError, ConfigError, ResolutionError, StoreError
from wsipipe.geometry import CellGrid
from wsipipe.pipeline.convert import ListOptions, export_map, import_list
from wsipipe.pipeline.extract import extract_slide
from wsipipe.pipeline.list_geometry import Told
from wsipipe.pipeline.predict import predict_slide
from wsipipe.pipeline.train import train
from wsipipe.slides import SlideEntry, list_slides, slide_identity
from wsipipe.store.checkpoint import load_checkpoint
from wsipipe.store.feature_map import FeatureMap

ALL = slice(None)
SIZE = (1400, 1000)
CLAM = Told(slide_size=SIZE, slide_mpp=0.5, mpp=1.0, patch_px=64)


def options(told=None, **changes):
    return ListOptions(told or Told(), **changes)


def entry(path):
    return SlideEntry(path.stem, path)


def content(path):
    with FeatureMap.open(path) as features:
        return features.info, features.read(ALL, ALL), features.read_valid(ALL, ALL)


def by_cell(cells, features, shape):
    """What a map of the list holds."""
    values, valid = np.zeros((*shape, features.shape[1]), np.float32), np.zeros(shape, bool)
    values[tuple(cells.T)], valid[tuple(cells.T)] = features.astype(np.float16), True
    return values, valid


def check(path, cells, features, shape):
    info, values, valid = content(path)
    assert info.grid.shape == shape
    expected, where = by_cell(cells, features, shape)
    np.testing.assert_array_equal(valid, where)
    np.testing.assert_array_equal(values, expected)
    return info


def test_a_trident_list_becomes_a_map(tmp_path):
    cells, coords, features = patches(7, 10, step=128)
    path = write_trident(tmp_path / "lists" / "s.h5", features, coords, size=SIZE)
    outcome = import_list(entry(path), out=tmp_path, options=options(Told(mpp=1.0)))
    assert outcome.outputs == (tmp_path / "features" / "uni_v1-trident-patch-64px-1mpp" / "s.h5",)
    info = check(outcome.outputs[0], cells, features, (8, 11))
    assert info.grid == CellGrid(8, 11, 128.0)
    assert (info.encoder, info.weights_digest, info.kind, info.stride_px) == ("uni_v1", "unknown", "patch", 64)
    assert (info.mpp, info.slide_mpp, info.slide_size, info.slide) == (1.0, 0.5, SIZE, "s")
    assert import_list(entry(path), out=tmp_path, options=options(Told(mpp=1.0))).status == "skipped"
    assert import_list(entry(path), out=tmp_path, options=options(Told(mpp=1.0)), force=True).status == "done"
    assert import_list(entry(path), out=tmp_path, options=options(Told(slide_mpp=0.51))).status == "done"


def test_overlapping_patches_share_their_centre_with_their_cell(tmp_path):
    cells, coords, features = patches(7, 10, step=96)
    path = write_trident(tmp_path / "s.h5", features, coords + np.array([30, 70]), size=SIZE, overlap=16)
    outcome = import_list(entry(path), out=tmp_path, options=options(Told(mpp=1.0)))
    info, _, valid = content(outcome.outputs[0])
    assert (info.stride_px, info.grid.cell_px) == (48, 96.0)
    assert outcome.outputs[0].parent.name == "uni_v1-trident-patch-64px-overlap16-1mpp"
    centres = info.grid.centres(np.argwhere(valid))
    expected = coords[np.lexsort((cells[:, 1], cells[:, 0]))] + np.array([30 + 64, 70 + 64])
    np.testing.assert_array_equal(centres, expected)


def test_a_step_smaller_than_the_patch_is_the_stride_even_where_nobody_says_so(tmp_path):
    cells, coords, features = patches(7, 10, step=96)
    path = write_clam(tmp_path / "s.h5", features, coords)
    outcome = import_list(entry(path), out=tmp_path, options=options(CLAM, encoder="resnet50"))
    info = check(outcome.outputs[0], cells, features, (11, 15))
    assert (info.stride_px, info.grid.origin) == (48, (16.0, 16.0))


def test_a_stamp_list_in_um_becomes_a_map(tmp_path):
    """STAMP's tiles have whole px of the slide, so their distance is a little more than they say."""
    cells, _, features = patches(12, 15, step=1)
    mpp, tile = 0.2525, np.ceil(64 / 0.2525)
    path = write_stamp(tmp_path / "s.h5", features, cells[:, ::-1] * tile * mpp)
    told = Told(slide_mpp=mpp, slide_size=(4000, 3100))
    outcome = import_list(entry(path), out=tmp_path, options=options(told))
    info, _, valid = content(outcome.outputs[0])
    assert info.grid.cell_px == pytest.approx(254, abs=1e-3)
    assert (info.mpp, info.stride_px, info.encoder) == (1.0, 64, "ctranspath")
    assert np.count_nonzero(valid) == len(cells)


def test_the_slide_tells_its_size_resolution_and_identity(tmp_path, slide_path):
    cells, coords, features = patches(5, 7, step=128)
    path = write_clam(tmp_path / "lists" / "tissue.h5", features, coords)
    wanted = options(Told(mpp=1.0, patch_px=64), encoder="mine", slide=slide_path.parent)
    info = check(import_list(entry(path), out=tmp_path, options=wanted).outputs[0], cells, features, (6, 8))
    assert (info.slide_size, info.slide_mpp, info.slide_identity) == ((1024, 768), 0.5, slide_identity(slide_path))
    with pytest.raises(StoreError, match=r"holds no slide 'other'"):
        import_list(SlideEntry("other", path), out=tmp_path, options=wanted)


def test_slides_of_one_nominal_resolution_count_as_equal(tmp_path):
    _, coords, features = patches(7, 10, step=128)
    path = write_trident(tmp_path / "s.h5", features, coords, size=SIZE)
    info, *_ = content(
        import_list(entry(path), out=tmp_path, options=options(Told(mpp=1.0, slide_mpp=0.5042))).outputs[0]
    )
    assert (info.mpp, info.slide_mpp) == (1.0, 0.5042)
    with pytest.raises(ResolutionError, match=r"has patches of 1 um per px, --mpp says 2"):
        import_list(entry(path), out=tmp_path, options=options(Told(mpp=2.0, slide_mpp=0.5)))


LACKS = [
    ({"patch_px": None}, r"how many px its patches have \(--patch-size"),
    ({"mpp": None}, r"how large its patches are on the slide \(--patch-size and --mpp"),
    ({"slide_mpp": None}, r"how large its patches are on the slide.*--slide FILE or --slide-mpp"),
    ({"slide_size": None}, r"how large the slide is \(--slide FILE or --slide-size WIDTHxHEIGHT"),
    ({"overlap_px": 32}, r"neighbouring patches are 128 px apart, told is 64 px \(say --overlap and --patch-size"),
    ({"slide_size": (900, 700)}, r"has patches outside of the slide of 900 x 700 px"),
]


@pytest.mark.parametrize(("changes", "told"), LACKS, ids=[next(iter(changes)) for changes, _ in LACKS])
def test_what_a_list_lacks_is_asked_for(tmp_path, changes, told):
    _, coords, features = patches(7, 10, step=128)
    path = write_clam(tmp_path / "s.h5", features, coords)
    with pytest.raises((StoreError, ResolutionError), match=rf"s\.h5: .*{told}") as caught:
        import_list(entry(path), out=tmp_path, options=options(replace(CLAM, **changes), encoder="mine"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "features").exists()


def test_names_and_resolutions_are_asked_for(tmp_path):
    _, coords, features = patches(7, 10, step=128)
    clam = write_clam(tmp_path / "s.h5", features, coords)
    with pytest.raises(StoreError, match=r"which encoder made it \(--encoder NAME"):
        import_list(entry(clam), out=tmp_path, options=options(CLAM))
    trident = write_trident(tmp_path / "t.h5", features, coords, size=SIZE)
    with pytest.raises(ResolutionError, match=r"resolution in um per px \(--slide FILE.*--mpp 1 if 10x means that"):
        import_list(entry(trident), out=tmp_path, options=options())
    stamp = write_stamp(tmp_path / "u.h5", features, coords / 2)
    with pytest.raises(ResolutionError, match=r"places in um.*--slide FILE or --slide-mpp"):
        import_list(entry(stamp), out=tmp_path, options=options(Told(slide_size=SIZE)))


def test_grids_of_several_pieces_of_tissue_are_snapped_only_where_asked(tmp_path):
    """CLAM begins a grid at the corner of every contour; where two meet, the nearer patch has the cell."""
    cells, coords, features = patches(7, 6, step=128, keep=1)
    other = np.array([[850, 30], [978, 30], [700, 30]])  # off by 46 px to the right; the last one on a taken cell
    vectors = np.full((3, features.shape[1]), 5, np.float32)
    path = write_clam(tmp_path / "s.h5", np.concatenate([features, vectors]), np.concatenate([coords, other]))
    with pytest.raises(
        StoreError, match=r"lie on no grid: steps are 128 px, patch 4\d at .* is off by \d\d px \(--snap"
    ):
        import_list(entry(path), out=tmp_path, options=options(CLAM, encoder="mine"))
    wanted = options(replace(CLAM, snap=True), encoder="mine")
    outcome = import_list(entry(path), out=tmp_path, options=wanted)
    assert outcome.message == "44 patches of clam on 8 x 11 cells, 1 left out where others are nearer"
    _, values, valid = content(outcome.outputs[0])
    assert valid[0, 7]
    assert valid[0, 8]
    np.testing.assert_array_equal(values[:7, :6], by_cell(cells, features, (7, 6))[0])


def test_a_place_listed_twice_is_refused(tmp_path):
    _, coords, features = patches(7, 10, step=128)
    twice = np.concatenate([coords, coords[:2]]), np.concatenate([features, features[:2]])
    path = write_trident(tmp_path / "s.h5", twice[1], twice[0], size=SIZE)
    with pytest.raises(StoreError, match=r"lists 2 patches at places that it has already"):
        import_list(entry(path), out=tmp_path, options=options(Told(mpp=1.0)))


@pytest.mark.parametrize("layout", ["trident", "clam", "stamp"])
@pytest.mark.parametrize("kind", ["overlap", "plain", "dense"])
def test_a_map_to_a_list_and_back_is_the_same_map(tmp_path, slide_path, layout, kind):
    recipe = parse_recipe(
        {
            "tile": {"mpp": 0.83, "patch_size_px": 48, "overlap_px": 16 if kind == "overlap" else 0, "min_tissue": 0.3},
            "encoder": {"name": "filterbank" if kind == "dense" else "resnet18", "weights": "none", "stride_px": 8}
            | {"kind": "dense" if kind == "dense" else "patch"},
        }
    )
    (slide,) = list_slides([slide_path])
    stored = extract_slide(slide, tmp_path, recipe, device="cpu").outputs[0]
    files = export_map(entry(stored), out=tmp_path / layout, layout=layout).outputs
    overlap = 16 if kind == "overlap" else 0
    side = 8 if kind == "dense" else 48
    told = Told(slide_mpp=0.5, slide_size=(1024, 768), mpp=0.83, patch_px=side, overlap_px=overlap)
    back = import_list(entry(files[0]), out=tmp_path / "back", options=options(told, encoder="x")).outputs[0]
    (before, values, valid), (after, again, valid_again) = content(stored), content(back)
    np.testing.assert_array_equal(valid_again, valid)
    np.testing.assert_array_equal(again, values)
    assert valid.any()
    assert after.grid.cell_px == pytest.approx(before.grid.cell_px, rel=2e-3)
    assert after.grid.origin == pytest.approx(before.grid.origin, abs=1)
    assert (after.stride_px, after.mpp, after.slide_size) == (before.stride_px, before.mpp, before.slide_size)


def test_a_map_without_resolution_asks_for_it(tmp_path):
    path = write_slide(tmp_path / "n.tif", np.full((128, 128, 3), 128, np.uint8), mpp=None, vendor="generic", levels=1)
    recipe = parse_recipe({"tile": {"mpp": None}, "encoder": {"name": "filterbank", "kind": "dense", "stride_px": 8}})
    stored = extract_slide(list_slides([path])[0], tmp_path, recipe, device="cpu").outputs[0]
    with pytest.raises(ResolutionError, match="--slide-mpp"):
        export_map(entry(stored), out=tmp_path, layout="stamp")
    assert export_map(entry(stored), out=tmp_path, layout="stamp", slide_mpp=0.5).status == "done"


# ---- training and prediction without pixels

POINTS = "x,y,label\n150,300,Tumor\n350,600,Tumor\n900,300,Stroma\n1100,600,Stroma\n"
RECIPE = {
    "network": {"width": 4, "depth": 1},
    "training": {"epochs": 3, "learning_rate": 0.03, "previews": 1, "validation_fraction": 0.5, "window": 32},
    "predict": {"window": 32, "overlap": 8},
}


def halves(seed, *, step=64.0, rows=15, cols=21):
    """Patches whose vectors tell the left half from the right."""
    _, coords, features = patches(rows, cols, step=step, keep=1, seed=seed)
    features[:, :2] = np.where(coords[:, :1] < SIZE[0] / 2, 2, -2)
    return coords, features


def write(layout, path, coords, features):
    if layout == "trident":
        return write_trident(path, features, coords, size=SIZE, patch=32, level0=64)
    if layout == "clam":
        return write_clam(path, features, coords)
    return write_stamp(path, features, coords * 0.5, tile_um=32.0, tile_px=32)


def maps(tmp_path, layout):
    told = Told(slide_size=SIZE, slide_mpp=0.5, mpp=1.0, patch_px=32)
    lists = [write(layout, tmp_path / "lists" / f"{key}.h5", *halves(seed)) for seed, key in enumerate("ab")]
    encoder = "uni_v1"
    return [import_list(entry(path), out=tmp_path, options=options(told, encoder=encoder)).outputs[0] for path in lists]


def trained(tmp_path, paths, **recipe):
    (tmp_path / "points.csv").write_text(POINTS)
    rows = [f"{path},points.csv,{split}" for path, split in zip(paths, ("train", "val"), strict=True)]
    (tmp_path / "manifest.csv").write_text("\n".join(["slide,points,split", *rows]))
    run = tmp_path / "run"
    train(tmp_path / "manifest.csv", parse_recipe(RECIPE | recipe), run, out=tmp_path, device="cpu")
    return run


@pytest.mark.parametrize("layout", ["trident", "clam", "stamp"])
def test_a_model_is_trained_and_used_on_lists_of_others(tmp_path, layout):
    paths = maps(tmp_path, layout)
    run = trained(tmp_path, paths)
    checkpoint = load_checkpoint(run / "checkpoint.safetensors")
    assert checkpoint.provenance["encoder"] == checkpoint.recipe.encoder.name == "uni_v1"
    assert (checkpoint.recipe.tile.mpp, checkpoint.recipe.tile.patch_size_px) == (1.0, 32)
    assert list((run / "previews").iterdir())
    (given,) = list_slides([paths[0]])
    outcome = predict_slide(given, model=run, out=tmp_path, device="cpu")
    raster = tifffile.imread(outcome.outputs[2])
    assert raster.shape == (16, 22) or raster.shape[1] / raster.shape[0] == pytest.approx(1.4, rel=0.1)
    left, right = raster[:, : raster.shape[1] // 2 - 1].mean(), raster[:, raster.shape[1] // 2 + 2 :].mean()
    assert left > right + 20
    report = json.loads(outcome.outputs[-1].read_text())
    assert (report["size_px"], report["mpp"], report["mpp_source"]) == ([*SIZE], 0.5, "feature map")
    overlay = np.asarray(Image.open(outcome.outputs[4]))
    assert overlay.shape == (1000, 1400, 3)
    assert (overlay[400:600, 1000:1200] == 214).all(axis=2).mean() > 0.5  # cells are grey
    assert (overlay[:, 1360:] == 255).all()  # there is no cell
    assert predict_slide(given, model=run, out=tmp_path, device="cpu").status == "skipped"


def test_a_model_of_maps_says_what_it_needs_of_slides(tmp_path, slide_path):
    run = trained(tmp_path, maps(tmp_path, "trident"))
    with pytest.raises(ConfigError, match=r"no encoder 'uni_v1'.*or give feature maps \(\.h5\) instead of slides"):
        predict_slide(list_slides([slide_path])[0], model=run, out=tmp_path, device="cpu")


def test_maps_of_several_kinds_are_not_mixed(tmp_path):
    first, second = maps(tmp_path, "trident")
    with h5py.File(second, "a") as file:
        file.attrs["encoder"] = "virchow2"
    with pytest.raises(ConfigError, match=r"holds features with encoder virchow2, .*a\.h5 with uni_v1"):
        trained(tmp_path, [first, second])
    image = tmp_path / "i.png"
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(image)
    with pytest.raises(ConfigError, match=r"encoder 'none' takes images.*lists feature maps"):
        trained(tmp_path, [first, image], encoder={"name": "none"})


def test_a_map_of_another_encoder_does_not_fit_the_model(tmp_path):
    paths = maps(tmp_path, "stamp")
    run = trained(tmp_path, paths)
    with h5py.File(paths[0], "a") as file:
        file.attrs["encoder"] = "virchow2"
    with pytest.raises(CheckpointError, match=r"encoder uni_v1, these have encoder virchow2"):
        predict_slide(list_slides([paths[0]])[0], model=run, out=tmp_path, device="cpu")


def test_converting_needs_no_torch():
    script = (
        "import sys; from wsipipe.pipeline import batch, convert, stored_maps; import wsipipe_cli.convert; "
        "sys.exit(str([m for m in ('torch', 'sklearn', 'matplotlib', 'numba') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "[]"
