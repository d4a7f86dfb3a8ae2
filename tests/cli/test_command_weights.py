"""The subcommands that read weights, on tiny networks of random weights, against the same by hand."""

import json
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from cnnjax import models, tree, weights
from cnnjax.cli.command import main
from cnnjax.cli.commands.evaluate import matched
from cnnjax.cli.inference import batches
from cnnjax.data import DataConfig, load
from cnnjax.typing import UsageError
from cnnjax.weights import Preprocessing
from tests.fixtures.command import refused, rows_of, run
from tests.fixtures.networks import filled
from tests.fixtures.toy import state_dict, toy

__all__ = ["refused", "run", "toy"]

GREY = Preprocessing(20, 16, (0.25,), (0.5,))
COLOUR = Preprocessing(10, 8, (0.5, 0.4, 0.3), (0.25, 0.2, 0.3), "bicubic")
SMALL = {"hidden": (5,), "num_classes": 3}  # of an mlp
ANIMALS = ("ant", "bee", "cat")
STEPS = ("--resize=9", "--crop=8", "--mean=0.5,0.5,0.5", "--std=1,1,1")


@pytest.fixture
def lenet(tmp_path):
    """A file of lenet5 for grey images, without class names."""
    variables = filled(models.create("lenet5"), GREY.image_shape)
    path = tmp_path / "lenet.safetensors"
    weights.save(path, variables, "lenet5", preprocessing=GREY, image_shape=GREY.image_shape)
    return path


@pytest.fixture
def animals(tmp_path):
    """A file of a small mlp that knows the names of its three classes."""
    variables = filled(models.create("mlp", **SMALL), COLOUR.image_shape)
    path = tmp_path / "animals.safetensors"
    weights.save(path, variables, "mlp", preprocessing=COLOUR, class_names=("cat", "ant", "bee"),
                 image_shape=COLOUR.image_shape, **SMALL)  # fmt: skip
    return path


def pictures(directory, classes, count, seed=0):
    """A folder of random pictures of different sizes for each class."""
    rng = np.random.default_rng(seed)
    for name in classes:
        (directory / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (9 + number, 12, 3), np.uint8)
            Image.fromarray(pixels).save(directory / name / f"{number}.png")
    return directory


def logits_by_hand(path, files):
    """One picture at a time."""
    saved = weights.restore(path)
    outputs = []
    for file in files:
        with Image.open(file) as image:
            pixels = saved.preprocessing.apply(image)
        outputs.append(np.asarray(saved.model.apply(saved.variables, jnp.asarray(pixels[None]))[0][0], np.float64))
    return np.stack(outputs)


def softmax(logits):
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


# predict


@pytest.mark.slow
def test_predictions_are_the_network_s_by_hand(run, lenet, tmp_path):
    root = pictures(tmp_path / "pictures", ["x"], 3)
    files = sorted((root / "x").iterdir())
    rows = json.loads(run("predict", f"--weights={lenet}", "--json", "--top=3", *files))
    expected = softmax(logits_by_hand(lenet, files))
    assert [row["image"] for row in rows] == list(map(str, files))
    for row, shares in zip(rows, expected, strict=True):
        order = np.argsort(-shares)[:3].tolist()
        assert [item["index"] for item in row["classes"]] == order
        assert [item["class"] for item in row["classes"]] == list(map(str, order))
        np.testing.assert_allclose([item["probability"] for item in row["classes"]], shares[order], rtol=1e-4)


def test_a_folder_stands_for_its_images_and_classes_have_their_names(run, animals, tmp_path):
    root = pictures(tmp_path / "pictures", ["x", "y"], 9)  # more than one batch
    rows = json.loads(run("predict", f"--weights={animals}", "--json", root))
    files = sorted(root.rglob("*.png"))
    assert [row["image"] for row in rows] == list(map(str, files))
    best = logits_by_hand(animals, files).argmax(-1)
    assert [row["classes"][0]["class"] for row in rows] == [("cat", "ant", "bee")[index] for index in best]
    assert all(len(row["classes"]) == 3 for row in rows)  # there are no more
    assert all(abs(sum(item["probability"] for item in row["classes"]) - 1) < 1e-5 for row in rows)


