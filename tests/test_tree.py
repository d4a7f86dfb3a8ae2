from typing import NamedTuple

import jax
import numpy as np
import pytest

from cnnjax import tree


class Pair(NamedTuple):
    first: object
    second: object


@pytest.fixture
def nested():
    return {
        "params": {"conv": {"kernel": np.ones((3, 3, 2, 4), np.float32), "bias": np.zeros(4, np.float32)}},
        "state": Pair([np.float32(1), np.arange(2, dtype=np.int32)], None),
    }


def test_names_are_paths_through_dicts_tuples_and_lists(nested):
    expected = ["params/conv/bias", "params/conv/kernel", "state/first/0", "state/first/1"]
    assert tree.names(nested) == expected
    assert list(tree.leaf_digests(nested)) == expected


def test_a_mask_has_the_trees_structure_and_sees_name_and_leaf(nested):
    mask = tree.mask(nested, lambda name, leaf: name.endswith("kernel") or leaf.ndim == 0)
    assert mask == {"params": {"conv": {"kernel": True, "bias": False}}, "state": Pair([True, False], None)}


def test_count_takes_arrays_and_shapes(nested):
    assert tree.count(nested) == 72 + 4 + 1 + 2
    assert tree.count(jax.eval_shape(lambda: nested)) == 79
    assert tree.count({}) == 0


def test_equal_trees_have_equal_digests_on_host_and_device(nested):
    assert tree.digest(nested) == tree.digest(jax.device_put(nested))


@pytest.mark.parametrize(
    "other",
    [
        {"b": np.zeros((2, 3), np.float32)},  # another name
        {"a": np.zeros((3, 2), np.float32)},  # another shape
        {"a": np.zeros((2, 3), np.int32)},  # another type
        {"a": -np.zeros((2, 3), np.float32)},  # equal numbers, but not equal bits
        {"a": np.zeros((2, 3), np.float32), "b": np.zeros(0, np.float32)},
    ],
)
def test_trees_that_differ_have_other_digests(other):
    assert tree.digest(other) != tree.digest({"a": np.zeros((2, 3), np.float32)})


def test_the_digest_of_an_array_is_of_its_values_and_its_shape():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert tree.array_digest(np.asfortranarray(array)) == tree.array_digest(array)
    assert tree.array_digest(array[:, ::-1]) == tree.array_digest(array[:, ::-1].copy())
    assert tree.array_digest(np.float32(1)) != tree.array_digest(np.ones(1, np.float32))
