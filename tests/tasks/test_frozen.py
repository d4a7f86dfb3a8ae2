from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models
from cnnjax.models.stages import frozen_names
from cnnjax.tasks import classify
from cnnjax.tasks.frozen import COLLECTION, freeze, merge, split
from cnnjax.train.spec import Hyper
from cnnjax.typing import UsageError
from tests.fixtures.networks import jit
from tests.fixtures.staged import Staged

SHAPE, CLASSES = (6, 6, 3), 10
BODY = ("stem", "blocks", "late")


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {
        "images": jnp.asarray(rng.standard_normal((8, *SHAPE)), jnp.float32),
        "labels": jnp.arange(8) % CLASSES,
        "weights": jnp.ones(8),
    }


def task_of(frozen):
    return freeze(classify(Staged()), Staged(), frozen)


def gradient(task, batch, variables, rate=0.5):
    """Loss, new state and gradient of a batch in training mode."""

    def objective(params, variables, rate):
        return task.loss({**variables, "params": params}, batch, jax.random.key(1), Hyper(dropout=rate))

    return jax.grad(objective, has_aux=True)(variables["params"], variables, rate)


def equations(jaxpr, name="conv_general_dilated"):
    """How often a primitive occurs in a program; the body of a scan counts once."""
    inner = [getattr(v, "jaxpr", v) for equation in jaxpr.eqns for v in equation.params.values()]
    found = sum(equation.primitive.name == name for equation in jaxpr.eqns)
    return found + sum(equations(each, name) for each in inner if hasattr(each, "eqns"))


# Names


@pytest.mark.parametrize(("regime", "expected"), [("head", BODY), ("late", ("stem",)), ("all", ())])
def test_a_regime_freezes_stages(regime, expected):
    assert models.frozen_stages(Staged(), regime) == expected


def test_an_unknown_regime_and_a_module_without_stages_are_refused():
    with pytest.raises(UsageError, match=r"Unknown regime 'haed'\. Did you mean 'head'"):
        models.frozen_stages(Staged(), "haed")
    with pytest.raises(UsageError, match="Dense has no parameter_stages"):
        models.frozen_stages(nn.Dense(3), "head")


def test_names_of_a_module_without_stages_are_its_parameters_or_their_beginnings():
    names = ("Conv_0", "Conv_1", "norm", "Dense_0")
    assert frozen_names(nn.Dense(3), ("Conv", "norm"), names) == {"Conv_0", "Conv_1", "norm"}
    with pytest.raises(UsageError, match=r"Unknown parameter of Dense in frozen 'Cnov_0'\. Did you mean 'Conv_0'"):
        frozen_names(nn.Dense(3), ("Cnov_0",), names)


def test_an_unknown_stage_is_named_and_something_must_train():
    with pytest.raises(UsageError, match=r"Unknown stage of Staged in frozen 'block'\. Did you mean 'blocks'"):
        frozen_names(Staged(), ("block",), ("stem", "head"))
    with pytest.raises(UsageError, match=r"frozen=stem,head leaves nothing to train"):
        frozen_names(Staged(), ("stem", "head"), ("stem", "stem_norm", "head"))


# What a frozen stage is


@pytest.fixture(scope="module")
def drawn(batch):
    """The variables of the network, and those of its task with a frozen stem, of one key."""
    inits = [task.init for task in (classify(Staged()), task_of(("stem",)))]
    return jit(lambda key: [init(key, batch) for init in inits])(jax.random.key(0))


@pytest.fixture(scope="module")
def variables(drawn):
    """Of the network, with statistics that are not those of the batch."""
    return {**drawn[0], "batch_stats": jax.tree.map(lambda leaf: 1.5 * leaf - 0.25, drawn[0]["batch_stats"])}


@pytest.mark.slow
def test_split_and_merge_are_inverse(variables):
    parted = split(variables, Staged(), ("stem", "late"))
    assert set(parted["params"]) == {"blocks", "head"}
    assert set(parted[COLLECTION]) == {"stem", "stem_norm", "late", "late_norm"}
    jax.tree.map(np.testing.assert_array_equal, merge(parted), variables)


def test_frozen_parameters_are_those_that_would_have_trained(drawn):
    whole, parted = drawn
    assert set(parted["params"]) == {"blocks", "late", "late_norm", "head"}
    jax.tree.map(np.testing.assert_array_equal, merge(parted), whole)


