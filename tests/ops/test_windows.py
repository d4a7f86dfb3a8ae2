import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cnnjax.ops.windows import explicit_padding, output_size, spread, views
from cnnjax.typing import UsageError


def test_unknown_padding_names_the_choices():
    with pytest.raises(UsageError, match=r"Unknown padding 'REFLECT'.*'SAME', 'VALID'"):
        explicit_padding("REFLECT", (4, 4), (3, 3), (1, 1))


def test_same_padding_is_tensorflows():
    for n, k, s, d in itertools.product(range(1, 9), range(1, 5), range(1, 4), (1, 2)):
        pads = explicit_padding("SAME", (n, 7), (k, 3), (s, 2), (d, 1))
        extent = (k - 1) * d + 1
        assert list(pads) == lax.padtype_to_pads((n, 7), (extent, 3), (s, 2), "SAME")
        low, high = pads[0]
        assert output_size(n + low + high, extent, 0, s) == math.ceil(n / s)
        assert high - low in (0, 1)  # an odd pixel goes to the end


def test_other_paddings_are_taken_as_given():
    assert explicit_padding("VALID", (5, 5), (3, 3), (2, 2)) == ((0, 0), (0, 0))
    assert explicit_padding(2, (5, 5), (3, 3), (2, 2)) == ((2, 2), (2, 2))
    assert explicit_padding(((0, 1), (2, 3)), (5, 5), (3, 3), (2, 2)) == ((0, 1), (2, 3))


@pytest.mark.parametrize(
    ("size", "strides", "dilation"), [((2, 3), (1, 1), (1, 1)), ((3, 2), (2, 3), (1, 1)), ((2, 2), (2, 1), (3, 2))]
)
def test_views_are_what_each_place_of_the_window_reads(size, strides, dilation):
    images = np.arange(2 * 7 * 8 * 2, dtype=np.float32).reshape(2, 7, 8, 2)
    reaches = [(k - 1) * d for k, d in zip(size, dilation, strict=True)]
    rows, columns = (range(0, images.shape[a + 1] - reaches[a], strides[a]) for a in (0, 1))
    found = views(jnp.asarray(images), size, strides, dilation)
    places = list(itertools.product(range(size[0]), range(size[1])))
    assert len(found) == len(places)
    for (i, j), view in zip(places, found, strict=True):
        at = np.ix_(range(2), [r + i * dilation[0] for r in rows], [c + j * dilation[1] for c in columns], range(2))
        np.testing.assert_array_equal(view, images[at])


def test_spread_pads_cuts_and_parts_rows_and_columns():
    images = jnp.arange(1.0, 7).reshape(1, 2, 3, 1)
    out = spread(images, [(1, 0, 2), (-1, 2, 0)])[0, :, :, 0]
    np.testing.assert_array_equal(out, [[0] * 4, [2, 3, 0, 0], [0] * 4, [0] * 4, [5, 6, 0, 0]])
