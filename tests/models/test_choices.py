"""Fields that networks share: what they do in each, and which values are refused."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models, rng, tree
from cnnjax.models.encoder_decoder import EncoderDecoder
from cnnjax.models.stages import stages
from cnnjax.nn.norm import GroupNorm
from cnnjax.train.spec import to_json
from cnnjax.typing import UsageError
from tests.fixtures.networks import filled, images, jit

# One network of each class that has a field ``norm``: the first, for the later ones are larger.
NETWORKS = {EncoderDecoder: EncoderDecoder()}
for entry in models.MODELS.values():
    model = entry.build()
    if hasattr(model, "norm"):
        NETWORKS.setdefault(type(model), model)

HEADED = {  # every class that has a layer ``head``
    type(model): model
    for model in reversed([entry.build() for entry in models.MODELS.values()])
    if hasattr(model, "parameter_stages")
}


def traced(model):
    size = getattr(model, "min_size", 1)
    return models.parameter_shapes(model, (size, size, 3))


@pytest.mark.parametrize("network", NETWORKS.values(), ids=[network.__name__ for network in NETWORKS])
@pytest.mark.slow
def test_every_network_takes_a_number_of_groups_and_says_which_it_could_have(network):
    groups = set()

    def listen(call, args, kwargs, context):
        if isinstance(context.module, GroupNorm):
            groups.add(context.module.groups)
        return call(*args, **kwargs)

    with nn.intercept_methods(listen):
        traced(network.clone(norm="group", norm_groups=2))
    assert groups == {2}
    with pytest.raises(UsageError, match=r"\w+: 7 groups do not divide \d+ channels. Use one of 1, 2"):
        traced(network.clone(norm="group", norm_groups=7))
    with pytest.raises(UsageError, match="norm_groups=2 has no effect, for norm=batch"):
        network.clone(norm="batch", norm_groups=2)
    with pytest.raises(UsageError, match="norm_groups must be a number of groups, or 0"):
        network.clone(norm="group", norm_groups=-1)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("googlenet", {"lrn_size": 4}, "lrn_size must be odd and at least 1, not 4"),
        ("alexnet", {"lrn_k": 0.0}, "lrn_k must be a positive number, not 0.0"),
        ("alexnet", {"lrn_alpha": -1.0}, "lrn_alpha must be a number of at least 0, not -1.0"),
        ("vgg11_lrn", {"lrn_beta": float("nan")}, "lrn_beta must be a number of at least 0, not nan"),
        ("alexnet_one_column", {"lrn_k": 1.0}, "lrn_k=1.0 has no effect, for lrn=False. Set lrn=True"),
        ("vgg11", {"lrn_size": 3}, "lrn_size=3 has no effect"),
        ("mobilenet_v1", {"padding": "VALID"}, "Unknown padding 'VALID'.* Choices: SAME, half"),
        ("mobilenet_v2", {"epsilon": 0.0}, "epsilon must be a positive number, not 0.0"),
        ("resnet50", {"epsilon": float("inf")}, "epsilon must be a positive number, not inf"),
    ],
)
def test_a_bad_constant_is_refused(name, fields, message):
    with pytest.raises(UsageError, match=message):
        models.create(name, **fields)


def test_fields_that_came_later_leave_the_names_of_runs_as_they_were():
    network = EncoderDecoder(norm="group")
    assert set(to_json(network)) == {"module"} | {
        field.name for field in dataclasses.fields(network) if field.name not in ("parent", "name", "norm_groups")
    }
    assert to_json(network.clone(norm_groups=2))["norm_groups"] == 2


@pytest.mark.parametrize("network", HEADED.values(), ids=[network.__name__ for network in HEADED])
@pytest.mark.slow
def test_without_classes_the_network_ends_with_its_features(network):
    """Arrays, stages and endpoints are those of the whole network but for the head's."""
    size = getattr(network, "min_size", 1)
    inputs = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    traces = {
        classes: jax.eval_shape(network.clone(num_classes=classes).init_with_output, rng.abstract_key(), inputs)
        for classes in (0, 5)
    }
    (features, endpoints), variables = traces[0]
    (logits, all_endpoints), all_variables = traces[5]
    head = all_variables["params"].pop("head")
    assert tree.names(variables) == tree.names(all_variables)
    assert features.shape == endpoints["features"].shape == (2, head["kernel"].shape[0])
    assert logits.shape == (2, 5)
    assert set(all_endpoints) - set(endpoints) <= {"logits_map"}
    assert {"head": ("head",)} | stages(network.clone(num_classes=0)) == network.parameter_stages


def test_arrays_of_a_trunk_give_its_endpoints():
    whole, shape = models.create("vgg_small", stages=((4, 1), (6, 1)), dense=(5,)), (8, 8, 3)
    variables, x = filled(whole, shape), images(2, shape)
    trunk = {"params": {name: layer for name, layer in variables["params"].items() if name != "head"}}
    expected = jit(lambda v, x: whole.apply(v, x)[1])(variables, x)
    found, endpoints = jit(lambda v, x: whole.clone(num_classes=0).apply(v, x))(trunk, x)
    assert set(expected) - set(endpoints) == {"logits_map"}
    np.testing.assert_array_equal(found, expected["features"])
    np.testing.assert_array_equal(endpoints["stage2"], expected["stage2"])


def test_without_classes_there_are_no_heads_at_all():
    assert models.count_parameters("vgg16", num_classes=0, dense=()) == 14_714_688
    assert models.count_parameters("resnet18", num_classes=0) == 11_689_512 - 513_000
    with pytest.raises(UsageError, match="auxiliary=True needs classes"):
        models.create("inception_v3", num_classes=0, auxiliary=True)
    with pytest.raises(UsageError, match="or 0 for a network without a head, not -1"):
        models.create("mlp", num_classes=-1)