@pytest.mark.parametrize("frozen", [("blocks",), BODY])
@pytest.mark.slow
def test_statistics_of_frozen_stages_stay_and_those_of_others_move(variables, batch, frozen):
    task = task_of(frozen)
    start = split(variables, Staged(), frozen)
    gradients, (state, _) = jit(partial(gradient, task, batch))(start)
    assert set(gradients) == set(start["params"])
    assert set(state) == {"batch_stats", COLLECTION}
    jax.tree.map(np.testing.assert_array_equal, state[COLLECTION], start[COLLECTION])
    for name, statistics in state["batch_stats"].items():
        same = all(jax.tree.leaves(jax.tree.map(np.array_equal, statistics, start["batch_stats"][name])))
        assert same == name.startswith(frozen), name


@pytest.mark.slow
def test_a_frozen_body_computes_as_in_evaluation_and_only_the_heads_dropout_acts(variables, batch):
    task, start, seen = task_of(BODY), split(variables, Staged(), BODY), []

    def keep(call, args, kwargs, context):
        if context.module.name == "head":
            seen.append(args[0])
        return call(*args, **kwargs)

    @jit
    def features(start, rate):
        with nn.intercept_methods(keep):
            task.loss(start, batch, jax.random.key(1), Hyper(dropout=rate))
        return seen.pop()

    expected = jit(Staged().apply)(variables, batch["images"])[1]["features"]
    np.testing.assert_allclose(features(start, 0.0), expected, rtol=1e-4, atol=1e-6)
    dropped = np.asarray(features(start, 0.5))
    kept = dropped != 0
    np.testing.assert_allclose(dropped[kept], 2 * expected[kept], rtol=1e-4)
    assert 0 < np.sum(~kept & (expected != 0)) < expected.size


@pytest.mark.parametrize(
    ("frozen", "draws"),
    # After the stem; in a block, once in the scan; before late; in late; before the head.
    [((), 5), (("stem",), 5), (("blocks",), 3), (("stem", "blocks"), 3), (("blocks", "late"), 1), (BODY, 1)],
)
def test_dropout_between_stages_belongs_to_the_one_that_it_feeds(variables, batch, frozen, draws):
    task, start = task_of(frozen), split(variables, Staged(), frozen)
    program = jax.make_jaxpr(lambda v: task.loss(v, batch, jax.random.key(1), Hyper(dropout=0.5)))(start)
    assert equations(program.jaxpr, "random_bits") == draws


@pytest.mark.slow
def test_evaluation_and_probes_see_the_whole_network(variables, batch):
    whole = classify(Staged(), probe_names=("batch_statistics",), batch_size=8)

    @jit
    def measure(variables):
        found = {}
        for frozen in (("blocks", "late"), BODY):
            task, parted = freeze(whole, Staged(), frozen), split(variables, Staged(), frozen)
            found[frozen] = (
                {"outputs": task.outputs(parted, batch), **task.evaluate(parted, batch)},
                task.probe(parted, batch, lambda images: images)["loss_batch_statistics"],
            )
        return found, {"outputs": whole.outputs(variables, batch), **whole.evaluate(variables, batch)}

    found, expected = measure(variables)
    for seen, _ in found.values():
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), seen, expected)
    # By the statistics of the batch where a stage trains, by the running ones where it is frozen.
    np.testing.assert_allclose(found[BODY][1], expected["loss"], rtol=1e-5)
    assert abs(found["blocks", "late"][1] - expected["loss"]) > 1e-3


# What is not computed


def products(program):
    """Convolutions and matrix products in a program; the body of a scan counts once."""
    return sum(equations(program.jaxpr, name) for name in ("conv_general_dilated", "dot_general"))


@pytest.mark.slow
def test_nothing_is_differentiated_in_front_of_the_first_stage_that_trains(variables, batch):
    def backward(frozen):
        """Products that the gradient needs beside those of the loss."""
        task, start = task_of(frozen), split(variables, Staged(), frozen)
        loss = jax.make_jaxpr(lambda v: task.loss(v, batch, jax.random.key(1), Hyper()))(start)
        return products(jax.make_jaxpr(partial(gradient, task, batch))(start)) - products(loss)

    none, stem, stem_and_blocks, body = map(backward, ((), ("stem",), ("stem", "blocks"), BODY))
    assert body == 1  # the head's kernel
    assert stem_and_blocks == 3  # and the head's features, and the kernel of the convolution before
    assert none > stem > stem_and_blocks
    # Stages in the middle pass gradients on, but have none of their own.
    assert backward(("blocks", "late")) < none
    assert backward(("blocks", "late")) > none - stem
