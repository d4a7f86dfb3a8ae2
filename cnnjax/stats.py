"""Intervals, paired tests, equivalence tests and power for small numbers of seeds.

Runs that share a seed share their initialisation and data order, so two arms are compared by
the differences within each seed: every test here is a one-sample Student t test on them.
"""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from cnnjax.typing import UsageError

Values = Sequence[float] | Float[np.ndarray, " n"]

# Relative size below which a difference is floating-point residue, not an effect. Metrics come
# from float32, whose own resolution is 1e-7, so nothing real is this small.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Summary:
    """Mean, standard deviation (n - 1) and the confidence interval of the mean, in the values' unit."""

    mean: float
    sd: float  # nan for one value
    n: int
    low: float  # nan for one value, like high
    high: float


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


def summarize(values: Values, confidence: float = 0.95) -> Summary:
    """Mean and Student t interval of ``values`` (n,).

    Values that agree to 12 digits have no spread: their interval is the point. A single value has
    an unknown spread: its standard deviation and interval are nan.

    Raises:
      UsageError: no values, a value that is not finite, or a confidence outside (0, 1).
    """
    from scipy import stats

    x = _finite(values)
    _check_between("confidence", confidence, 0.0, 1.0)
    if len(x) == 1:
        return Summary(float(x[0]), math.nan, 1, math.nan, math.nan)
    if _identical(x):
        point = float(x[0])
        return Summary(point, 0.0, len(x), point, point)
    mean, sd = float(x.mean()), float(x.std(ddof=1))
    low, high = stats.t.interval(confidence, len(x) - 1, loc=mean, scale=sd / math.sqrt(len(x)))
    return Summary(mean, sd, len(x), float(low), float(high))


def paired_test(differences: Values, confidence: float = 0.95) -> PairedTest:
    """The t test of the mean of paired ``differences`` (n,) against 0.

    Where all differences are identical, p is 0 or 1 by their sign, the limit of a vanishing spread,
    and 0.5 on both sides where they are 0, the p-value of a zero mean at any spread. With n = 1
    both p-values are nan.

    Raises:
      UsageError: as ``summarize``.
    """
    s = summarize(differences, confidence)
    above, below = _p_sides(_finite(differences), 0.0)
    return PairedTest(s.mean, s.sd, s.n, s.low, s.high, p_greater=above, p_less=below)


def equivalence(differences: Values, margin: float, alpha: float = 0.05) -> MarginTest:
    """Two one-sided t tests that the mean difference lies within (-margin, +margin).

    p < alpha exactly where the 1 - 2 alpha interval lies inside the margin. ``p_beyond`` is for the
    opposite finding, a mean outside on either side; it is doubled for the two ways of being outside.
    (Schuirmann, "A comparison of the two one-sided tests procedure and the power approach", 1987.)

    Raises:
      UsageError: as ``summarize``, or the margin is not above 0.
    """
    s, x = _margin_summary(differences, margin, alpha)
    above_low, below_low = _p_sides(x, -margin)
    above_high, below_high = _p_sides(x, margin)
    p = max(above_low, below_high)
    p_beyond = min(1.0, 2.0 * min(below_low, above_high))
    return MarginTest(s.mean, s.sd, s.n, s.low, s.high, p, p_beyond)


def not_greater(differences: Values, margin: float, alpha: float = 0.05) -> MarginTest:
    """The non-inferiority test: a one-sided t test that the mean difference is below +margin.

    p < alpha exactly where ``high`` is below the margin, p_beyond < alpha where ``low`` is above it.
    For "not less by more than the margin", negate the differences.

    Raises:
      UsageError: as ``summarize``, or the margin is not above 0.
    """
    s, x = _margin_summary(differences, margin, alpha)
    above, below = _p_sides(x, margin)
    return MarginTest(s.mean, s.sd, s.n, s.low, s.high, p=below, p_beyond=above)


def holm(p_values: Values) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given; any number of them, also none.

    Rejecting where the adjusted value is below alpha keeps the chance of one or more false
    rejections below alpha, whatever the dependence. (Holm 1979.)

    Raises:
      UsageError: a value outside [0, 1].
    """
    p = np.asarray(p_values, float)
    if not np.all((p >= 0) & (p <= 1)):
        raise UsageError(f"p-values {p.tolist()} must lie in [0, 1]; give an untested claim 1.")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted.tolist()


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


def _p_sides(x: Float[np.ndarray, " n"], bound: float) -> tuple[float, float]:
    """One-sided p-values that the mean is above and that it is below ``bound``."""
    from scipy import stats

    if len(x) == 1:
        return math.nan, math.nan
    if _identical(x):
        if abs(x[0] - bound) <= ROUNDING * abs(bound):
            return 0.5, 0.5
        return float(x[0] < bound), float(x[0] > bound)
    above, below = (stats.ttest_1samp(x, bound, alternative=side).pvalue for side in ("greater", "less"))
    return float(above), float(below)


def _margin_summary(differences: Values, margin: float, alpha: float) -> tuple[Summary, Float[np.ndarray, " n"]]:
    _checked_margin(margin)
    _check_between("alpha", alpha, 0.0, 0.5)
    return summarize(differences, confidence=1.0 - 2.0 * alpha), _finite(differences)


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
