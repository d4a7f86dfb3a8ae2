"""Training with frozen stages, from weights, and on features: an MLP of two hidden layers with batch norm."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models, rng, tree
from cnnjax.data.catalog import DataConfig, describe
from cnnjax.models.mlp import MLP
from cnnjax.train import features
from cnnjax.train.program import Driver
from cnnjax.train.run import Interrupted, train
from cnnjax.train.spec import Hyper, Spec
from cnnjax.typing import UsageError
from cnnjax.weights import Preprocessing
from cnnjax.weights.saved import save
from tests.fixtures.networks import jit
from tests.fixtures.staged import Staged

ONE, TWO = Driver("scan", 1), Driver("scan", 2)
FIELDS = (("hidden", (12, 8)), ("norm", "batch"))
BODY = ("hidden1", "hidden2")
PENALISED = Hyper(learning_rate=0.05, l2=1e-2, weight_decay=1e-2, dropout=0.3)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of the network with other numbers than any seed draws."""
    path = tmp_path_factory.mktemp("weights") / "mlp.safetensors"
    generator = np.random.default_rng(0)
    shapes = models.parameter_shapes(MLP(**dict(FIELDS)), (8, 8, 1))
    variables = tree.mask(
        shapes, lambda name, leaf: (0.3 * generator.normal(size=leaf.shape) + ("var" in name)).astype(np.float32)
    )
    variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])
    save(path, variables, "mlp", image_shape=(8, 8, 1), num_classes=10, **dict(FIELDS))
    return str(path), variables


@pytest.fixture(scope="module")
def spec(weights):
    """The first layer frozen, everything decayed, from weights."""
    return Spec(
        model="mlp",
        model_fields=FIELDS,
        steps=12,
        batch_size=16,
        evaluate_every=6,
        decayed="all",
        weights=weights[0],
        frozen=("hidden1",),
        keep_weights=True,
    )


@pytest.fixture(scope="module")
def two_lanes(spec, digits):
    """What two lanes of other numbers and seeds leave behind."""
    return train(spec, [PENALISED, Hyper()], [0, 1], digits, TWO)


def same(one, other):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, one, other)))


def timeless(outcome):
    kept = ("metrics", "history", "diverged_step", "parameters_digest")
    return json.dumps({name: dataclasses.asdict(outcome)[name] for name in kept})


# Frozen, from weights


@pytest.mark.slow
def test_frozen_means_frozen(two_lanes, weights):
    for outcome in two_lanes:
        for collection in ("params", "batch_stats"):
            for name, value in outcome.variables[collection].items():
                unchanged = same(value, weights[1][collection][name])
                assert unchanged == (name in ("dense1", "norm1")), (collection, name)


def test_the_whole_network_is_counted_and_kept(two_lanes):
    (outcome, other) = two_lanes
    shapes = models.parameter_shapes(MLP(**dict(FIELDS)), (8, 8, 1))
    assert jax.tree.map(lambda leaf: leaf.shape, shapes) == jax.tree.map(np.shape, outcome.variables)
    assert outcome.metrics["parameters"] == tree.count(shapes["params"]) == 64 * 12 + 24 + 12 * 8 + 16 + 90
    assert outcome.metrics["trained_parameters"] == 12 * 8 + 16 + 90
    assert outcome.parameters_digest != other.parameters_digest


@pytest.mark.slow
def test_no_optimizer_state_is_kept_for_what_is_frozen(spec, advance):
    before, after = advance(dataclasses.replace(spec, weights=""), [PENALISED, Hyper()], TWO, 3)
    assert set(before.params) == {"dense2", "norm2", "head"}
    assert not [name for name in tree.names(before.optimizer) if "dense1" in name or "norm1" in name]
    assert same(before.model_state["frozen"], after.model_state["frozen"])
    assert not same(before.model_state["batch_stats"]["norm2"], after.model_state["batch_stats"]["norm2"])


def test_a_lane_knows_nothing_of_its_partner(two_lanes, spec, digits):
    swapped = train(spec, [Hyper(), PENALISED], [1, 0], digits, TWO)
    assert [timeless(outcome) for outcome in swapped[::-1]] == [timeless(outcome) for outcome in two_lanes]


@pytest.mark.slow
def test_a_run_resumed_is_the_uninterrupted_one(two_lanes, spec, digits, tmp_path):
    runs = (spec, [PENALISED, Hyper()], [0, 1], digits, TWO)
    with pytest.raises(Interrupted):
        train(*runs, checkpoints=tmp_path / "kept", chunk_steps=4, should_stop=lambda: True)
    seen = []
    outcomes = train(*runs, checkpoints=tmp_path / "kept", chunk_steps=4, on_progress=seen.append)
    assert seen[0] == 6
    assert [timeless(outcome) for outcome in outcomes] == [timeless(outcome) for outcome in two_lanes]


# On features


@pytest.fixture(scope="module")
def transfer(spec):
    """Only the head trains, drawn anew; another Spec computes the whole network in every step."""
    cached = dataclasses.replace(spec, frozen=BODY, fresh_head=True)
    return cached, dataclasses.replace(cached, cache_features=False)


@pytest.fixture(scope="module")
def on_features(transfer, digits):
    return train(transfer[0], [PENALISED, Hyper()], [0, 1], digits, TWO)


