"""Families of claims on counts of errors with no effect, or one exactly at the margin: each reproduction is false."""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from benchmarks.faults.finding import Finding, Place
from cnnjax import claims, stats

PICTURES = 360  # that a metric is a fraction of
MEANS = (0.2, 1.0, 3.0, 10.0, 40.0)  # errors of an arm
MARGINS = (2, 4, 8)  # errors
LARGEST = 10  # claims of a family
SEEDS = range(3, 11)
ALLOWED = 0.05
DRAWS = 20_000  # families at once

# How the errors of two arms scatter, by name: independently; four of five errors being common to both, so that most
# differences are 0 or 1; with a difficulty of the seed, skewed, that both share; and each with one of its own.
SCATTERS = ("independent", "ties", "shared difficulty", "own difficulty")


class Cell(NamedTuple):
    """A kind of claims and of counts, and how many seeds there are."""

    test: str
    margin: int
    scatter: str
    mean: float
    seeds: int


def cells() -> Iterator[Cell]:
    """All that are simulated; ``less`` and ``not_less`` are mirror images."""
    for seeds, scatter, mean in itertools.product(SEEDS, SCATTERS, MEANS):
        yield Cell("greater", 0, scatter, mean, seeds)
        for test, margin in itertools.product(("not_greater", "equivalent"), MARGINS):
            yield Cell(test, margin, scatter, mean, seeds)


def differences(cell: Cell, families: int, random: np.random.Generator) -> np.ndarray:
    """Fractions, (families, claims, seeds): one arm less the other, the true difference being the margin."""
    shape = (families, LARGEST, cell.seeds)
    mean: float | np.ndarray = cell.mean
    common = np.zeros(shape, int)
    if cell.scatter == "ties":
        common, mean = random.poisson(0.8 * cell.mean, shape), 0.2 * cell.mean
    elif cell.scatter == "shared difficulty":
        mean = random.gamma(2.0, cell.mean / 2, shape)
    one, other = (
        common
        + (
            random.poisson(random.gamma(2.0, cell.mean / 2, shape))
            if cell.scatter == "own difficulty"
            else random.poisson(mean, shape)
        )
        for _ in range(2)
    )
    more = random.poisson(cell.margin, shape)
    return (one + more) / PICTURES - other / PICTURES


def p_values(cell: Cell, found: np.ndarray) -> np.ndarray:
    """Of each claim's reproduction, (families, claims): as ``claims.judge`` computes them, many at once."""
    step, margin = 1 / PICTURES, cell.margin / PICTURES
    least = stats.least_spread(step, margin)
    if cell.test == "greater":
        return stats.one_sided(found, 0.0, least)[0]
    _, below = stats.one_sided(found, margin, least)
    if cell.test == "not_greater":
        return below
    above, _ = stats.one_sided(found, -margin, least)
    return np.maximum(above, below)


def false_shares(cell: Cell, families: int, random: np.random.Generator) -> np.ndarray:
    """By the number of claims, from one on: the share of families of which a claim is reproduced."""
    count = np.zeros(LARGEST)
    for start in range(0, families, DRAWS):
        p = p_values(cell, differences(cell, min(DRAWS, families - start), random))
        # The smallest of Holm's adjusted p-values is the smallest p-value times their number.
        smallest = np.minimum.accumulate(p, -1) * np.arange(1, LARGEST + 1)
        count += (smallest < claims.ALPHA).sum(0)
    return count / families


def judged_otherwise(cell: Cell, found: np.ndarray) -> int:
    """In how many of the families ``claims.judge`` does not say what is counted here."""
    differ = 0
    asserted = [claims.Claim(f"{k}", "A.", "none", cell.test, cell.margin / PICTURES) for k in range(LARGEST)]
    counted = stats.holm(p_values(cell, found)) < claims.ALPHA
    for family, expected in zip(found, counted, strict=True):
        samples = {claim.id: claims.Sample(sample) for claim, sample in zip(asserted, family.tolist(), strict=True)}
        for sample in samples.values():
            sample.step = 1 / PICTURES
        verdicts = [verdict.verdict == "reproduced" for verdict in claims.judge(asserted, samples)]
        differ += verdicts != expected.tolist()
    return differ


def false_verdicts(place: Place) -> Finding:
    """Families of 1 to 10 claims, 3 to 10 seeds; more than 5 % of a kind must not be false."""
    families, again, checked = (400, 20_000, 1) if place.quick else (10_000, 100_000, 3)
    random = np.random.default_rng(0)
    chosen = list(cells())[:: 29 if place.quick else 1]
    worst: dict[str, tuple[float, str]] = {}
    problems, repeated, differ = [], 0, 0
    for cell in chosen:
        shares = false_shares(cell, families, random)
        if shares.max() > ALLOWED:
            shares, repeated = false_shares(cell, again, random), repeated + 1
        size = int(shares.argmax())
        where = f"{size + 1} claims, {cell}"
        if shares[size] > ALLOWED:
            problems.append(f"{shares[size]:.4f} of the families are false: {where}")
        worst[cell.test] = max(worst.get(cell.test, (0.0, "")), (float(shares[size]), where))
        differ += judged_otherwise(cell, differences(cell, checked, random))
    problems += [f"claims.judge says otherwise of {differ} families"] if differ else []
    figures: dict[str, Any] = {test: {"false": round(share, 4), "of": where} for test, (share, where) in worst.items()}
    return Finding.of(
        problems, cells=len(chosen) * LARGEST, families=families, repeated=repeated, families_then=again,
        verified=len(chosen) * checked, worst=figures,
    )  # fmt: skip
