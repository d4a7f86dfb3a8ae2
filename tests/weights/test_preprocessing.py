import json

import numpy as np
import pytest
from PIL import Image

from cnnjax import models, weights
from cnnjax.typing import UsageError
from cnnjax.weights import LAYOUTS, Preprocessing, preprocessing_of, presets
from tests.fixtures.torch_files import state, zipped
from tests.fixtures.toy import Toy, state_dict
from tests.fixtures.toy import torchvision as toy_layout


def raw(resize, crop, channels=3, **options):
    """Steps without standardisation: values are pixels / 255."""
    return Preprocessing(resize, crop, (0.0,) * channels, (1.0,) * channels, **options)


def noise(height, width, *channels):
    return np.random.default_rng(0).integers(0, 256, (height, width, *channels), dtype=np.uint8)


# By hand


def test_an_image_of_the_size_is_only_standardised():
    image = np.array([[[0, 51, 255]]], np.uint8)
    steps = Preprocessing(1, 1, (0.5, 0.2, 0.25), (0.5, 0.1, 0.25))
    np.testing.assert_allclose(steps.apply(image), [[[-1, 0, 3]]], atol=1e-6)
    assert steps.apply(image).dtype == np.float32
    assert steps.image_shape == (1, 1, 3)


def test_halving_weighs_four_pixels():
    """Filters widen when shrinking: a bilinear one of twice the width weighs pixels 1, 3, 3, 1 (in eighths)."""
    row = np.array([0, 0, 0, 80, 160, 0, 0, 0], np.uint8)
    found = raw(4, 4, 1).pixels(np.repeat(row[None], 8, 0))
    # The second pixel reads those from 1 to 4, the third those from 3 to 6.
    np.testing.assert_array_equal(found[..., 0], [[0, (3 * 80 + 160) / 8, (80 + 3 * 160) / 8, 0]] * 4)


@pytest.mark.parametrize(
    ("height", "width", "top", "left"),
    [(4, 4, 0, 0), (4, 7, 0, 2), (4, 5, 0, 0), (4, 6, 0, 1), (7, 4, 2, 0), (9, 4, 2, 0)],
)
def test_the_square_is_cut_from_the_centre(height, width, top, left):  # S3:682-695
    image = noise(height, width, 3)
    found = raw(4, 4).pixels(image)
    np.testing.assert_array_equal(found, image[top : top + 4, left : left + 4])


def test_a_rectangle_and_pixels_in_another_order():
    image = noise(6, 9, 3)
    np.testing.assert_array_equal(raw(6, (6, 9)).pixels(image), image)
    np.testing.assert_array_equal(raw(6, (4, 7)).pixels(image), image[1:5, 1:8])
    shuffled = raw(6, (6, 9), permute_pixels=True).pixels(image)
    assert (shuffled != image).any()
    np.testing.assert_array_equal(*(np.sort(each.reshape(54, 3), axis=0) for each in (shuffled, image)))


def test_half_pixels_are_rounded_to_even():
    assert [round(side / 2) for side in (1, 3, 5, 7)] == [0, 2, 2, 4]
    for width, left in ((5, 0), (7, 2), (9, 2), (11, 4)):
        image = noise(4, width, 1)
        np.testing.assert_array_equal(raw(4, 4, 1).pixels(image), image[:, left : left + 4])


def test_the_longer_side_is_rounded_down():
    image = noise(10, 17, 3)  # 17 / 10 * 7 = 11.9
    expected = np.asarray(Image.fromarray(image).resize((11, 7), Image.Resampling.BILINEAR))[:, 2:9]
    np.testing.assert_array_equal(raw(7, 7).pixels(image), expected)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_squashing_and_interpolation(interpolation):
    image = noise(10, 20, 3)
    kind = Image.Resampling[interpolation.upper()]
    expected = np.asarray(Image.fromarray(image).resize((8, 8), kind))[1:7, 1:7]
    found = raw(8, 6, interpolation=interpolation, squash=True).pixels(image)
    np.testing.assert_array_equal(found, expected)


def test_every_mode_of_image_becomes_eight_bits():
    grey = noise(4, 4)
    colour = noise(4, 4, 3)
    np.testing.assert_array_equal(raw(4, 4).pixels(Image.fromarray(grey)), np.repeat(grey[..., None], 3, -1))
    np.testing.assert_array_equal(raw(4, 4).pixels(grey), np.repeat(grey[..., None], 3, -1))
    np.testing.assert_array_equal(raw(4, 4, 1).pixels(grey[..., None]), grey[..., None])
    sixteen = Image.fromarray(grey.astype(np.uint16) * 257)
    np.testing.assert_array_equal(raw(4, 4, 1).pixels(sixteen)[..., 0], grey)
    cmyk = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    np.testing.assert_array_equal(raw(4, 4).pixels(cmyk)[0, 0], [255, 0, 0])
    clear = Image.fromarray(np.dstack([colour, np.zeros((4, 4), np.uint8)]))
    np.testing.assert_array_equal(raw(4, 4).pixels(clear), np.full((4, 4, 3), 255))
    white = raw(4, 4, 1).pixels(Image.new("RGB", (4, 4), "white"))
    np.testing.assert_array_equal(white, np.full((4, 4, 1), 255))


