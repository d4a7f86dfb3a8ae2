import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cnnjax import stats
from cnnjax.typing import UsageError

# Extra hours of sleep, drug 2 less drug 1, ten patients: Student, "The probable error of a mean", 1908.
SLEEP = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]

reproducible = settings(deadline=None, max_examples=60, derandomize=True)
thousandths = st.integers(-5000, 5000).map(lambda k: k / 1000)
samples = st.lists(thousandths, min_size=3, max_size=8).filter(lambda x: len(set(x)) > 1)
p_values = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def p_of_t_with_2_degrees(t):
    """The upper tail of Student's t with 2 degrees of freedom, in closed form."""
    return 0.5 - t / (2 * math.sqrt(2 + t * t))


def test_summary_of_students_sleep_data():
    s = stats.summarize(SLEEP)
    assert s.n == 10
    assert s.mean == pytest.approx(1.58)
    assert s.sd == pytest.approx(1.229995, abs=1e-6)
    assert (s.low, s.high) == pytest.approx((0.7001142, 2.4598858), abs=1e-7)  # R: t.test(sleep)


def test_summary_by_hand():
    s = stats.summarize([1.0, 2.0, 3.0])
    half = 4.302652729911275 / math.sqrt(3)  # t quantile with 2 degrees of freedom
    assert (s.mean, s.sd) == (2.0, 1.0)
    assert (s.low, s.high) == pytest.approx((2 - half, 2 + half))


def test_one_value_has_no_spread_and_no_interval():
    s = stats.summarize([0.25])
    assert (s.mean, s.n) == (0.25, 1)
    assert math.isnan(s.sd)
    assert math.isnan(s.low)
    assert math.isnan(s.high)
    test = stats.paired_test([0.25])
    assert math.isnan(test.p_greater)
    assert math.isnan(test.p_less)


@pytest.mark.parametrize("function", [stats.summarize, stats.paired_test])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "at least one"),
        ([0.1, math.nan], "Value 1 of 2 is nan.*drop that seed"),
        ([math.inf], "is inf"),
    ],
)
def test_unusable_values_are_refused_with_a_remedy(function, values, message):
    with pytest.raises(UsageError, match=message):
        function(values)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_confidence_is_a_fraction(confidence):
    with pytest.raises(UsageError, match="confidence"):
        stats.summarize([1.0, 2.0], confidence)


@reproducible
@given(samples)
def test_interval_contains_the_mean_and_widens_with_confidence(x):
    narrow, wide = stats.summarize(x, 0.9), stats.summarize(x, 0.99)
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


@reproducible
@given(samples, thousandths)
def test_a_shift_moves_the_interval_and_keeps_the_spread(x, shift):
    before, after = stats.summarize(x), stats.summarize([value + shift for value in x])
    assert after.sd == pytest.approx(before.sd, abs=1e-9)
    assert after.low == pytest.approx(before.low + shift, abs=1e-9)
    assert after.high == pytest.approx(before.high + shift, abs=1e-9)


def test_paired_test_of_students_sleep_data():
    test = stats.paired_test(SLEEP)
    assert test.p_greater == pytest.approx(0.00283289 / 2, abs=1e-8)  # R: two-sided p = 0.00283289
    assert test.p_less == pytest.approx(1 - 0.00283289 / 2, abs=1e-8)
    assert (test.low, test.high) == pytest.approx((0.7001142, 2.4598858), abs=1e-7)


@reproducible
@given(samples)
def test_paired_test_mirrors_and_agrees_with_the_interval(x):
    test, mirrored = stats.paired_test(x), stats.paired_test([-value for value in x])
    assert test.p_greater + test.p_less == pytest.approx(1)
    assert mirrored.p_greater == pytest.approx(test.p_less)
    assume(abs(test.p_greater - 0.025) > 1e-9)
    assert (test.p_greater < 0.025) == (test.low > 0)


@pytest.mark.parametrize(("value", "greater"), [(0.1, 1 / 8), (-0.1, 1.0), (0.0, 0.5)])
def test_identical_differences_are_decided_by_their_sign(value, greater):
    test = stats.paired_test([value] * 3)
    assert (test.effect, test.sd, test.low, test.high) == (value, 0.0, value, value)
    assert (test.p_greater, test.p_less) == (greater, {1 / 8: 1.0, 1.0: 1 / 8, 0.5: 0.5}[greater])


