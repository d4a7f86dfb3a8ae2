"""Against keras.applications; see ``tests.parity.keras_reference``. ``tests/golden`` holds its logits."""

import json
import math

import jax
import numpy as np
import pytest

from cnnjax import models, tree, weights
from cnnjax.weights import keras_keys
from tests.fixtures.networks import jit
from tests.parity import golden, keras_reference, seeded
from tests.parity.reference import TOLERANCE, Missing

KINDS = ("vgg16", "resnet50", "mobilenet_v1", "mobilenet_v2", "efficientnet_b0", "inception_v3")
NAMES = sorted(keras_reference.KERAS)


@pytest.fixture(scope="module")
def applications():
    """The library, where it is installed."""
    try:
        return keras_reference.library()
    except Missing as error:
        pytest.skip(str(error))


def assert_close(actual, expected, label):
    difference, largest = np.abs(np.asarray(actual) - expected).max(), np.abs(expected).max()
    assert difference <= TOLERANCE * largest, f"{label}: {difference / largest:.2g} of the largest"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["efficientnet_b0", "inception_v3", "mobilenet_v1", "mobilenet_v2", "resnet50", "vgg16"]
)
def test_evaluation_and_training_with_what_it_leaves_behind(applications, name):
    """Keras on JAX keeps the variance of n numbers, TensorFlow and PyTorch that of n - 1, which is ours."""
    reference = keras_reference.KERAS[name]
    network = keras_reference.build(reference)
    model = models.create(name, num_classes=keras_reference.CLASSES, **reference.fields)
    given = keras_keys.canonical(keras_reference.state(network))
    variables, x = weights.convert(given, model), seeded.images(2, reference.size)
    evaluated = jit(lambda variables, x: model.apply(variables, x)[0])(variables, x)
    assert_close(evaluated, keras_reference.logits(network, reference, x), "evaluation")
    train = jit(lambda variables, x: model.apply(variables, x, True, mutable=["batch_stats"]))
    (trained, _), updates = train(variables, x)
    assert_close(trained, keras_reference.logits(network, reference, x, train=True), "training")
    after = keras_keys.canonical(keras_reference.state(network))
    counts = {
        layer.name: 2 * math.prod(layer.output.shape[1:3]) for layer in network.layers if hasattr(layer, "momentum")
    }
    for key, count in keras_keys.canonical({f"{name}/moving_variance": n for name, n in counts.items()}).items():
        after[key] = 0.9 * given[key] + (after[key] - 0.9 * given[key]) * count / (count - 1)
    theirs = weights.convert(after, model).get("batch_stats", {})
    leaves = zip(tree.names(theirs), *map(jax.tree.leaves, (updates.get("batch_stats", {}), theirs)), strict=True)
    for path, ours, expected in leaves:
        assert_close(ours, expected, path)
    exported = weights.export(variables, model, "keras")
    assert set(exported) == set(given)
    for key, array in exported.items():
        np.testing.assert_array_equal(array, given[key], err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_stored_logits(applications, name):
    path = golden.FOLDER / f"{name}_keras.json"
    if not path.exists():
        pytest.skip("nothing is stored")
    stored, reference = json.loads(path.read_text()), keras_reference.KERAS[name]
    network = keras_reference.build(reference)
    found = keras_reference.logits(network, reference, seeded.images(golden.IMAGES, reference.size))
    expected = np.array(stored["logits"])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_what_keras_does_to_the_numbers_of_images(applications):
    """``preprocess_input`` of each network, on an image of the size that nothing is cut from."""
    modules = {
        "vgg16": "vgg16", "vgg19": "vgg19", "resnet50": "resnet", "mobilenet_v1": "mobilenet",
        "mobilenet_v2": "mobilenet_v2", "inception_v3": "inception_v3",
    }  # fmt: skip
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    for name, module in modules.items():
        steps = weights.preprocessing_of(name, "keras")
        steps = weights.Preprocessing(40, 40, steps.mean, steps.std, channels=steps.channels)
        expected = getattr(applications, module).preprocess_input(image.astype(np.float32))
        np.testing.assert_allclose(steps.apply(image), expected, rtol=1e-5, atol=2e-5 * np.abs(expected).max())
