import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.data.feed import Feed
from cnnjax.train.program import Driver, program, stack_hyper
from cnnjax.train.run import train
from cnnjax.train.spec import Hyper
from cnnjax.typing import UsageError

DENSE = Driver("scan", 4)
RESIDUAL = Driver("scan", 2)
NAN = Hyper(learning_rate=1e30)


def timeless(outcome):
    """What a run left behind, without its times; NaN equals NaN."""
    found = dataclasses.asdict(outcome)
    kept = ("metrics", "history", "diverged_step", "parameters_digest")
    return repr({name: found[name] for name in kept})


@pytest.fixture(scope="module")
def bundle(digits):
    """``bundle(spec, driver, *runs)``: what the runs, pairs of a Hyper and a seed, left behind."""

    def run(spec, driver, *runs, **options):
        hypers, seeds = zip(*runs, strict=True)
        return [timeless(outcome) for outcome in train(spec, hypers, seeds, digits, driver, **options)]

    return run


# A member of a sweep is the run alone


@pytest.fixture(scope="module")
def members(everything):
    """Four runs that differ in numbers and seed."""
    return (Hyper(), 0), (everything, 1), (dataclasses.replace(everything, train_size=0), 0), (Hyper(l2=0.01), 7)


def test_a_member_does_not_depend_on_lane_partners_or_padding(bundle, mlp, members):
    together = bundle(mlp, DENSE, *members)
    assert len(set(together)) == 4
    assert bundle(mlp, DENSE, *reversed(members)) == together[::-1]
    assert bundle(mlp, DENSE, members[2], members[0], members[3], members[1]) == [together[i] for i in (2, 0, 3, 1)]
    for member, expected in zip(members[:2], together, strict=False):
        assert bundle(mlp, DENSE, *[member] * 4) == [expected] * 4


def test_a_partner_that_diverges_leaves_the_others_as_they_are(bundle, digits, mlp, members):
    together = bundle(mlp, DENSE, *members)
    beside = train(mlp, [NAN, *(h for h, _ in members[1:])], [3, *(s for _, s in members[1:])], digits, DENSE)
    assert beside[0].diverged_step is not None
    assert beside[0].diverged_step <= 3
    assert not np.isfinite(beside[0].metrics["train_loss"])
    assert [timeless(outcome) for outcome in beside[1:]] == together[1:]


@pytest.mark.slow
def test_batch_statistics_dropout_and_augmentation_do_not_leak_between_lanes(bundle, net, everything):
    first, second = (everything, 0), (dataclasses.replace(everything, dropout=0.0, crop=0.0), 5)
    together = bundle(net, RESIDUAL, first, second)
    assert bundle(net, RESIDUAL, second, first) == together[::-1]
    assert bundle(net, RESIDUAL, first, first) == [together[0]] * 2
    diverged, beside = bundle(net, RESIDUAL, (NAN, 1), second)
    assert beside == together[1]
    assert "'diverged_step': None" not in diverged


@pytest.mark.parametrize("name", ["l2", "dropout", "label_smoothing", "label_noise", "weight_decay", "flip", "crop",
                                  "momentum", "learning_rate", "train_size", "warmup"])  # fmt: skip
@pytest.mark.slow
def test_every_number_that_is_swept_changes_the_run(bundle, net, everything, name):
    value = {"train_size": 200, "warmup": 0.0}.get(name, 0.5 * getattr(everything, name))
    same, other = bundle(net, RESIDUAL, (everything, 0), (dataclasses.replace(everything, **{name: value}), 0))
    assert same != other


# Drivers differ by rounding, feeds and chunks not at all


def test_loop_and_scan_one_lane_and_four_agree_to_rounding(mlp, advance, members):
    hypers = [hyper for hyper, _ in members]
    _, wide = advance(mlp, hypers, DENSE, 10)
    for driver in (Driver("scan", 1), Driver("loop", 1)):
        _, one = advance(mlp, hypers[1:2], driver, 10)
        for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(wide.params), strict=True):
            np.testing.assert_allclose(a[0], b[1], rtol=1e-4, atol=1e-6)
    _, loop = advance(mlp, hypers[:1], Driver("loop", 1), 10)
    assert abs(np.asarray(loop.params["head"]["kernel"][0] - wide.params["head"]["kernel"][1])).max() > 1e-3


