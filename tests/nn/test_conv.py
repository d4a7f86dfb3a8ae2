import itertools

import jax
import jax.numpy as jnp

from cnnjax.nn import Conv


def test_the_shapes_of_a_layer_follow_from_its_fields():  # S4:256-287
    for n, f, p, s, (channels, features) in itertools.product((7, 12), (1, 3, 4), (0, 2), (1, 2, 3), ((1, 4), (3, 2))):
        images = jax.ShapeDtypeStruct((2, n, n + 1, channels), jnp.float32)
        out, variables = jax.eval_shape(Conv(features, (f, f), (s, s), p).init_with_output, jax.random.key(0), images)
        height, width = ((side + 2 * p - f) // s + 1 for side in (n, n + 1))
        assert out.shape == (2, height, width, features)
        shapes = {name: value.shape for name, value in variables["params"].items()}
        assert shapes == {"kernel": (f, f, channels, features), "bias": (features,)}
