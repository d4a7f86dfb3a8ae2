"""Intervals, paired tests, equivalence tests and power for small numbers of seeds.

Runs that share a seed share their initialisation and data order, so two arms are compared by
the differences within each seed: every test here is a one-sample Student t test on them.

An error is a count: with N examples it moves in steps of 1 / N. A few differences of such numbers are often equal, or
nearly so, by chance, and a t test that believes in so small a spread finds effects where there are none. So every test
takes the ``step`` of the metric and a spread of at least ``least_spread(step, bound)``.
"""

import bisect
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import Float

from cnnjax.typing import UsageError

Values = Sequence[float] | Float[np.ndarray, " n"]

# Relative size below which a difference is floating-point residue, not an effect. Metrics come
# from float32, whose own resolution is 1e-7, so nothing real is this small.
ROUNDING = 1e-12

FINEST = 1_000_000  # denominator of a metric's step, from which on the metric counts as continuous


@dataclass(frozen=True)
class Summary:
    """Mean, standard deviation (n - 1) and the confidence interval of the mean, in the values' unit."""

    mean: float
    sd: float  # nan for one value
    n: int
    low: float  # nan for one value, like high
    high: float


NOTHING = Summary(math.nan, math.nan, 0, math.nan, math.nan)  # of no values


@dataclass(frozen=True)
class PairedTest:
    """A one-sample t test of paired differences against 0, on each side."""

    effect: float  # the mean difference
    sd: float
    n: int
    low: float  # two-sided confidence interval of the effect
    high: float
    p_greater: float  # small where the effect is above 0
    p_less: float


@dataclass(frozen=True)
class MarginTest:
    """A test of the mean difference against a margin.

    ``low`` and ``high`` are the two-sided 1 - 2 alpha interval, because that is the one whose ends
    are compared with the margin when each side is tested at alpha.
    """

    effect: float
    sd: float
    n: int
    low: float
    high: float
    p: float  # small where the effect keeps within the margin
    p_beyond: float  # small where the effect lies beyond the margin


def step(values: Iterable[float]) -> float:
    """The step of a metric that counts: the largest number that all ``values`` are whole multiples of.

    0 for a continuous metric, whose values have no such number above ``1 / FINEST``, and where all values are 0, which
    tell nothing. Few values may by chance have a larger common divisor than the metric has: then tests are stricter.
    """
    largest = Fraction(0)
    for value in {abs(float(value)) for value in values} - {0.0}:
        if not math.isfinite(value):
            continue
        exact = Fraction(value).limit_denominator(FINEST)
        if abs(float(exact) - value) > 2e-15 * max(1.0, value):  # of a quotient of integers, or a sum of a few
            return 0.0
        denominator = math.lcm(largest.denominator, exact.denominator)
        largest = Fraction(math.gcd(int(largest * denominator), int(exact * denominator)), denominator)
        if largest.denominator > FINEST:
            return 0.0
    return float(largest)


def least_spread(step: float, bound: float = 0.0) -> float:
    """The smallest standard deviation that differences of counts with this ``step`` are believed to have.

    One step, the coarsest that rounding may hide; and where the mean is compared with a ``bound`` apart from 0, the
    scatter of the counts that make up the bound: that of b events has the variance b (Poisson). Without the latter, the
    skewness of small counts makes false verdicts at a margin up to twice as likely as promised.
    """
    return math.sqrt(step * (step + abs(bound)))


def summarize(values: Values, confidence: float = 0.95, least: float = 0.0) -> Summary:
    """Mean and Student t interval of ``values`` (n,).

    Values that agree to 12 digits have a standard deviation of 0. A single value has an unknown spread: its standard
    deviation and interval are nan.

    Args:
      values: one for each seed.
      confidence: of the interval.
      least: the standard deviation that the interval takes at least; see ``least_spread``.

    Raises:
      UsageError: no values, a value that is not finite, or a confidence outside (0, 1).
    """
    from scipy import stats

    x = _finite(values)
    _check_between("confidence", confidence, 0.0, 1.0)
    if len(x) == 1:
        return Summary(float(x[0]), math.nan, 1, math.nan, math.nan)
    mean, sd = (float(x[0]), 0.0) if _identical(x) else (float(x.mean()), float(x.std(ddof=1)))
    if (spread := max(sd, least)) == 0:
        return Summary(mean, sd, len(x), mean, mean)
    low, high = stats.t.interval(confidence, len(x) - 1, loc=mean, scale=spread / math.sqrt(len(x)))
    return Summary(mean, sd, len(x), float(low), float(high))