@pytest.mark.slow
def test_a_run_on_features_is_the_run_on_images(transfer, on_features, digits):
    on_images = train(transfer[1], [PENALISED, Hyper()], [0, 1], digits, TWO)
    for cached, whole in zip(on_features, on_images, strict=True):
        assert cached.metrics == pytest.approx(whole.metrics, abs=1e-4)
        assert cached.metrics["test_error"] == whole.metrics["test_error"]
        for one, other in zip(cached.history, whole.history, strict=True):
            assert one == pytest.approx(other, abs=1e-4)
        assert jax.tree.structure(cached.variables) == jax.tree.structure(whole.variables)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), cached.variables, whole.variables)
    assert on_features[0].metrics["train_loss"] != on_features[1].metrics["train_loss"]


def test_a_run_on_features_resumes_and_keeps_the_network(transfer, on_features, weights, digits, tmp_path):
    runs = (transfer[0], [PENALISED, Hyper()], [0, 1], digits, TWO)
    with pytest.raises(Interrupted):
        train(*runs, checkpoints=tmp_path / "kept", should_stop=lambda: True)
    outcomes = train(*runs, checkpoints=tmp_path / "kept")
    assert [timeless(outcome) for outcome in outcomes] == [timeless(outcome) for outcome in on_features]
    for collection, value in weights[1].items():
        for name in set(value) - {"head"}:
            assert same(outcomes[0].variables[collection][name], value[name])


def test_features_are_computed_once(transfer, on_features, digits):
    first, second = (features.start(transfer[0], digits) for _ in range(2))
    assert first.dataset is second.dataset
    assert first.seconds == second.seconds == 0
    assert first.dataset.images.shape == (1797, 1, 1, 8)
    assert first.dataset.images.dtype == np.float32
    assert (first.dataset.labels == digits.labels).all()


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("mlp", {"kernel_init": "xavier", "head_activation": "relu"}),
        ("connectivity_conv", {}),
        ("lenet5", {"padding": "SAME"}),
        ("vgg_small", {"dropout_at": "all"}),
        ("resnet8_cifar", {"width": 4}),
    ],
)
@pytest.mark.slow
def test_the_head_alone_starts_as_in_the_network(name, fields):
    model = models.create(name, num_classes=5, **fields)
    alone = features._head_alone(model, models.frozen_stages(model, "head"), (8, 8, 3))

    @jit
    def heads(key):
        pairs = ((model, (8, 8, 3)), (alone.head, alone.image_shape))
        return [each.init(key, jnp.ones((1, *shape)))["params"]["head"] for each, shape in pairs]

    whole, apart = heads(rng.key(3, "init"))
    assert same(whole, apart)


@pytest.mark.parametrize("frozen", [("hidden1",), BODY])
def test_images_are_normalised_as_the_weights_ask(spec, weights, digits, tmp_path, frozen):
    path = str(tmp_path / "asking.safetensors")
    steps = Preprocessing(8, 8, (0.25,), (0.5,))
    save(path, weights[1], "mlp", preprocessing=steps, image_shape=(8, 8, 1), num_classes=10, **dict(FIELDS))
    tuned = dataclasses.replace(spec, weights=path, frozen=frozen)
    first, second = (features.start(tuned, digits).dataset for _ in range(2))
    assert first is second
    if frozen == BODY:  # features of these images, which are not normalised again
        inputs = (digits.images.astype(np.float32) / 255 - 0.25) / 0.5
        expected = jit(MLP(**dict(FIELDS)).apply)(weights[1], inputs)[1]["features"]
        np.testing.assert_allclose(first.images.reshape(expected.shape), expected, atol=1e-5)
        assert (set(first.mean), set(first.std)) == ({0}, {1})
    else:
        assert (first.mean, first.std) == (np.float32(0.25), np.float32(0.5))
        assert first.images is digits.images
    silent = features.start(dataclasses.replace(spec, frozen=("hidden1",)), digits).dataset  # the file does not say
    assert silent is digits


CACHED = {"weights": "some", "frozen": ("stem", "blocks", "late")}


@pytest.mark.parametrize(
    ("changes", "cached"),
    [
        ({}, True),
        ({"batch_size": 3, "precision": "bfloat16", "decayed": "all"}, True),
        ({"cache_features": False}, False),
        ({"weights": ""}, False),
        ({"frozen": ()}, False),
        ({"frozen": ("stem", "blocks")}, False),
        ({"augment": ("flip",)}, False),
        ({"probes": ("one_vs_rest",)}, False),
        ({"model_fields": (("auxiliary", True),), "frozen": ("stem", "blocks", "late", "auxiliary")}, False),
    ],
)
def test_when_features_are_cached_is_a_rule_of_the_spec(changes, cached):
    spec = dataclasses.replace(Spec(model=Staged()), **{**CACHED, **changes})
    assert (features.head_alone(spec, describe(DataConfig())) is not None) == cached


class Scaled(Staged):
    """Its logits are not those of its head alone."""

    def __call__(self, images, train=False, dropout_rate=0.0):
        logits, endpoints = super().__call__(images, train, dropout_rate)
        return 2 * logits, endpoints


def test_a_head_that_does_more_is_refused(digits, monkeypatch):
    model = Scaled()
    shapes = models.parameter_shapes(model, (8, 8, 1))
    ones = [np.ones(leaf.shape, np.float32) for leaf in jax.tree.leaves(shapes)]
    arrays = dict(zip(tree.names(shapes), ones, strict=True))
    monkeypatch.setattr(features.pretrained, "read", lambda *args: arrays)
    alone = features._head_alone(model, CACHED["frozen"], (8, 8, 1))
    with pytest.raises(UsageError, match=r"Scaled does more with its features .* Set cache_features=False"):
        features._features(model, alone, "path", "content", "float32", digits)
