import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import augment, rng
from cnnjax.data.catalog import DataConfig, describe, load
from cnnjax.data.feed import Feed
from cnnjax.train import step
from cnnjax.train.spec import Hyper, Spec, build_task, validate
from cnnjax.typing import UsageError

ALL = tuple(augment.AUGMENTATIONS)
COLOURS = ("colour_jitter", "rgb_shift", "pca_colour")
BASIS = np.random.default_rng(9).normal(0, 0.2, (3, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def examples():
    random = np.random.default_rng(0)
    images = random.random((12, 11, 13, 3), np.float32)
    return {
        "images": images,
        "masks": random.integers(0, 5, images.shape[:3], np.int32),
        "points": random.uniform(0, 11, (12, 4, 2)).astype(np.float32),
        "boxes": np.tile(np.array([2, 1, 9, 12], np.float32), (12, 2, 1)),
        "labels": np.arange(12),
    }


@partial(jax.jit, static_argnums=(2,))
def apply(seed, examples, names, strengths):
    return augment.apply(jax.random.key(seed), examples, names, strengths, jnp.asarray(BASIS))


def test_the_names_and_their_numbers():
    # A number is part of an augmentation's key: append, never move.
    assert " ".join(ALL) == "flip crop scale rotation shear warp colour_jitter rgb_shift pca_colour"


@pytest.mark.parametrize("names", [(), ("flip", "crop"), tuple(augment.GEOMETRIC), COLOURS, ALL], ids=",".join)
@pytest.mark.slow
def test_strength_0_changes_nothing_to_the_bit(examples, names):
    out = apply(0, {"images": examples["images"]}, names, dict.fromkeys(names, 0.0))
    assert np.asarray(out["images"]).tobytes() == examples["images"].tobytes()


@pytest.mark.slow
def test_strength_0_leaves_what_belongs_to_the_images(examples):
    out = apply(0, examples, ALL, dict.fromkeys(ALL, 0.0))
    assert out.keys() == examples.keys()
    for name in ("masks", "labels"):
        np.testing.assert_array_equal(out[name], examples[name])
    for name in ("points", "boxes"):
        np.testing.assert_allclose(out[name], examples[name], atol=1e-5)


def test_every_augmentation_acts_and_each_key_acts_otherwise(examples):
    plain = examples["images"]
    for name in ALL:
        strengths = dict.fromkeys(ALL, 0.0) | {name: 1.0}
        first, again, other = (apply(seed, {"images": plain}, ALL, strengths)["images"] for seed in (4, 4, 5))
        np.testing.assert_array_equal(first, again)
        assert np.any(first != plain)
        assert np.any(first != other)


def test_examples_are_augmented_each_in_its_own_way(examples):
    images = np.repeat(examples["images"][:1], 12, 0)
    out = np.asarray(apply(1, {"images": images}, ALL, dict.fromkeys(ALL, 1.0))["images"])
    assert len(np.unique(out.reshape(12, -1), axis=0)) == 12


def test_the_order_of_the_names_changes_nothing(examples):
    names, images = ("flip", "rotation", "rgb_shift", "pca_colour"), {"images": examples["images"]}
    forwards, backwards = (apply(2, images, order, dict.fromkeys(names, 1.0)) for order in (names, names[::-1]))
    jax.tree.map(np.testing.assert_array_equal, forwards, backwards)


def test_adding_an_augmentation_leaves_the_draws_of_the_others():
    @jax.jit
    def draws(key):
        parts = [augment.draw(key, 5, 3, names, dict.fromkeys(names, 1.0)) for names in (ALL, ALL[1::2], ALL[8::-2])]
        return parts[0], parts[1] | parts[2]

    together, apart = draws(jax.random.key(6))
    assert together.keys() == apart.keys() == set(ALL)
    for name in ALL:
        np.testing.assert_array_equal(apart[name], together[name])


@pytest.mark.slow
def test_lanes_and_loops_give_what_single_calls_do(examples):
    images, few = jnp.asarray(examples["images"]), ("warp", "rgb_shift")

    def one(images, seed, strength):
        key = rng.key(seed, "augment")
        return augment.apply(key, {"images": images}, few, dict.fromkeys(few, strength), jnp.asarray(BASIS))["images"]

    seeds, strengths = jnp.arange(3), jnp.array([0.0, 0.5, 1.0])
    lanes = jax.jit(jax.vmap(one, (None, 0, 0)))(images, seeds, strengths)
    _, looped = jax.jit(lambda: jax.lax.scan(lambda c, x: (c, one(images, *x)), None, (seeds, strengths)))()
    single = jax.jit(one)
    for i in range(3):
        expected = single(images, seeds[i], strengths[i])
        np.testing.assert_allclose(lanes[i], expected, atol=1e-5)
        np.testing.assert_allclose(looped[i], expected, atol=1e-5)
    np.testing.assert_array_equal(lanes[0], images)


# In training


@pytest.fixture(scope="module")
def colourful():
    return load(DataConfig("shapes", image_size=8, examples=64))


def trained(dataset, names):
    """A function from strengths to the parameters of a small dense net after a step."""
    spec = Spec(model="mlp", model_fields=(("hidden", (4,)),), data=DataConfig("shapes"), batch_size=16, augment=names)
    (chunk,) = Feed(dataset, "resident", [0], [0], 16, 1).chunks([(0, 1)])
    task = build_task(spec, dataset.info)

    @jax.jit
    def one(hyper, pool, indices, noise):
        state = step.initial_state(task, spec, hyper, jnp.uint32(0), pool)
        return step.training_step(task, spec, dataset.info, state, hyper, pool, indices, noise)[0].params

    batch = chunk.pool, chunk.indices[0, 0], chunk.noise[0, 0]
    return lambda **strengths: one(jax.tree.map(jnp.float32, Hyper(**strengths)), *batch)


@pytest.mark.slow
def test_a_training_step_with_all_augmentations_at_0_is_one_without(colourful):
    step = trained(colourful, ALL)
    plain = jax.tree.leaves(trained(colourful, ())())
    for ours, theirs in zip(jax.tree.leaves(step(**dict.fromkeys(ALL, 0.0))), plain, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)  # another program rounds otherwise
    full = jax.tree.leaves(step())
    assert all(np.all(np.isfinite(leaf)) for leaf in full)
    assert any(np.any(ours != theirs) for ours, theirs in zip(full, plain, strict=True))


# Bad input


def test_images_that_a_crop_could_lose_are_refused():
    info = dataclasses.replace(describe(DataConfig()), image_shape=(9, 4, 1))
    with pytest.raises(UsageError, match=r"augment=crop .* 4 pixels.* 9x4 .*image_size=5"):
        validate(Spec(model="mlp", augment=("flip", "crop")), [Hyper()], info)
    validate(Spec(model="mlp", augment=("flip", "warp")), [Hyper()], info)
    validate(Spec(model="mlp", augment=ALL), [Hyper()], dataclasses.replace(info, image_shape=(5, 5, 1)))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("strength", [-0.1, 1.1])
def test_every_strength_has_a_range(name, strength):
    with pytest.raises(UsageError, match=f"{name}={strength} is out of range: it must be from 0.0 to 1.0"):
        validate(Spec(model="mlp", augment=(name,)), [Hyper(**{name: strength})], describe(DataConfig()))
    assert getattr(Hyper(), name) == 1.0


@pytest.mark.parametrize(
    ("names", "message"), [(("rotate",), "Did you mean 'rotation'"), (("warp", "warp"), "warp,warp names one .* twice")]
)
def test_unknown_and_repeated_names_are_refused(names, message):
    with pytest.raises(UsageError, match=message):
        augment.check(names, (32, 32, 3))