def one_sided(
    differences: Float[np.ndarray, "*samples n"], bound: float, least: Float[np.ndarray, "#*samples"] | float = 0.0
) -> tuple[Float[np.ndarray, "*samples"], Float[np.ndarray, "*samples"]]:
    """The t tests that the mean of each sample is above, and that it is below, ``bound``: two p-values for each.

    This is what decides every claim; it takes many samples at once, so that it can be simulated.

    Args:
      differences: samples of n >= 2 along the last axis.
      bound: in their unit.
      least: the standard deviation that is believed at least, of all or of each; see ``least_spread``. Where it is 0
        and the differences of a sample are identical, nothing is known of their spread: p is that of the exact
        sign-flip test, 2^-n or 1 by the side on which they lie, and 0.5 where they are the bound.
    """
    from scipy import special

    x = np.asarray(differences, float)
    n = x.shape[-1]
    identical = np.ptp(x, -1) <= ROUNDING * np.abs(x).max(-1)
    distance = np.where(identical, x[..., 0], x.mean(-1)) - bound
    distance = np.where(identical & (np.abs(distance) <= ROUNDING * abs(bound)), 0.0, distance)
    spread = np.maximum(np.where(identical, 0.0, x.std(-1, ddof=1)), least)
    t = distance * math.sqrt(n) / np.where(spread > 0, spread, 1.0)
    flips = np.where(distance == 0, 0.5, 0.5**n)  # of all sign patterns, the one that was seen
    above = np.where(spread > 0, special.stdtr(n - 1, -t), np.where(t >= 0, flips, 1.0))
    below = np.where(spread > 0, special.stdtr(n - 1, t), np.where(t <= 0, flips, 1.0))
    return above, below


def paired_test(differences: Values, confidence: float = 0.95, step: float = 0.0) -> PairedTest:
    """The t test of the mean of paired ``differences`` (n,) against 0, of a metric with this ``step``.

    With n = 1 both p-values are nan.

    Raises:
      UsageError: as ``summarize``.
    """
    s = summarize(differences, confidence, least_spread(step))
    above, below = _p_sides(_finite(differences), 0.0, step)
    return PairedTest(s.mean, s.sd, s.n, s.low, s.high, p_greater=above, p_less=below)


def equivalence(differences: Values, margin: float, alpha: float = 0.05, step: float = 0.0) -> MarginTest:
    """Two one-sided t tests that the mean difference lies within (-margin, +margin).

    p < alpha exactly where the 1 - 2 alpha interval lies inside the margin. ``p_beyond`` is for the
    opposite finding, a mean outside on either side; it is doubled for the two ways of being outside.
    (Schuirmann, "A comparison of the two one-sided tests procedure and the power approach", 1987.)

    Raises:
      UsageError: as ``summarize``, or the margin is not above 0.
    """
    s, x = _margin_summary(differences, margin, alpha, step)
    above_low, below_low = _p_sides(x, -margin, step)
    above_high, below_high = _p_sides(x, margin, step)
    p = max(above_low, below_high)
    p_beyond = min(1.0, 2.0 * min(below_low, above_high))
    return MarginTest(s.mean, s.sd, s.n, s.low, s.high, p, p_beyond)


def not_greater(differences: Values, margin: float, alpha: float = 0.05, step: float = 0.0) -> MarginTest:
    """The non-inferiority test: a one-sided t test that the mean difference is below +margin.

    p < alpha exactly where ``high`` is below the margin, p_beyond < alpha where ``low`` is above it.
    For "not less by more than the margin", negate the differences.

    Raises:
      UsageError: as ``summarize``, or the margin is not above 0.
    """
    s, x = _margin_summary(differences, margin, alpha, step)
    above, below = _p_sides(x, margin, step)
    return MarginTest(s.mean, s.sd, s.n, s.low, s.high, p=below, p_beyond=above)


def holm(p_values: Values | Float[np.ndarray, "*families n"]) -> Any:
    """Holm's step-down adjusted p-values, in the order given; any number of them, also none.

    Rejecting where the adjusted value is below alpha keeps the chance of one or more false
    rejections below alpha, whatever the dependence. (Holm 1979.)

    Args:
      p_values: of one family, or an array with a family along the last axis.

    Returns:
      A list for one family, an array of the same shape for many.

    Raises:
      UsageError: a value outside [0, 1].
    """
    p = np.asarray(p_values, float)
    if not np.all((p >= 0) & (p <= 1)):
        raise UsageError(f"p-values {p.tolist()} must lie in [0, 1]; give an untested claim 1.")
    order = np.argsort(p, axis=-1, kind="stable")
    sorted_p = np.take_along_axis(p, order, -1)
    stepped = np.maximum.accumulate(sorted_p * np.arange(p.shape[-1], 0, -1), axis=-1)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, np.minimum(stepped, 1.0), -1)
    return adjusted.tolist() if p.ndim == 1 else adjusted