def test_a_rotated_photograph_is_turned_upright(tmp_path):
    image, exif = Image.fromarray(noise(4, 6, 3)), Image.Exif()
    exif[0x0112] = 6  # the camera was held a quarter turn to the left
    image.save(tmp_path / "a.png", exif=exif)
    expected = np.rot90(np.asarray(image), -1)[1:5]
    with Image.open(tmp_path / "a.png") as photograph:
        np.testing.assert_array_equal(raw(4, 4).pixels(photograph), expected)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
    ],
)
def test_arrays_that_are_no_image(image):
    with pytest.raises(UsageError, match=r"An image must be uint8 of shape \(H, W\), .* not (float32|uint8) \("):
        raw(4, 4).apply(image)


def test_damaged_and_endless_images(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(noise(50, 50, 3)).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    with Image.open(path) as image, pytest.raises(UsageError, match=r"a\.png cannot be decoded: "):
        raw(4, 4).apply(image)
    with pytest.raises(UsageError, match="60000 x 1 pixels are too long and narrow"):
        raw(224, 224).apply(noise(1, 60000, 3))
    with pytest.raises(UsageError, match="9 x 4 pixels become 9 x 4, of which no 10 x 4 can be cut out"):
        raw(4, (4, 10)).apply(noise(4, 9, 3))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"interpolation": "cubic"}, "Unknown interpolation 'cubic'. Did you mean 'bicubic'"),
        ({"crop": 300}, "crop must lie between 1 and resize=256, not be 300"),
        ({"crop": 0}, "crop must lie"),
        ({"mean": (0.5,)}, "must have a finite number for each of one or three channels"),
        ({"mean": (0.5, 0.5), "std": (0.5, 0.5)}, "one or three channels"),
        ({"std": (0.5, 0.0, 0.5)}, "those of std positive"),
        ({"std": (0.5, float("nan"), 0.5)}, "those of std positive"),
        ({"mean": (0.5, float("inf"), 0.5)}, "those of std positive"),
    ],
)
def test_steps_that_mean_nothing(fields, message):
    with pytest.raises(UsageError, match=message):
        Preprocessing(**fields)


# Presets


def test_the_published_sizes():
    assert preprocessing_of("inception_v3", "torchvision").image_shape == models.MODELS["inception_v3"].image_shape
    sizes = {}
    for number in range(8):
        steps = preprocessing_of(f"efficientnet_b{number}", "torchvision")
        sizes[number] = (steps.resize, steps.crop, steps.interpolation)
    expected = {0: 256, 1: 256, 2: 288, 3: 320, 4: 384, 5: 456, 6: 528, 7: 600}
    crops = {0: 224, 1: 240, 2: 288, 3: 300, 4: 380, 5: 456, 6: 528, 7: 600}
    assert sizes == {number: (expected[number], crops[number], "bicubic") for number in expected}


def test_second_editions_are_known_by_the_files_name():
    for path, size in (("mobilenet_v2-7ebf99e0.pth", 232), ("mobilenet_v2-b0353104.pth", 256), ("mine.pth", 256)):
        assert preprocessing_of("mobilenet_v2", "torchvision", path).resize == size
    assert preprocessing_of("efficientnet_b1", "torchvision", "efficientnet_b1-c27df63c.pth") == Preprocessing(255, 240)