def test_differences_that_agree_up_to_rounding_count_as_identical():
    rounded = [0.9 - 0.6, 0.8 - 0.5, 0.3]
    assert len(set(rounded)) > 1
    assert stats.paired_test(rounded).sd == 0
    on_the_margin = stats.not_greater(rounded, margin=0.3)
    assert (on_the_margin.p, on_the_margin.p_beyond) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("values", "step"),
    [
        ([12 / 360, 7 / 360, 30 / 360], 1 / 360),
        ([12 / 360, 18 / 360, 30 / 360], 6 / 360),  # a multiple of it: stricter
        ([12 / 360 - 5 / 360, 3 / 360, 0.0, -1 / 360], 1 / 360),
        ([51 / 517, 39 / 517, 3 / 1024], 3 / (517 * 1024)),
        ([100, 250, 0], 50),
        ([0.0, 0.0], 0),
        ([], 0),
        ([0.25, math.nan], 0.25),
        ([0.0334813, math.pi / 7, 0.123456789], 0),
        (np.random.default_rng(0).normal(size=5).astype(np.float32).astype(float).tolist(), 0),
    ],
)
def test_the_step_of_counts_is_found_in_their_values(values, step):
    assert stats.step(values) == pytest.approx(step, rel=1e-12)


def test_the_spread_of_counts_is_at_least_a_step():
    """By hand: three times 2 of 100 more, spread 1 of 100."""
    test = stats.paired_test([0.02] * 3, step=0.01)
    assert test.p_greater == pytest.approx(p_of_t_with_2_degrees(2 * math.sqrt(3)))
    assert (test.low, test.high) == pytest.approx(
        (0.02 - 4.30265273 / 100 / math.sqrt(3), 0.02 + 4.30265273 / 100 / math.sqrt(3))
    )
    within = stats.not_greater([0.0] * 3, margin=0.03, step=0.01)  # variance 1 + 3 steps
    assert within.p == pytest.approx(p_of_t_with_2_degrees(1.5 * math.sqrt(3)))
    assert within.high == pytest.approx(2.919985580355516 * 0.02 / math.sqrt(3))
    wide = [0.1, 0.3, 0.5]
    assert stats.paired_test(wide, step=0.01) == stats.paired_test(wide)


def test_many_samples_at_once_are_each_as_alone():
    many = np.random.default_rng(0).integers(-3, 4, (50, 4)) / 100
    above, below = stats.one_sided(many, 0.01, stats.least_spread(0.01, 0.01))
    alone = [stats.not_greater(each, 0.01, step=0.01) for each in many]
    assert (above.tolist(), below.tolist()) == ([each.p_beyond for each in alone], [each.p for each in alone])
    families = above.reshape(10, 5)
    assert stats.holm(families).tolist() == [stats.holm(family) for family in families]


def test_equivalence_by_hand():
    test = stats.equivalence([-1.0, 0.0, 1.0], margin=2.0)
    half = 2.919985580355516 / math.sqrt(3)  # the 90 % interval: the 5 % tail with 2 degrees of freedom
    assert (test.low, test.high) == pytest.approx((-half, half))
    assert test.p == pytest.approx(p_of_t_with_2_degrees(2 * math.sqrt(3)))
    assert test.p_beyond == 1


@pytest.mark.parametrize("sign", [1, -1])
def test_equivalence_off_centre_by_hand(sign):
    near = p_of_t_with_2_degrees(2 * math.sqrt(3))  # 2 units from the nearer end
    inside = stats.equivalence([sign * value for value in (0.0, 1.0, 2.0)], margin=3.0)
    outside = stats.equivalence([sign * value for value in (4.0, 5.0, 6.0)], margin=3.0)
    assert inside.p == pytest.approx(near)
    assert outside.p_beyond == pytest.approx(2 * near)
    assert outside.p == pytest.approx(1 - near)