def factorial_effects(cells: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Main effects and interactions of a full two-level factorial with k factors.

    Args:
      cells: shape (2,) * k, one response for each combination of levels: ``cells[0, 1]`` has the first
        factor off and the second one on.

    Returns:
      Shape (2,) * k. The entry with ones at the factors of a set S is the effect of S, the rest being averaged
      over: for one factor the mean with it less the mean without; for two, half of how much more the one
      does with the other than without it; and so on. The entry with zeros alone is the mean of all cells.
      Effects that are only floating-point residue are 0. (Box, Hunter and Hunter, "Statistics for
      Experimenters", 2005, chapter 5.)

    Raises:
      UsageError: a factor without exactly two levels, no factor, or a response that is not finite.
    """
    cells = np.asarray(cells, float)
    if cells.ndim == 0 or set(cells.shape) != {2}:
        raise UsageError(f"Cells of shape {cells.shape} are no two-level factorial: give shape (2,) * factors.")
    if not np.isfinite(cells).all():
        raise UsageError("A cell is not finite: drop that seed, or give a diverged run the error of chance.")
    effects = cells
    for axis in range(cells.ndim):
        low, high = np.moveaxis(effects, axis, 0)
        effects = np.stack([(low + high) / 2, (high - low) / 2], axis)
    effects = 2 * effects
    effects[(0,) * cells.ndim] /= 2
    return np.where(np.abs(effects) <= ROUNDING * np.abs(cells).mean(), 0.0, effects)


def power(effect: float, sd: float, n: int, alpha: float = 0.05, margin: float | None = None) -> float:
    """The chance that a one-sided paired t test at ``alpha`` with ``n`` seeds finds ``effect`` above 0.

    With ``margin``: the chance that the equivalence test finds ``effect`` within the margin. For a
    non-inferiority test give the distance, margin - effect, as the effect.

    Raises:
      UsageError: n below 2, a negative sd, alpha outside (0, 0.5), or a margin not above 0.
    """
    from scipy import stats

    _check_finite(effect=effect, sd=sd)
    _check_between("alpha", alpha, 0.0, 0.5)
    if n < 2 or sd < 0:
        raise UsageError(f"Power needs n >= 2 and sd >= 0, got n={n}, sd={sd}.")
    distance = effect if margin is None else _checked_margin(margin) - abs(effect)
    if sd <= ROUNDING * abs(distance):
        return float(distance > 0)
    error = sd / math.sqrt(n)
    critical = stats.t.isf(alpha, n - 1)
    if margin is None:
        return float(stats.nct.sf(critical, n - 1, effect / error))
    # Given the sample's spread, the mean passes both tests with a normal probability. Average that
    # over 500 quantiles of the spread; being monotone in it, the average is within 1/1000.
    quantiles = (np.arange(500) + 0.5) / 500
    spread = np.sqrt(stats.chi2.ppf(quantiles, n - 1) / (n - 1))
    upper = stats.norm.cdf((margin - effect) / error - critical * spread)
    lower = stats.norm.cdf((-margin - effect) / error + critical * spread)
    return float(np.maximum(0.0, upper - lower).mean())


def seeds_to_decide(
    effect: float,
    sd: float,
    alpha: float = 0.05,
    target: float = 0.8,
    limit: int = 1000,
    margin: float | None = None,
) -> int | None:
    """The smallest n, from 2 to ``limit``, at which ``power`` reaches ``target``; None where none does.

    Raises:
      UsageError: as ``power``, or a target outside (0, 1).
    """
    _check_between("target", target, 0.0, 1.0)
    power(effect, sd, 2, alpha, margin)  # refuses bad arguments also where the answer is None
    if (effect if margin is None else margin - abs(effect)) <= 0:
        return None
    candidates = range(2, limit + 1)
    first = bisect.bisect_left(candidates, True, key=lambda n: power(effect, sd, n, alpha, margin) >= target)
    return candidates[first] if first < len(candidates) else None


def _p_sides(x: Float[np.ndarray, " n"], bound: float, step: float) -> tuple[float, float]:
    """One-sided p-values that the mean is above and that it is below ``bound``."""
    if len(x) == 1:
        return math.nan, math.nan
    above, below = one_sided(x, bound, least_spread(step, bound))
    return float(above), float(below)


def _margin_summary(
    differences: Values, margin: float, alpha: float, step: float
) -> tuple[Summary, Float[np.ndarray, " n"]]:
    _checked_margin(margin)
    _check_between("alpha", alpha, 0.0, 0.5)
    return summarize(differences, 1.0 - 2.0 * alpha, least_spread(step, margin)), _finite(differences)


def _identical(x: Float[np.ndarray, " n"]) -> bool:
    return bool(np.ptp(x) <= ROUNDING * np.abs(x).max())


def _finite(values: Values) -> Float[np.ndarray, " n"]:
    x = np.asarray(values, float)
    if x.size == 0:
        raise UsageError("No values to summarize; give at least one, one per seed.")
    bad = np.flatnonzero(~np.isfinite(x))
    if bad.size:
        raise UsageError(
            f"Value {bad[0]} of {len(x)} is {x[bad[0]]}. A mean over a diverged run says nothing: "
            "drop that seed, or give the run a finite value explicitly (such as the error of chance)."
        )
    return x


def _check_finite(**numbers: float) -> None:
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise UsageError(f"{name} is {number}; estimate it from at least two finite differences.")


def _check_between(name: str, value: float, low: float, high: float) -> None:
    if not low < value < high:
        raise UsageError(f"{name} is {value}; it must lie between {low:g} and {high:g}.")


def _checked_margin(margin: float) -> float:
    if not (margin > 0 and math.isfinite(margin)):
        raise UsageError(f"margin is {margin}; it must be above 0, in the unit of the differences.")
    return margin