@pytest.mark.parametrize("form", ["scan", "loop"])
def test_the_length_of_a_chunk_changes_no_bit(bundle, mlp, everything, form):
    expected, *others = (bundle(mlp, Driver(form, 1), (everything, 0), chunk_steps=steps) for steps in (50, 1, 3))
    assert others == [expected, expected]


@pytest.mark.parametrize("name", ["mlp", "net"])
@pytest.mark.slow
def test_a_streamed_run_is_the_resident_one(request, bundle, everything, name):
    spec, driver = request.getfixturevalue(name), {"mlp": Driver("scan", 1), "net": RESIDUAL}[name]
    runs = [(everything, seed) for seed in range(driver.lanes)]
    assert bundle(spec, driver, *runs, feed_mode="stream") == bundle(spec, driver, *runs, feed_mode="resident")


# Compiling


def test_a_second_chunk_and_a_second_bundle_compile_nothing(digits, mlp, members):
    spec = dataclasses.replace(mlp, batch_size=8)  # compiled by no other test
    compiled = program(spec, digits.info, DENSE)
    counts = []
    hypers, seeds = zip(*members, strict=True)
    for order in (slice(None), slice(None, None, -1)):
        train(
            spec,
            hypers[order],
            seeds[order],
            digits,
            DENSE,
            on_progress=lambda _: counts.append(compiled.compilations()),
        )
    assert len(counts) == 4  # two chunks, each with an evaluation, in each of two bundles
    assert counts[1:] == [compiled.compilations()] * 3
    assert compiled.compilations() <= 3  # the initial state, the steps, the evaluation


def test_programs_are_made_once(digits, mlp, net):
    same = dataclasses.replace(mlp)
    assert program(same, digits.info, DENSE) is program(mlp, digits.info, DENSE)
    assert program(mlp, digits.info, DENSE) is not program(mlp, digits.info, Driver("scan", 2))
    assert program(net, digits.info, DENSE) is not program(mlp, digits.info, DENSE)


def test_compiling_leaves_the_state_as_it_was(digits, mlp):
    for form in ("scan", "loop"):
        compiled = program(mlp, digits.info, Driver(form, 1))
        feed = Feed(digits, "resident", [0], [0], mlp.batch_size, 50)
        (chunk,) = feed.chunks([(0, 1)])
        hyper = stack_hyper([Hyper()])
        state = compiled.initial_state(hyper, np.zeros(1, np.uint32), chunk.pool)
        before = jax.device_get(state)
        compiled.compile_steps(state, hyper, chunk)
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), before)


def test_hypers_are_stacked_as_float32():
    stacked = stack_hyper([Hyper(train_size=3), Hyper(l2=0.5)])
    assert stacked.train_size.tolist() == [3.0, 0.0]
    assert stacked.l2.tolist() == [0.0, 0.5]
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(stacked))


@pytest.mark.parametrize(
    ("driver", "message"),
    [
        (Driver("scna", 1), "Unknown driver 'scna'. Did you mean 'scan'"),
        (Driver("scan", 0), "lanes must be at least 1"),
    ],
)
def test_an_unknown_driver_is_refused(digits, mlp, driver, message):
    with pytest.raises(UsageError, match=message):
        program(mlp, digits.info, driver)


# Precision


def test_bfloat16_learns_with_float32_parameters(mlp, advance):
    spec = dataclasses.replace(mlp, precision="bfloat16")
    before, after = advance(spec, [Hyper(learning_rate=0.2)], Driver("scan", 1), 10)
    _, exact = advance(mlp, [Hyper(learning_rate=0.2)], Driver("scan", 1), 10)
    for old, new, expected in zip(*(jax.tree.leaves(s.params) for s in (before, after, exact)), strict=True):
        assert new.dtype == jnp.float32
        assert np.all(np.isfinite(new))
        assert np.any(new != old)
        np.testing.assert_allclose(new, expected, atol=0.03)
        assert np.any(new != expected)