def test_not_greater_by_hand():
    near = p_of_t_with_2_degrees(2 * math.sqrt(3))
    test = stats.not_greater([0.0, 1.0, 2.0], margin=3.0)
    assert (test.p, test.p_beyond) == pytest.approx((near, 1 - near))
    beyond = stats.not_greater([4.0, 5.0, 6.0], margin=3.0)
    assert (beyond.p, beyond.p_beyond) == pytest.approx((1 - near, near))


@reproducible
@given(samples, st.integers(1, 4000).map(lambda k: k / 1000), st.sampled_from([0.01, 0.05, 0.1]))
def test_margin_tests_agree_with_their_interval(x, margin, alpha):
    equal, below = stats.equivalence(x, margin, alpha), stats.not_greater(x, margin, alpha)
    ends = [abs(end - bound) for end in (equal.low, equal.high) for bound in (margin, -margin)]
    assume(min(ends) > 1e-9)
    assert (equal.p < alpha) == (-margin < equal.low and equal.high < margin)
    assert (below.p < alpha) == (below.high < margin)
    assert (below.p_beyond < alpha) == (below.low > margin)
    assert (equal.p_beyond < 2 * alpha) == (equal.low > margin or equal.high < -margin)


@pytest.mark.parametrize("margin", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("test", [stats.equivalence, stats.not_greater])
def test_margin_must_be_positive(test, margin):
    with pytest.raises(UsageError, match="margin"):
        test([1.0, 2.0], margin)


def test_holm_by_hand():
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.7, 0.6]) == [1.0, 1.0]
    assert stats.holm([]) == []


@reproducible
@given(p_values, st.randoms(use_true_random=False))
def test_holm_is_monotone_conservative_and_blind_to_order(p, random):
    adjusted = stats.holm(p)
    assert all(raw <= after <= 1 for raw, after in zip(p, adjusted, strict=True))
    assert all(after <= min(1, len(p) * raw) for raw, after in zip(p, adjusted, strict=True))
    by_size = [after for _, after in sorted(zip(p, adjusted, strict=True))]
    assert by_size == sorted(by_size)
    order = list(range(len(p)))
    random.shuffle(order)
    assert stats.holm([p[i] for i in order]) == [adjusted[i] for i in order]


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_holm_refuses_what_is_no_probability(p):
    with pytest.raises(UsageError, match="untested claim"):
        stats.holm([0.5, p])


@pytest.mark.parametrize("n", [2, 3, 10, 300])
@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_power_of_no_effect_is_alpha(n, alpha):
    assert stats.power(0.0, 1.0, n, alpha) == pytest.approx(alpha)


def test_seeds_of_the_standard_tables():
    # One-sided paired t test, alpha 0.05, power 0.8: Cohen's d of 0.2, 0.5 and 0.8.
    assert [stats.seeds_to_decide(d, 1.0) for d in (0.2, 0.5, 0.8)] == [156, 27, 12]


@pytest.mark.parametrize(("n", "effect", "margin"), [(3, 0.0, 3.0), (5, 0.5, 2.0), (12, -0.4, 1.0)])
def test_power_agrees_with_simulated_tests(n, effect, margin):
    from scipy import stats as reference

    x = np.random.default_rng(0).normal(effect, 1.0, size=(40_000, n))
    half = reference.t.isf(0.05, n - 1) * x.std(axis=1, ddof=1) / math.sqrt(n)
    low, high = x.mean(axis=1) - half, x.mean(axis=1) + half
    error = 4 * 0.5 / math.sqrt(len(x))  # four standard errors of a proportion, at most
    assert stats.power(effect, 1.0, n) == pytest.approx(np.mean(low > 0), abs=error)
    equivalent = np.mean((low > -margin) & (high < margin))
    assert stats.power(effect, 1.0, n, margin=margin) == pytest.approx(equivalent, abs=error)


@pytest.mark.parametrize("n", [3, 10, 200])
def test_equivalence_power_far_from_one_end_is_that_of_the_other(n):
    far = stats.power(99.7, 1.0, n, margin=100.0)
    assert far == pytest.approx(stats.power(0.3, 1.0, n), abs=1 / 1000)


