import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models, tree
from cnnjax.ops.conv import convolution_matrix
from cnnjax.ops.windows import explicit_padding
from tests.fixtures.networks import filled, images, jit


def connectivity(sharing, **fields):
    return models.create(f"connectivity_{sharing}", features=(3, 4), activation="tanh", **fields), (6, 5, 2)


@pytest.mark.slow
def test_tied_local_kernels_and_banded_dense_weights_are_the_convolution():
    conv, shape = connectivity("conv")
    variables, x = filled(conv, shape), jnp.asarray(images(2, shape))
    local, dense = ({"head": variables["params"]["head"]} for _ in range(2))
    sides = [(6, 5), (3, 3), (2, 2)]
    for index in (1, 2):
        layer, before, after = variables["params"][f"layer{index}"], sides[index - 1], sides[index]
        pads = explicit_padding("SAME", before, (3, 3), (2, 2))
        matrix = convolution_matrix(jnp.asarray(layer["kernel"]), before, (2, 2), pads)
        bias = np.broadcast_to(layer["bias"], (*after, layer["bias"].size))
        dense[f"layer{index}"] = {"kernel": matrix, "bias": bias.reshape(-1)}
        tied = np.broadcast_to(layer["kernel"], (*after, *layer["kernel"].shape))
        local[f"layer{index}"] = {"kernel": tied, "bias": bias}

    def outputs(sharing, params):
        return connectivity(sharing)[0].apply({"params": params}, x)

    @jit
    def compute(shared, local, dense):
        return outputs("conv", shared), outputs("local", local), outputs("dense", dense)

    (expected, expected_ends), *others = compute(variables["params"], local, dense)
    for logits, endpoints in others:
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
        for name, value in endpoints.items():
            np.testing.assert_allclose(value, expected_ends[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("image_shape", [(16, 16, 1), (7, 9, 3)])
@pytest.mark.parametrize(("features", "k"), [((8, 16), 3), ((3, 5), 5)])
def test_connections_cost_what_the_formulas_say(image_shape, features, k):
    (height, width, channels), (maps1, maps2) = image_shape, features
    units1 = -(-height // 2) * -(-width // 2) * maps1
    units2 = -(-height // 4) * -(-width // 4) * maps2
    expected = {
        "conv": maps1 * (k * k * channels + 1) + maps2 * (k * k * maps1 + 1),
        "local": units1 * (k * k * channels + 1) + units2 * (k * k * maps1 + 1),
        "dense": units1 * (height * width * channels + 1) + units2 * (units1 + 1),
    }
    for sharing, count in expected.items():
        model = models.create(f"connectivity_{sharing}", features=features, kernel_size=k)
        variables = models.parameter_shapes(model, image_shape)
        assert tree.count(variables) == count + 10 * (units2 + 1)
        _, endpoints = jax.eval_shape(model.apply, variables, jnp.zeros((1, *image_shape)))
        sizes = {name: endpoint.size for name, endpoint in endpoints.items()}
        assert sizes == {"layer1": units1, "layer2": units2, "features": units2}
