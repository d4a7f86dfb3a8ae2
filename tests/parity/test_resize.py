"""Against torch.nn.functional.interpolate."""

import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.ops.resize import bilinear, nearest
from tests.parity import seeded

SIZES = [(12, 10), (6, 5), (4, 9), (1, 1)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["nearest-exact", "bilinear", "bilinear, corners aligned"])
def test_interpolate(torch, size, mode):
    x = seeded.images(2, 6)[:, :, :5]
    aligned = mode.endswith("aligned")
    options = {} if mode == "nearest-exact" else {"align_corners": aligned}
    planes = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    expected = torch.nn.functional.interpolate(planes, size, mode=mode.partition(",")[0], **options)
    found = nearest(jnp.asarray(x), size) if mode == "nearest-exact" else bilinear(jnp.asarray(x), size, aligned)
    np.testing.assert_allclose(found, expected.numpy().transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-5)