def test_timms_config_beside_the_file(tmp_path, toy):
    path = zipped(tmp_path / "model.pth", state(weights.export(weights.convert(state_dict(), toy), toy, "timm")))
    with pytest.raises(
        UsageError, match=r"timm says in a config\.json .*model\.pth has none.* Give it as weights\.Prep"
    ):
        preprocessing_of("toy", path=path)
    config = {
        "input_size": [3, 224, 224],
        "crop_pct": 0.95,
        "interpolation": "bicubic",
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    for changes, expected in (
        ({}, Preprocessing(235, 224, (0.5,) * 3, (0.5,) * 3, "bicubic")),
        ({"crop_mode": "squash"}, Preprocessing(235, 224, (0.5,) * 3, (0.5,) * 3, "bicubic", squash=True)),
        ({"crop_pct": 1.0}, Preprocessing(224, 224, (0.5,) * 3, (0.5,) * 3, "bicubic")),
        ({"crop_pct": None, "interpolation": "bilinear"}, Preprocessing(256, 224, (0.5,) * 3, (0.5,) * 3)),
    ):
        (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": {**config, **changes}}))
        assert preprocessing_of("toy", path=path) == expected
    for changes in ({"input_size": [3, 224, 160]}, {"crop_mode": "border"}):
        (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": {**config, **changes}}))
        with pytest.raises(UsageError, match="only squares are known here"):
            preprocessing_of("toy", "timm", path)
    for content in ("{}", '{"pretrained_cfg": 3}', "[1]", "{not json"):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(UsageError, match=r"config\.json"):
            preprocessing_of("toy", "timm", path)


def test_where_the_keys_are_both_libraries_the_config_beside_says_whose_they_are(tmp_path, toy, monkeypatch):
    monkeypatch.setitem(LAYOUTS, Toy, {"torchvision": toy_layout, "timm": toy_layout})
    monkeypatch.setitem(presets.TORCHVISION, "toy", Preprocessing(9, 8))
    path = zipped(tmp_path / "model.pth", state(state_dict()))
    assert preprocessing_of("toy", path=path) == Preprocessing(9, 8)
    (tmp_path / "config.json").write_text("{cut")
    assert preprocessing_of("toy", path=path) == Preprocessing(9, 8)
    (tmp_path / "config.json").write_text('{"pretrained_cfg": {"input_size": [3, 160, 160], "crop_pct": 0.95}}')
    assert preprocessing_of("toy", path=path).image_shape == (160, 160, 3)
    assert preprocessing_of("toy", "torchvision", path) == Preprocessing(9, 8)


def test_our_own_files_say_it_themselves(tmp_path, toy):
    variables, path = weights.convert(state_dict(), toy), tmp_path / "a.safetensors"
    weights.save(path, variables, "toy", preprocessing=Preprocessing(9, 8, (0.5,), (0.5,)))
    assert preprocessing_of("toy", path=path) == Preprocessing(9, 8, (0.5,), (0.5,))
    weights.save(path, variables, "toy")
    with pytest.raises(UsageError, match=r"a\.safetensors was saved without its preprocessing"):
        preprocessing_of("toy", path=path)


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("resnet5O", "torchvision", "Unknown model 'resnet5O'"),
        ("lenet5", "torchvison", "Unknown source of weights 'torchvison'"),
        ("lenet5", "torchvision", "torchvision has no lenet5"),
        ("vgg16_1x1", "torchvision", "torchvision has no vgg16_1x1"),
        ("mobilenet_v2", None, "Give the source of the weights of mobilenet_v2"),
        ("mobilenet_v2", "timm", "timm says in a config.json"),
    ],
)
def test_unknown_weights(name, source, message):
    with pytest.raises(UsageError, match=message):
        preprocessing_of(name, source)


# Against torchvision and timm, where they are installed


@pytest.fixture(scope="module")
def torchvision():
    reference = pytest.importorskip("tests.parity.reference")
    try:
        return reference.library("torchvision")
    except reference.Missing as error:
        pytest.skip(str(error))


def test_every_preset_is_torchvisions(torchvision):
    names = {"alexnet_one_column": "alexnet", "googlenet_bn": "googlenet"}
    image = Image.fromarray(noise(61, 83, 3))
    for name in presets.TORCHVISION:
        for edition in torchvision.get_model_weights(names.get(name, name)):
            if edition.name == "IMAGENET1K_FEATURES":
                continue
            theirs, file = edition.transforms(), edition.url.rsplit("/", 1)[-1]
            ours = Preprocessing() if name not in models.MODELS else preprocessing_of(name, "torchvision", file)
            assert [ours.resize, ours.crop] == [theirs.resize_size[0], theirs.crop_size[0]], edition
            assert ours.interpolation == theirs.interpolation.value, edition
            if name not in ("googlenet_bn", "inception_v3"):
                assert [ours.mean, ours.std] == [tuple(theirs.mean), tuple(theirs.std)], edition
            if name in ("efficientnet_b1", "mobilenet_v2"):
                expected = theirs(image).numpy().transpose(1, 2, 0)
                np.testing.assert_array_equal(ours.apply(image), expected, err_msg=str(edition))


def test_the_rescaling_within_torchvisions_networks_is_in_the_preset(torchvision):
    image = Image.fromarray(noise(350, 345, 3))
    theirs = torchvision.get_model_weights("inception_v3").IMAGENET1K_V1.transforms()(image)[None]
    network = torchvision.Inception3.__new__(torchvision.Inception3)
    object.__setattr__(network, "transform_input", True)
    expected = torchvision.Inception3._transform_input(network, theirs)[0].numpy().transpose(1, 2, 0)
    np.testing.assert_allclose(preprocessing_of("inception_v3", "torchvision").apply(image), expected, atol=1e-6)


def test_timms_transforms(torchvision):
    data = pytest.importorskip("timm.data")
    for changes in ({}, {"crop_mode": "squash"}, {"crop_pct": 1.0}, {"interpolation": "bilinear"}):
        config = {"input_size": (3, 24, 24), "crop_pct": 0.9, "interpolation": "bicubic", **changes}
        config |= {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
        theirs = data.create_transform(**config)
        for height, width in ((61, 83), (24, 24), (90, 31)):
            image = Image.fromarray(noise(height, width, 3))
            found = Preprocessing.of_timm({"pretrained_cfg": config}).apply(image)
            np.testing.assert_array_equal(found, theirs(image).numpy().transpose(1, 2, 0), err_msg=str(config))