def test_power_without_spread_is_certainty():
    assert stats.power(0.1, 0.0, 3) == 1
    assert stats.power(0.0, 0.0, 3) == 0
    assert stats.power(-0.1, 0.0, 3) == 0
    assert stats.power(0.1, 0.0, 3, margin=0.2) == 1
    assert stats.power(0.3, 0.0, 3, margin=0.2) == 0


@reproducible
@given(st.floats(0.3, 3), st.floats(0.1, 1), st.sampled_from([None, 3.5]))
def test_seeds_to_decide_is_the_smallest_that_suffices(effect, sd, margin):
    n = stats.seeds_to_decide(effect, sd, 0.02, target=0.9, margin=margin)
    assert n is not None
    assert stats.power(effect, sd, n, 0.02, margin) >= 0.9
    assert n == 2 or stats.power(effect, sd, n - 1, 0.02, margin) < 0.9


def test_no_number_of_seeds_decides():
    assert stats.seeds_to_decide(0.0, 1.0) is None
    assert stats.seeds_to_decide(-1.0, 1.0) is None
    assert stats.seeds_to_decide(1.0, 1.0, margin=1.0) is None  # on the boundary
    assert stats.seeds_to_decide(0.2, 1.0, limit=155) is None  # 156 would
    assert stats.seeds_to_decide(0.2, 1.0, limit=156) == 156


@pytest.mark.parametrize(
    "arguments",
    [
        {"n": 1},
        {"sd": -1.0},
        {"sd": math.nan},
        {"effect": math.inf},
        {"alpha": 0.0},
        {"alpha": 0.5},
        {"margin": 0.0},
    ],
)
def test_power_refuses_what_it_cannot_mean(arguments):
    with pytest.raises(UsageError, match=rf"\b{next(iter(arguments))}\b"):
        stats.power(**({"effect": 1.0, "sd": 1.0, "n": 3} | arguments))


# Factorial effects


def test_effects_of_an_additive_response_are_its_terms_and_no_interaction():
    cells = np.fromfunction(lambda a, b, c: 0.3 - 0.1 * a + 0.02 * b + 0.0 * c, (2, 2, 2))
    effects = stats.factorial_effects(cells)
    assert effects[0, 0, 0] == pytest.approx(0.3 - 0.05 + 0.01)
    assert effects[1, 0, 0] == pytest.approx(-0.1)
    assert effects[0, 1, 0] == pytest.approx(0.02)
    assert effects[0, 0, 1] == 0
    order = np.indices(cells.shape).sum(0)
    assert np.all(effects[order >= 2] == 0)  # to the bit: residue is no effect


def test_an_interaction_is_half_the_difference_of_the_differences():
    none, second, first, both = 0.5, 0.3, 0.4, 0.35
    effects = stats.factorial_effects(np.array([[none, second], [first, both]]))
    assert effects[1, 0] == pytest.approx((first + both) / 2 - (none + second) / 2)
    assert effects[0, 1] == pytest.approx((second + both) / 2 - (none + first) / 2)
    assert effects[1, 1] == pytest.approx(((both - second) - (first - none)) / 2)


@given(cells=st.lists(thousandths, min_size=8, max_size=8))
@reproducible
def test_effects_hold_the_whole_response(cells):
    """y = mean + half the sum of the signed effects: the effects coding, inverted."""
    cells = np.array(cells).reshape(2, 2, 2)
    effects = stats.factorial_effects(cells)
    effects[0, 0, 0] *= 2
    signs = np.array([-1, 1])
    rebuilt = np.zeros(cells.shape)
    for subset in np.ndindex(2, 2, 2):
        columns = [signs if chosen else np.ones(2) for chosen in subset]
        rebuilt += effects[subset] / 2 * np.einsum("i,j,k->ijk", *columns)
    np.testing.assert_allclose(rebuilt, cells, atol=1e-12)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (np.float64(1.0), "no two-level factorial"),
        (np.zeros((2, 3)), r"shape \(2, 3\)"),
        (np.array([0.1, np.nan]), "not finite"),
    ],
)
def test_cells_that_are_no_factorial_are_refused(cells, message):
    with pytest.raises(UsageError, match=message):
        stats.factorial_effects(np.asarray(cells))
