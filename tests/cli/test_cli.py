"""The command line: light to load, one clear line for what went wrong, the right exit code."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from listmaker import patches, write_trident
from slidemaker import write_slide
from wsipipe_cli.main import app, run

COMMANDS = tuple(get_command(app).commands)


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def command_line(monkeypatch, *arguments):
    """Run as a user does, errors turned into lines and exit codes."""
    monkeypatch.setattr(sys, "argv", ["wsipipe", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        run()
    return left.value.code


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command):
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert "--" in result.output


def test_help_and_light_commands_load_no_heavy_library():
    script = (
        "import sys; from wsipipe_cli.main import app; from wsipipe.pipeline import tile, info; import wsipipe; "
        "sys.exit(str([m for m in ('torch', 'sklearn', 'matplotlib', 'numba', 'distributed') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "[]"


def test_help_alone_loads_only_the_terminal():
    script = (
        "import sys; from wsipipe_cli.main import app; "
        "sys.exit(str([m for m in ('numpy', 'pydantic', 'openslide', 'dask') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "[]"


def test_torchvision_is_not_loaded_for_encoders_of_our_own():
    script = (
        "import sys; from wsipipe.pipeline import extract, predict, train; "
        "from wsipipe.config import EncoderSettings; from wsipipe.models.encoders import build_encoder; "
        "build_encoder(EncoderSettings(name='filterbank', kind='dense', stride_px=8)); "
        "build_encoder(EncoderSettings(name='resnet18', weights='none')); "
        "sys.exit(str('torchvision' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "False"


def test_version_comes_from_one_place():
    from wsipipe import __version__

    assert invoke("--version").output.strip() == f"wsipipe {__version__}"


def test_info_prints_json(slide_path):
    facts = json.loads(invoke("info", slide_path, "--json").output)
    assert facts["mpp"] == 0.5
    assert (facts["width"], facts["height"]) == (1024, 768)


def test_info_prints_for_people(slide_path):
    output = invoke("info", slide_path).output
    assert "512 x 384 px, downsample 2, 1 um/px" in output


def test_a_bad_slide_costs_only_itself(tmp_path, slide_path, monkeypatch, capsys):
    bad = tmp_path / "bad.svs"
    bad.write_bytes(slide_path.read_bytes()[:3000])
    code = command_line(monkeypatch, "tile", bad, slide_path, "-o", tmp_path / "out")
    output = capsys.readouterr().out
    assert code == 1
    assert "1 done, 0 skipped as already done, 1 failed" in output
    assert (tmp_path / "out" / "tiles" / "tissue.h5").is_file()
    assert not list((tmp_path / "out").rglob("bad*"))


def test_finished_work_is_skipped(tmp_path, slide_path):
    invoke("tile", slide_path, "-o", tmp_path)
    assert "0 done, 1 skipped as already done" in invoke("tile", slide_path, "-o", tmp_path).output
    assert "1 done, 0 skipped" in invoke("tile", slide_path, "-o", tmp_path, "--mpp", 1).output
    assert "1 done, 0 skipped" in invoke("tile", slide_path, "-o", tmp_path, "--mpp", 1, "--force").output


def test_fail_fast_leaves_out_the_rest(tmp_path, slide_path):
    bad = tmp_path / "a.svs"
    bad.write_bytes(b"II*\x00")
    result = invoke("tile", bad, slide_path, "-o", tmp_path / "out", "--fail-fast")
    assert result.exit_code == 1
    assert "1 failed, 1 not started" in result.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("tile", "missing.svs"), "missing.svs"),
        (("tile", "{slide}", "--recipe", "nope"), "no such recipe"),
        (("tile", "{slide}", "--mpp", "900"), "tile.mpp"),
        (("tile", "{slide}", "--patch-size", "4"), "tile.patch_size_px"),
        (("extract", "{slide}", "--encoder", "alexnet", "-o", "{out}"), "alexnet"),
        (("predict", "{slide}", "--model", "{slide}", "-o", "{out}"), "checkpoint"),
        (("train", "nothing.csv"), "nothing.csv"),
        (("segment", "{slide}", "--points", "nothing.geojson", "-o", "{out}"), "nothing.geojson"),
    ],
)
def test_bad_input_costs_one_line_and_no_traceback(tmp_path, slide_path, monkeypatch, capfd, arguments, told):
    monkeypatch.chdir(tmp_path)
    code = command_line(monkeypatch, *(str(a).format(slide=slide_path, out=tmp_path / "out") for a in arguments))
    captured = capfd.readouterr()
    output = captured.out + captured.err
    assert code not in (0, None)
    assert told in output.replace("\n", "")
    assert "Traceback" not in output


def test_both_resolutions_are_refused(slide_path):
    result = invoke("tile", slide_path, "--mpp", 1, "--mag", 10)
    assert result.exit_code == 2
    assert "not both" in result.output


def test_magnification_is_a_resolution(tmp_path, slide_path):
    invoke("tile", slide_path, "--mag", 10, "-o", tmp_path)
    assert "skipped" in invoke("tile", slide_path, "--mpp", 1, "-o", tmp_path).output


def test_a_batch_table_with_resolutions(tmp_path, picture):
    write_slide(tmp_path / "nompp.svs", picture, mpp=None)
    (tmp_path / "batch.csv").write_text("wsi,mpp\nnompp.svs,0.5\n")
    result = invoke("tile", tmp_path / "batch.csv", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    refused = invoke("tile", tmp_path / "nompp.svs", "-o", tmp_path / "out2")
    assert refused.exit_code == 1
    assert "--slide-mpp" in refused.output


def test_an_output_that_cannot_be_written_is_told(tmp_path, slide_path):
    (tmp_path / "file").write_text("in the way")
    result = invoke("tile", slide_path, "-o", tmp_path / "file")
    assert result.exit_code == 1
    assert "1 failed" in result.output
    assert (tmp_path / "file").read_text() == "in the way"


def test_the_doctor_finds_this_installation_sound(tmp_path):
    result = invoke("doctor", "-o", tmp_path)
    assert result.exit_code == 0, result.output
    assert "OpenSlide" in result.output or "openslide" in result.output


def paths(app_, *before):
    """Every command and group, as words."""
    for name, found in getattr(app_, "commands", {}).items():
        yield (*before, name)
        yield from paths(found, *before, name)


ALL_COMMANDS = tuple(paths(get_command(app)))


def test_no_help_loads_torch():
    script = (
        "import sys; from typer.testing import CliRunner; from wsipipe_cli.main import app; "
        f"codes = [CliRunner().invoke(app, [*words, '--help']).exit_code for words in {ALL_COMMANDS!r}]; "
        "sys.exit(str([any(codes), 'torch' in sys.modules, 'numpy' in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "[False, False, False]"


@pytest.mark.parametrize("words", ALL_COMMANDS, ids=" ".join)
def test_help_shows_what_stands_in_brackets(words):
    """Markup would leave out the defaults that help texts end with."""
    found = get_command(app)
    for word in words:
        found = found.commands[word]
    shown = "".join(invoke(*words, "--help").output.split())
    for parameter in found.params:
        assert "".join((parameter.help or "").split()) in shown


@pytest.mark.parametrize("command", ["tile", "info", "convert"])
def test_commands_without_a_network_load_no_torch(command, tmp_path, slide_path):
    _, coords, features = patches(7, 10, step=128)
    features_of = write_trident(tmp_path / "lists" / "a.h5", features, coords, size=(1400, 1000))
    arguments = {
        "tile": ["tile", slide_path, "-o", tmp_path / "out"],
        "info": ["info", slide_path],
        "convert": ["convert", features_of, "-o", tmp_path / "out", "--mpp", 1],
    }[command]
    script = (
        "import sys; from wsipipe_cli.main import run\n"
        "try: run()\n"
        "except SystemExit as end: assert not end.code\n"
        "sys.exit(str('torch' in sys.modules))"
    )
    words = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "False"


def test_an_interruption_is_told_in_one_line():
    script = (
        "from wsipipe_cli import main\n@main.app.command('wait')\ndef wait():\n    raise KeyboardInterrupt\nmain.run()"
    )
    done = subprocess.run([sys.executable, "-c", script, "wait"], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr == "interrupted; run the same command again to go on\n"