def test_names_and_preprocessing_can_be_given(run, animals, tmp_path):
    (tmp_path / "names.txt").write_text("Katze\nAmeise\n\nBiene\n")
    (file,) = pictures(tmp_path / "pictures", ["x"], 1).rglob("*.png")
    flags = [f"--weights={animals}", "--json", file]
    (named,) = json.loads(run("predict", f"--classes={tmp_path / 'names.txt'}", *flags))
    assert {item["class"] for item in named["classes"]} == {"Katze", "Ameise", "Biene"}
    (before,), (after,) = (json.loads(run("predict", *flags, *more)) for more in ([], ["--std=1,1,1", "--resize=8"]))
    assert before != after


def test_names_of_any_kind_are_shown_and_kept(run, animals, tmp_path):
    names = [b"a [b] b.png", b"\xff.png", b"new\nline \x1b[31m.png", b"l" * 251 + b".png"]
    pixels = next(pictures(tmp_path / "pictures", ["x"], 1).rglob("*.png")).read_bytes()
    files = [os.path.join(os.fsencode(tmp_path), name) for name in names]
    for file in files:
        Path(os.fsdecode(file)).write_bytes(pixels)
    named = tmp_path / "names.txt"
    named.write_bytes("\ufeffcrane\r\ncrane\r\n[red]caf\xe9\r\n".encode())
    argv = [f"--weights={animals}", f"--classes={named}", *map(os.fsdecode, files)]
    rows = json.loads(run("predict", "--json", *argv))
    assert [os.fsencode(row["image"]) for row in rows] == files
    assert {item["class"] for item in rows[0]["classes"]} == {"crane", "[red]caf\xe9"}
    text = run("predict", *argv)
    assert all(shown in text for shown in ("/a [b] b.png", r"/\xff.png", r"/new\nline \x1b[31m.png", "l" * 251))
    assert all(shown in text for shown in ("crane (class 0)", "crane (class 1)", "[red]caf\xe9"))
    assert "\x1b" not in text


def test_the_table_of_predictions(run, lenet, tmp_path):
    (file,) = pictures(tmp_path / "pictures", ["x"], 1).rglob("*.png")
    rows = rows_of(run("predict", f"--weights={lenet}", "--top=1", file))
    share = softmax(logits_by_hand(lenet, [file]))[0]
    (cells,) = (cells for name, cells in rows.items() if name.endswith("0.png"))
    assert cells == [str(share.argmax()), f"{100 * share.max():.2f} %"]


