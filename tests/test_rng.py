import itertools
from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnjax import rng
from cnnjax.typing import UsageError

SHAPES = [(5,), (2, 3), (2, 1, 3), (2, 3, 2, 3)]


def threefry(seed, stream, step):
    """The same key in JAX's own implementation."""
    root = jax.random.key(seed, impl="threefry2x32")
    return jax.random.fold_in(jax.random.fold_in(root, rng.STREAMS[stream]), step)


def draws(key):
    """Bits of every number of dimensions, narrow bits, floats, and bits from a key split off."""
    split = jax.random.split(key, (2, 2))[1, 0]
    others = [jax.random.bits(key, (3, 3, 2), "uint8"), jax.random.normal(key, (3, 4)), jax.random.bits(split)]
    return [*(jax.random.bits(key, shape) for shape in SHAPES), *others]


@pytest.mark.slow
def test_every_draw_is_jaxs_threefry_to_the_bit_inside_and_outside_vmap():
    seeds = np.array([0, 1, 2**31 - 1], np.int32)

    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # compiles faster
    def compute(seeds):
        return (
            draws(rng.key(seeds[2], "init", 3)),
            jax.vmap(lambda seed: draws(rng.key(seed, "init", 3)))(seeds),
            jax.vmap(lambda seed: draws(threefry(seed, "init", 3)))(seeds),
        )

    one, mapped, expected = compute(seeds)
    for single, ours, theirs in zip(one, mapped, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(single, theirs[2])


def test_streams_steps_and_seeds_are_distinct():
    triples = list(itertools.product((0, 1), rng.STREAMS, (0, 1, 1000)))
    keys = {tuple(np.asarray(jax.random.key_data(rng.key(*triple))).tolist()) for triple in triples}
    assert len(keys) == len(triples)


def test_a_traced_seed_and_step_give_the_same_key():
    traced = jax.jit(lambda seed, step: jax.random.key_data(rng.key(seed, "augment", step)))(3, 5)
    np.testing.assert_array_equal(traced, jax.random.key_data(rng.key(3, "augment", 5)))


def test_the_numbers_of_the_streams_never_change():  # they are part of every stored result
    expected = ["init", "shuffle", "augment", "dropout", "label_noise", "subset", "split", "generate"]
    assert sorted(rng.STREAMS, key=rng.STREAMS.get)[:8] == expected
    assert list(rng.STREAMS.values()) == list(range(len(rng.STREAMS)))


@given(st.integers(-(2**40), 2**64), st.sampled_from(list(rng.STREAMS)), st.integers(0, 2**31), st.integers(0, 40))
def test_a_permutation_holds_every_number_once(seed, stream, epoch, size):
    assert sorted(rng.permutation(seed, stream, epoch, size)) == list(range(size))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((0, "shuffle", 0), [3, 8, 5, 9, 6, 0, 7, 1, 4, 2]),
        ((0, "shuffle", 1), [5, 4, 7, 0, 1, 2, 9, 6, 8, 3]),
        ((1, "shuffle", 0), [8, 0, 3, 4, 1, 9, 7, 6, 5, 2]),
        ((0, "subset", 0), [9, 6, 1, 2, 7, 3, 8, 4, 5, 0]),
    ],
)
def test_permutations_never_change(arguments, expected):
    assert rng.permutation(*arguments, 10).tolist() == expected


def test_seeds_beyond_the_signed_integers_are_distinct():
    orders = [rng.permutation(seed, "shuffle", 0, 20).tolist() for seed in (0, -1, -2, 2**63, 2**63 + 1)]
    assert len(set(map(tuple, orders))) == 5


def test_an_unknown_stream_names_the_nearest():
    for draw in (lambda: rng.key(0, "augmnt"), lambda: rng.permutation(0, "augmnt", 0, 3)):
        with pytest.raises(UsageError, match=r"Unknown random stream 'augmnt'. Did you mean 'augment'"):
            draw()
