"""Against the normalisations of torch.nn.functional."""

import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.ops import norm
from tests.parity import seeded

SCALE, BIAS = np.linspace(0.5, 2, 6, dtype=np.float32), np.linspace(-1, 1, 6, dtype=np.float32)


@pytest.mark.parametrize("name", ["batch", "instance", "group", "layer"])
def test_normalisation(torch, name):
    functional, x = torch.nn.functional, seeded.images(2, 3, 6)
    planes, scale, bias = (torch.from_numpy(array) for array in (x.transpose(0, 3, 1, 2).copy(), SCALE, BIAS))
    reference = {
        "batch": lambda: functional.batch_norm(planes, None, None, scale, bias, training=True),
        "instance": lambda: functional.instance_norm(planes, weight=scale, bias=bias),
        "group": lambda: functional.group_norm(planes, 3, scale, bias),
        # Theirs has a scale for each position too; ours has the channel's everywhere.
        "layer": lambda: functional.group_norm(planes, 1, scale, bias),
    }[name]()
    groups = (3,) if name == "group" else ()
    found = getattr(norm, f"{name}_norm")(jnp.asarray(x), *groups, jnp.asarray(SCALE), jnp.asarray(BIAS))
    np.testing.assert_allclose(found, reference.numpy().transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-5)
