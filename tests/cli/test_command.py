"""The command ``cnnjax``: its help, what it refuses, and the subcommands about networks without weights."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from cnnjax import __version__, analysis, models
from cnnjax.cli import census
from cnnjax.cli.bar import bar
from cnnjax.cli.command import SUBCOMMANDS, main
from cnnjax.cli.commands.models import table_of
from cnnjax.tables import show
from tests.fixtures.command import refused, rows_of, run

__all__ = ["refused", "run"]

ROOT = Path(__file__).parents[2]


# The command itself


def test_help_lists_the_subcommands_and_their_flags(run):
    text = run("--help")
    assert text == run() == run("-h")
    assert all(f"  {name} " in text and f"cnnjax {name} " in text for name in SUBCOMMANDS)
    for name in SUBCOMMANDS:
        shown = run(name, "--help")
        assert f"  cnnjax {name} " in shown
        assert "examples:\n" in shown
        assert all(len(line) <= 120 for line in shown.splitlines())
    assert "--batch_size               images computed at once [64]\n" in run("evaluate", "--help")
    assert run("--version") == f"{__version__}\n"


def test_help_of_a_network_lists_its_fields(run):
    assert "--model.padding            field of lenet5 [VALID]\n" in run("summary", "lenet5", "--help")
    assert "--model.hidden             field of mlp [100]\n" in run("predict", "--model=mlp", "--help")


@pytest.mark.parametrize("argv", [["--help"], ["summary", "--help"], ["evaluate", "--help"]], ids=" ".join)
def test_help_imports_nothing_slow(argv):
    script = f"import sys\nfrom cnnjax.cli.command import main\nmain({argv!r})\nassert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True)


def test_the_module_is_the_command_and_its_exit_code_is_the_process_s():
    done = subprocess.run([sys.executable, "-m", "cnnjax", "modls"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("cnnjax: Unknown subcommand 'modls'. Did you mean 'models'? Choices: compare, co")


def test_who_has_read_enough_sees_no_traceback():
    command = [sys.executable, "-m", "cnnjax", "models", "--help"]
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_an_interruption_ends_with_130(monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(census, "census", interrupt)
    assert main(["models"]) == 130
    assert capsys.readouterr() == ("", "cnnjax models: stopped.\n")


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["models", "resnet21"], ["model 'resnet21'", "Did you mean 'resnet"]),
        (["models", "z*"], ["model 'z*'", "lenet5"]),
        (["models", "lenet5", "mlp"], ["'mlp'", "--name=value"]),
        (["models", "--jsn"], ["flag '--jsn'", "Did you mean '--json'"]),
        (["summary"], ["Name a network"]),
        (["summary", "lenet6"], ["model 'lenet6'", "Did you mean 'lenet5'"]),
        (["summary", "lenet6", "--help"], ["Did you mean 'lenet5'"]),
        (["summary", "lenet5", "--paddin=SAME"], ["Did you mean '--model.padding'"]),
        (["summary", "lenet5", "--padding=same"], ["'same'", "SAME or VALID"]),
        (["summary", "lenet5", "--num_classes=ten"], ["num_classes=ten"]),
        (["summary", "lenet5", "--image_size=4"], ["at least 16x16", "--image_size=16"]),
        (["summary", "lenet5", "--image_size=0"], ["--image_size=0", "positive"]),
        (["summary", "lenet5", "--depth=-1"], ["--depth=-1", "non-negative"]),
        (["summary", "lenet5", "--batch_size=0"], ["--batch_size=0", "positive"]),
        (["summary", "lenet5", "--input=28,28"], ["--input=28,28", "height, width and channels"]),
        (["summary", "lenet5", "--input=28,28,x"], ["--input=28,28,x", "whole numbers"]),
        (["summary", "lenet5", "--input=8,8,1"], ["at least 16x16", "--image_size=16"]),
        (["summary", "lenet5", "--input=28,28,1", "--image_size=28"], ["Leave out one"]),
        (["summary", "lenet5", "--figure=/no/such/x.png"], ["--figure=/no/such/x.png", "/no/such"]),
        (["summary", "no.such:Net"], ["no.such:Net", "ModuleNotFoundError", "MODULE:NAME"]),
        (["summary", "math:pi", "--input=8,8,1"], ["math:pi", "float"]),
        (["predict", "x.png"], ["--weights=FILE"]),
        (["predict", "--weights=x.safetensors"], ["at least one image"]),
        (["predict", "--model=lenet6"], ["Did you mean 'lenet5'"]),
        (["predict", "--top=0"], ["--top=0", "positive"]),
        (["evaluate", "--data=digits"], ["--weights=FILE"]),
        (["evaluate", "--weights=x.safetensors"], ["--data=folder:DIR"]),
        (["evaluate", "--split=tst"], ["--split=tst", "train|valid|test|all"]),
        (["evaluate", "digits"], ["'digits'", "--name=value"]),
        (["convert"], ["Name the file"]),
        (["convert", "x.pth"], ["--to=OUT.safetensors"]),
        (["convert", "x.pth", "--to=x.pth"], ["--to=OUT.safetensors", "'x.pth'"]),
        (["convert", "x.pth", "--format=caffe"], ["--format=caffe", "cnnjax|torchvision|timm|keras"]),
        (["convert", "x.pth", "--to=/no/such/x.safetensors"], ["/no/such"]),
    ],
    ids=lambda value: " ".join(value) if value[0] in SUBCOMMANDS else "",
)  # fmt: skip
def test_bad_arguments_are_refused(refused, argv, parts):
    message = refused(*argv)
    for part in parts:
        assert part in message


# models


@pytest.fixture
def counts(tmp_path, monkeypatch):
    """The cache of the counts is empty; the list of what is counted."""
    monkeypatch.setenv("CNNJAX_CACHE", str(tmp_path / "cache"))
    counted, count = [], census.count
    monkeypatch.setattr(census, "count", lambda name: counted.append(name) or count(name))
    return counted


def test_models_prints_what_there_is(run, counts):
    rows = rows_of(run("models", "lenet5"))
    assert rows["lenet5"] == ["1998", "32x32x1", "61,706", "416,520", "16 / 4"]
    assert "no map" in run("models", "m?p")


def test_models_as_json_has_the_numbers_of_the_analyses(run, counts):
    rows = json.loads(run("models", "lenet5*", "--json"))
    assert [row["name"] for row in rows] == [name for name in models.MODELS if name.startswith("lenet5")]
    row = rows[0]
    model, shape = models.create("lenet5"), models.MODELS["lenet5"].image_shape
    field = analysis.receptive_fields(model, shape)["pool2"]
    assert row == {
        "name": "lenet5", "year": 1998, "image_shape": [32, 32, 1], "parameters": models.count_parameters("lenet5"),
        "multiply_adds": analysis.multiply_adds(model, shape),
        "receptive_field": {
            "endpoint": "pool2", "size": list(field.size), "stride": list(field.stride), "start": list(field.start),
            "whole_image": False,
        },
    }  # fmt: skip


def test_counts_are_kept_until_the_source_changes(run, counts, monkeypatch):
    first = run("models", "lenet5*", "--json")
    assert counts == [name for name in models.MODELS if name.startswith("lenet5")]
    assert run("models", "lenet5*", "--json") == first
    run("models", "mlp")
    assert counts[-1] == "mlp"
    assert len(counts) == len(set(counts))
    monkeypatch.setattr(census, "source_digest", lambda: "another")
    assert run("models", "lenet5*", "--json") == first
    assert counts.count("lenet5") == 2


def test_damaged_counts_are_made_anew(run, counts):
    first = run("models", "mlp", "--json")
    census.place().write_text('{"source": ')
    assert run("models", "mlp", "--json") == first
    assert counts == ["mlp", "mlp"]
    assert [path.name for path in census.place().parent.iterdir()] == ["census.json"]


def test_a_cache_that_cannot_be_written_is_done_without(run, counts, monkeypatch, tmp_path):
    (tmp_path / "cache").write_text("a file")
    assert json.loads(run("models", "mlp", "--json"))[0]["name"] == "mlp"


def test_counts_made_before_an_interruption_stay(counts, monkeypatch):
    count = census.count

    def interrupted(name):
        if name == "mlp":
            raise KeyboardInterrupt
        return count(name)

    monkeypatch.setattr(census, "count", interrupted)
    with pytest.raises(KeyboardInterrupt):
        census.census(["lenet5", "mlp"], lambda done, text: None)
    assert set(json.loads(census.place().read_text())["rows"]) == {"lenet5"}


# summary


def test_summary_shows_layers_fields_and_totals(run):
    text = run("summary", "lenet5")
    assert text.startswith("lenet5 on 32x32x1\n")
    rows = rows_of(text)
    assert rows["conv1"][:4] == ["Conv", "28x28x6", "156", "117,600"]
    assert rows["all"] == ["61,706", "416,520", "845,862"]
    assert rows["pool2"] == ["16", "4", "0"]  # an endpoint that is no layer
    assert "\n  padding = VALID\n" in text
    assert "\n  dtype = float32" in text


def test_summary_of_another_size_and_other_fields(run):
    text = run("summary", "--norm=group", "--image_size", "20", "--model.num_classes=3", "lenet5")
    assert text.startswith("lenet5 on 20x20x1\n")
    assert rows_of(text)["head"][2] == "255"
    assert "\n  norm = group\n" in text


@pytest.mark.slow
def test_depth_is_that_of_the_table_where_a_field_has_its_name(run):
    text = run("summary", "resnet20_cifar", "--depth=1", "--model.depth=8", "--image_size=8")
    assert "\n  depth = 8\n" in text
    assert "stage2_first" in rows_of(text)
    assert "stage2_first/conv1" in rows_of(run("summary", "resnet8_cifar", "--image_size=8"))


def test_summary_says_what_it_costs_and_what_is_wrong(run):
    text = run("summary", "resnet8_cifar", "--batch_size=1", "--nounits")
    assert "activations of one image: 197 kB at once for inference" in text
    assert "\nactivations of a batch of 1: " in text
    assert "a unit of the last map reads 25x25 of 32x32 pixels" in text
    assert "stem_norm and 6 more: batch normalisation in training with batches of 1" in text
    assert "dead units: not counted\n" in text


def test_summary_as_json_and_as_a_figure(run, tmp_path):
    found = json.loads(run("summary", "lenet5", "--json", f"--figure={tmp_path}/lenet5.png", "--nounits"))
    assert (found["name"], found["parameters"], found["warnings"]) == ("lenet5", 61_706, [])
    assert found["layers"][1]["field"] == {"size": [14, 14], "stride": [2, 2], "start": [0, 0], "whole_image": False}
    with Image.open(tmp_path / "lenet5.png") as image:
        assert image.size[0] == 900


MINE = """
import flax.linen as nn

