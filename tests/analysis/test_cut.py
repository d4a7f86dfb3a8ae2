"""Values that are standardised by themselves are found in the traced program, whatever module does it."""

import logging

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import analysis, models
from cnnjax.analysis.cut import cut, cut_in_training
from cnnjax.analysis.program import label, trace
from cnnjax.data import describe
from cnnjax.nn.norm import norm_layer
from cnnjax.train import Hyper, Spec
from cnnjax.train.spec import validate
from cnnjax.typing import UsageError
from tests.fixtures.networks import jit


class Narrow(nn.Module):
    """A layer of one pixel, a norm, and a head; ``around`` adds a path past the norm."""

    norm: str = "instance"
    channels: int = 4
    side: int = 8
    around: bool = False

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.Conv(self.channels, (self.side, self.side), padding="VALID")(images)
        if self.norm == "flax group":
            y = nn.GroupNorm(num_groups=self.channels)(x)
        elif self.norm == "flax layer":
            y = nn.LayerNorm()(x)
        elif self.norm == "flax batch":
            y = nn.BatchNorm(use_running_average=not train)(x)
        else:
            y = norm_layer(self.norm, groups=self.channels)(name="norm")(x, train)
        y = nn.relu(y + x if self.around else y)
        return nn.Dense(10)(y.mean((1, 2)))


CUT = [
    (Narrow("instance"), 8, True),
    (Narrow("group"), 8, True),
    (Narrow("layer", channels=1), 8, True),
    (Narrow("flax group"), 8, True),
    (Narrow("flax layer", channels=1), 8, True),
    (Narrow("batch"), 1, True),
    (Narrow("flax batch"), 1, True),
    (Narrow("instance", around=True), 8, False),
    (models.create("resnet20_cifar", norm="instance", width=4), 8, False),
]
WHOLE = [
    (Narrow("batch"), 2),
    (Narrow("flax batch"), 2),
    (Narrow("layer"), 8),
    (Narrow("flax layer"), 8),
    (Narrow("instance", side=7), 8),
    (Narrow("batch", side=7), 1),
    (models.create("resnet20_cifar", norm="group", width=4), 8),
]


def image_shape(model):
    return (4, 4, 1) if hasattr(model, "depth") else (8, 8, 1)


@pytest.mark.parametrize(("model", "batch_size", "whole"), CUT)
@pytest.mark.slow
def test_a_value_less_its_own_mean_is_found_and_is_so_in_fact(model, batch_size, whole):
    shape = image_shape(model)
    found = cut_in_training(model, shape, batch_size)
    assert found.layers
    assert found.whole is whole

    @jit
    def outputs(images):
        variables = model.init(jax.random.key(0), images, train=False)
        state = [name for name in variables if name != "params"]
        out, _ = model.apply(variables, images, train=True, mutable=state)
        return out[0] if isinstance(out, tuple) else out

    some, others = np.random.default_rng(0).standard_normal((2, batch_size, *shape)).astype(np.float32)
    assert np.array_equal(outputs(some), outputs(others)) is whole


@pytest.mark.parametrize(("model", "batch_size"), WHOLE)
def test_norms_over_several_values_are_not(model, batch_size):
    found = cut_in_training(model, image_shape(model), batch_size)
    assert found.layers == ()
    assert not found.whole


def test_rounding_is_no_mean():
    class Residue(nn.Module):
        @nn.compact
        def __call__(self, images):
            return nn.Dense(2)(images - images.astype(jnp.bfloat16).astype(jnp.float32))

    assert not cut(trace(Residue(), (4,))).layers


@pytest.mark.slow
def test_a_summary_says_so():
    (warning,) = [w for w in analysis.summarize(Narrow(), (8, 8, 1)).warnings if w.layer == "norm/group"]
    assert "the output does not depend on the image" in warning.what
    (warning,) = [w for w in analysis.summarize(Narrow(around=True), (8, 8, 1)).warnings if w.layer == "norm/group"]
    assert "does not depend" not in warning.what


@pytest.mark.slow
def test_a_network_that_cannot_tell_images_apart_is_refused_and_one_that_can_is_spoken_of(caplog):
    spec = Spec(model="mobilenet_v1", model_fields=(("norm", "instance"), ("width_multiplier", 0.125)))
    info = describe(spec.data)
    shapes = {side: type(info)(info.name, (side, side, 1), 10, info.sizes, info.class_names) for side in (4, 32, 64)}
    with pytest.raises(UsageError, match=r"mobilenet_v1 on images of 32x32 .* stage5_0/depthwise/norm.*model.norm"):
        validate(spec, [Hyper()], shapes[32])
    validate(spec, [Hyper()], shapes[64])
    fields = (("norm", "instance"), ("width", 4))
    with caplog.at_level(logging.WARNING):
        validate(Spec(model="resnet8_cifar", model_fields=fields), [Hyper()], shapes[4])
    assert "resnet8_cifar on images of 4x4 in batches of 128: stage3_first/norm1" in caplog.text


def test_the_module_is_named():
    assert label(cut(trace(Narrow(), (8, 8, 1))).layers[0]) == "norm/group"