@pytest.mark.slow
def test_weights_of_torchvision_and_timm(run, refused, toy, tmp_path):
    save_file(state_dict(), tmp_path / "toy.safetensors")
    (file,) = pictures(tmp_path / "pictures", ["x"], 1).rglob("*.png")
    argv = ["predict", f"--weights={tmp_path / 'toy.safetensors'}", "--json", file]
    assert "Name it with --model; it fits toy." in refused(*argv, *STEPS)
    message = refused(*argv, "--model=toy", *STEPS[:3])
    assert "torchvision has no toy" in message
    assert "--std" in message
    (row,) = json.loads(run(*argv, "--model=toy", *STEPS))
    with Image.open(file) as image:
        pixels = Preprocessing(9, 8, (0.5,) * 3, (1.0,) * 3).apply(image)
    logits = toy.apply(weights.convert(state_dict(), toy), jnp.asarray(pixels[None]))[0][0]
    shares = {item["index"]: item["probability"] for item in row["classes"]}
    np.testing.assert_allclose([shares[index] for index in range(5)], softmax(np.asarray(logits)), rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_what_does_not_fit_is_refused(refused, lenet, animals, tmp_path):
    good = next(pictures(tmp_path / "pictures", ["x"], 1).rglob("*.png"))
    (tmp_path / "bad.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:200])
    (tmp_path / "empty").mkdir()
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    own = ["predict", f"--weights={lenet}"]
    cases = [
        ([*own, good, tmp_path / "bad.png"], [f"{tmp_path / 'bad.png'} cannot be read"]),
        ([*own, good, tmp_path / "cut.png"], [str(tmp_path / "cut.png")]),
        ([*own, tmp_path / "no\nth\x1bing.png"], [r"no\nth\x1bing.png cannot be read"]),
        ([*own, tmp_path / "none.png"], [str(tmp_path / "none.png"), "cannot be read"]),
        ([*own, tmp_path / "empty"], ["empty has no images"]),
        ([*own, "--model=mlp", good], ["lenet5", "--model=mlp", "Leave --model out"]),
        ([*own, "--model=lenet5", "--model.num_classes=4", good], ["--model.num_classes"]),
        ([*own, "--mean=0.5,0.5,0.5", "--std=1,1,1", good], ["lenet5 do not fit images of 16x16x3", "--mean"]),
        ([*own, "--crop=8", good], ["at least 16x16", "--crop=16"]),
        ([*own, "--crop=32", good], ["crop", "resize=20"]),
        ([*own, "--mean=x", good], ["--mean=x", "numbers"]),
        ([*own, "--interpolation=linear", good], ["interpolation 'linear'", "bilinear"]),
        ([*own, f"--classes={tmp_path / 'names.txt'}", good], ["2 class names for 10 classes of lenet5"]),
        ([*own, f"--classes={tmp_path / 'no.txt'}", good], ["no.txt", "a name in each line"]),
        (["predict", f"--weights={animals}", "--crop=9", good], ["mlp do not fit images of 9x9x3"]),
        (["predict", f"--weights={tmp_path / 'no.pth'}", "--model=mlp", good], ["no.pth"]),
    ]
    for argv, parts in cases:
        message = refused(*argv)
        for part in parts:
            assert part in message


# evaluate


def expected(logits, labels):
    shares = softmax(logits)[np.arange(len(labels)), labels]
    ranks = (np.argsort(-logits, kind="stable") == labels[:, None]).argmax(-1)
    return {
        "count": len(labels), "top1_error": np.mean(ranks >= 1), "top5_error": np.mean(ranks >= 5),
        "cross_entropy": -np.log(shares).mean(),
    }  # fmt: skip


@pytest.mark.slow
def test_a_folder_is_evaluated_by_the_names_of_its_classes(run, animals, tmp_path):
    root = pictures(tmp_path / "data", ANIMALS, 4)
    argv = ["evaluate", f"--weights={animals}", f"--data=folder:{root}", "--split=all", "--json"]
    found = json.loads(run(*argv, "--batch_size=5"))  # the third batch is not full
    files = [file for name in ANIMALS for file in sorted((root / name).iterdir())]
    labels = np.array([("cat", "ant", "bee").index(file.parent.name) for file in files])
    for name, value in expected(logits_by_hand(animals, files), labels).items():
        assert found[name] == pytest.approx(value, rel=1e-4)
    assert (found["model"], found["split"]) == ("mlp", "all")
    assert found["images_per_second"] > 0
    whole = json.loads(run(*argv, "--batch_size=64"))
    assert whole["cross_entropy"] == pytest.approx(found["cross_entropy"], rel=1e-6)


@pytest.mark.slow
def test_an_embedded_dataset_goes_through_the_preprocessing(run, lenet):
    found = json.loads(run("evaluate", f"--weights={lenet}", "--data=digits", "--json"))
    dataset, saved = load(DataConfig("digits")), weights.restore(lenet)
    chosen = slice(*dataset.ranges["test"])
    pixels = np.stack([GREY.apply(np.asarray(image)) for image in dataset.images[chosen]])
    logits = np.asarray(saved.model.apply(saved.variables, jnp.asarray(pixels))[0], np.float64)
    for name, value in expected(logits, dataset.labels[chosen]).items():
        assert found[name] == pytest.approx(value, rel=1e-4)
    assert 0 < found["top5_error"] < found["top1_error"]


def test_the_table_of_an_evaluation(run, animals, tmp_path):
    root = pictures(tmp_path / "data", ANIMALS, 4)
    text = run("evaluate", f"--weights={animals}", f"--data=folder:{root}", "--split=all")
    assert "top-1 error" in text
    assert rows_of(text)["12"][1] == "0.00 %"  # among three classes no label is below the fifth


def test_data_that_do_not_fit_are_refused(refused, lenet, animals, tmp_path):
    root = pictures(tmp_path / "data", ["ant", "bee", "dog"], 4)
    evaluate = ["evaluate", f"--weights={animals}"]
    assert "digits has 10 classes, the weights 3" in refused(*evaluate, "--data=digits")
    assert "no class 'dog' of folder:" in refused(*evaluate, f"--data=folder:{root}")
    assert "has 3 classes, the weights 10" in refused("evaluate", f"--weights={lenet}", f"--data=folder:{root}")
    assert "dataset 'digit'" in refused(*evaluate, "--data=digit")
    assert "--data=folder" in refused(*evaluate, "--data=folder:")
    assert "/no/such" in refused(*evaluate, "--data=folder:/no/such")
    (root / "dog").rename(root / "cat")
    (root / "cat" / "3.png").write_text("no picture")
    message = refused(*evaluate, f"--data=folder:{root}", "--split=all")
    assert f"{root / 'cat' / '3.png'} cannot be read" in message
    assert "--data.on_bad_image=skip." in message


def test_the_remedy_for_a_bad_image_works(run, animals, tmp_path):
    root = pictures(tmp_path / "data", ANIMALS, 4)
    (root / "cat" / "3.png").write_text("no picture")
    text = run("evaluate", f"--weights={animals}", f"--data=folder:{root}", "--split=all", "--data.on_bad_image=skip")
    assert "11" in rows_of(text)


def test_classes_match_by_name_or_by_order(capsys):
    assert matched(("a", "b"), ("b", "a"), 2, "d").tolist() == [1, 0]
    assert matched(("b", "a"), (), 2, "d").tolist() == [0, 1]
    assert matched(("c", "a"), ("a", "b", "c"), 3, "d").tolist() == [2, 0]
    assert capsys.readouterr().err == ""
    assert matched(("n01", "n02"), ("b", "a"), 2, "d").tolist() == [0, 1]
    assert "d shares no class name with the weights; matched by order" in capsys.readouterr().err
    with pytest.raises(UsageError, match="d has 2 classes, the weights 3"):
        matched(("a", "x"), ("a", "b", "c"), 3, "d")
    with pytest.raises(UsageError, match="d has 3 classes, the weights 2"):
        matched(("a", "b", "c"), ("b", "a"), 2, "d")
    with pytest.raises(UsageError, match=r"--data\.classes=1,0\.$"):
        matched(("a", "b", "c"), ("b", "a"), 2, "d")


def test_class_names_that_stand_for_two_classes_are_never_guessed():
    """ImageNet has two cranes, a bird and a machine, and two maillots."""
    theirs = ("crane", "maillot", "cat", "crane", "maillot")
    assert matched(theirs, theirs, 5, "d").tolist() == [0, 1, 2, 3, 4]
    assert matched(("n1", "n2", "n3", "n4", "n5"), (), 5, "d").tolist() == [0, 1, 2, 3, 4]
    assert matched(("cat",), theirs, 5, "d").tolist() == [2]
    with pytest.raises(UsageError, match=r"several classes called 'crane': 0 and 3\. Give names that differ"):
        matched(("cat", "crane"), theirs, 5, "d")


def test_batches_have_one_size_and_hold_every_image_once():
    found = list(batches(lambda n: np.full((1, 1, 1), n, np.float32), 7, 3))
    assert [(images.shape, valid) for images, valid in found] == [
        ((3, 1, 1, 1), 3),
        ((3, 1, 1, 1), 3),
        ((3, 1, 1, 1), 1),
    ]
    assert [n for images, valid in found for n in images[:valid, 0, 0, 0]] == list(range(7))
    assert [images.shape[0] for images, _ in batches(lambda n: np.zeros((1, 1, 1)), 4, 2)] == [2, 2]


# convert


def read(path):
    return {name: np.array(value) for name, value in load_file(path).items()}


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_conversion_there_and_back_gives_the_same_arrays(run, toy, tmp_path, library):
    theirs, ours, back = (tmp_path / f"{name}.safetensors" for name in ("theirs", "ours", "back"))
    variables = weights.convert(state_dict(), toy)
    save_file(weights.export(variables, toy, library), theirs)
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\ne\n")
    assert (
        run("convert", theirs, "--model=toy", f"--to={ours}", f"--classes={tmp_path / 'names.txt'}", *STEPS)
        == f"Wrote {ours}\n"
    )
    saved = weights.restore(ours)
    assert tree.digest(saved.variables) == tree.digest(variables)
    assert saved.preprocessing == Preprocessing(9, 8, (0.5,) * 3, (1.0,) * 3)
    assert (saved.name, saved.class_names) == ("toy", tuple("abcde"))
    run("convert", ours, f"--to={back}", f"--format={library}")
    assert {name: value.tolist() for name, value in read(back).items()} == {
        name: value.tolist() for name, value in read(theirs).items()
    }


def test_fields_of_the_network_are_kept(run, toy, tmp_path):
    save_file(state_dict(classes=3), tmp_path / "theirs.safetensors")
    run("convert", tmp_path / "theirs.safetensors", "--model=toy", "--model.num_classes=3",
        f"--to={tmp_path / 'ours.safetensors'}", *STEPS)  # fmt: skip
    assert weights.restore(tmp_path / "ours.safetensors").model.num_classes == 3


def test_conversion_says_that_the_preprocessing_is_not_known(toy, tmp_path, capsys, unchecked):
    save_file(state_dict(), tmp_path / "theirs.safetensors")
    out = tmp_path / "ours.safetensors"
    assert main(["convert", str(tmp_path / "theirs.safetensors"), "--model=toy", f"--to={out}"]) == 0
    assert "does not say how images are prepared. torchvision has no toy" in capsys.readouterr().err
    assert weights.restore(out).preprocessing is None
    assert main(["convert", str(out), f"--to={tmp_path / 'again.safetensors'}"]) == 0
    assert weights.restore(tmp_path / "again.safetensors").image_shape == (8, 8, 3)


def test_names_are_added_to_our_own_file(run, lenet, tmp_path):
    (tmp_path / "names.txt").write_text("\n".join("abcdefghij"))
    run("convert", lenet, f"--to={lenet}", "--overwrite", f"--classes={tmp_path / 'names.txt'}")
    saved = weights.restore(lenet)
    assert (saved.class_names, saved.preprocessing, saved.image_shape) == (tuple("abcdefghij"), GREY, (16, 16, 1))


def test_files_that_are_there_stay(run, refused, toy, animals, tmp_path):
    assert "no layout" in refused("convert", animals, f"--to={tmp_path / 'x.safetensors'}", "--format=timm")
    theirs, ours = tmp_path / "theirs.safetensors", tmp_path / "ours.safetensors"
    save_file(state_dict(), theirs)
    save_file(state_dict(width=7), tmp_path / "wide.safetensors")
    argv = ["convert", theirs, "--model=toy"]
    for there in (ours, ours.with_suffix(".json")):
        there.write_text("years of work")
        assert f"{there} is there already" in refused(*argv, f"--to={ours}", *STEPS)
        there.unlink()
    ours.write_text("years of work")
    assert "is there already" in refused(*argv, f"--to={ours}", "--format=timm")
    assert "it fits toy_wide" in refused(
        "convert", tmp_path / "wide.safetensors", "--model=toy", f"--to={ours}", "--overwrite"
    )
    run(*argv, f"--to={ours}", "--overwrite", *STEPS)
    assert weights.restore(ours).name == "toy"
    assert not list(tmp_path.glob(".*"))


# what is not finite


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("json_flag", [(), ("--json",)])
@pytest.mark.slow
def test_outputs_that_are_not_finite_are_refused_by_name(refused, tmp_path, bad, json_flag):
    variables = filled(models.create("mlp", **SMALL), COLOUR.image_shape)
    variables["params"]["head"]["bias"] = jnp.asarray([0.0, bad, 0.0])
    path = tmp_path / "broken.safetensors"
    weights.save(path, variables, "mlp", preprocessing=COLOUR, image_shape=COLOUR.image_shape, class_names=ANIMALS,
                 **SMALL)  # fmt: skip
    root = pictures(tmp_path / "data" / "test", ANIMALS, 1).parent
    for arguments in (["predict", f"--weights={path}", str(root / "test" / "ant")],
                      ["evaluate", f"--weights={path}", f"--data=folder:{root / 'test'}", "--split=all"]):  # fmt: skip
        said = refused(*arguments, *json_flag)
        assert all(text in said for text in ("output is not finite for", "0.png", "weights"))