class Small(nn.Module):
    width: int
    bent: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.width, (3, 3), name="conv")(x)
        return nn.sigmoid(nn.relu(x)) if self.bent else x

small = Small(7)

class Bracketed(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="[bold]")(x)

class Broken(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="dense")(x) @ x
"""


def test_modules_of_the_user(run, refused, tmp_path, monkeypatch):
    (tmp_path / "mine_for_a_test.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    text = run("summary", "mine_for_a_test:Small", "--input=6,6,2", "--width=5", "--bent", "--nounits")
    assert rows_of(text)["conv"][:3] == ["Conv", "6x6x5", "95"]
    assert "a sigmoid is taken of values that are never negative (after conv)" in text
    assert rows_of(run("summary", "mine_for_a_test:small", "--image_size=6", "--nounits"))["conv"][1] == "6x6x7"
    assert "--model.width              field of mine_for_a_test:Small\n" in run(
        "summary", "mine_for_a_test:Small", "--help"
    )
    assert rows_of(run("summary", "mine_for_a_test:Bracketed", "--input=4", "--nounits"))["[bold]"][0] == "Dense"
    assert "--input is needed" in refused("summary", "mine_for_a_test:small")
    assert "cannot be made with its defaults" in refused("summary", "mine_for_a_test:Small", "--input=6,6,2")
    assert "Broken on 6x6x2: (network) (Broken) raised TypeError: " in refused(
        "summary", "mine_for_a_test:Broken", "--input=6,6,2"
    )


# Tables and progress


def test_a_table_too_wide_for_the_terminal_loses_its_lines_before_its_letters():
    rows = [{
        "name": "x" * 18, "year": 2019, "image_shape": [600, 600, 3], "parameters": 138_357_544,
        "multiply_adds": 37_745_884_192,
        "receptive_field": {"size": [5597] * 2, "stride": [32] * 2, "whole_image": False},
    }]  # fmt: skip
    for width, lined in ((120, True), (80, False)):
        out = io.StringIO()
        show(table_of(rows), console=Console(file=out, force_terminal=True, width=width))
        assert ("│" in out.getvalue()) == lined
        assert all(text in out.getvalue() for text in ("x" * 18, "138,357,544", "37,745,884,192", "5597 / 32", "year"))
        assert "…" not in out.getvalue()


def test_elsewhere_tables_are_plain_columns(run):
    text = run("summary", "lenet5")
    assert text.isascii()
    assert "\nconv1   Conv    28x28x6 " in text


def test_progress_is_shown_on_a_terminal_only():
    out = io.StringIO()
    with bar(4, "images", Console(file=out)) as listen:
        listen(2, "decoding")
    assert out.getvalue() == ""
    with bar(4, "images", Console(file=out, force_terminal=True, width=100)) as listen:
        listen(2, "decoding")
        listen(4, "decoding")
    shown = out.getvalue()
    assert all(part in shown for part in ("decoding", "4/4", "images", "left"))
