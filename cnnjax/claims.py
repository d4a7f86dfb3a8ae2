"""Claims: what is asserted, the rule that will judge it, and the verdict on the runs' differences.

A claim is written down before any run. Its sample is one number per seed: a difference between
arms that share the seed, or a difference of differences::

    error = functools.partial(by_seed, rows, "train_error", diverged=0.9)
    deep, shallow = error({"residual": False, "depth": 56}), error({"residual": False, "depth": 20})
    deep_residual, shallow_residual = ...
    verdicts = judge(
        [DEEPER_IS_WORSE, RESIDUAL_NARROWS_THE_GAP],
        {
            "deeper-is-worse": contrast([deep], [shallow]),
            "residual-narrows-the-gap": contrast([deep, shallow_residual], [shallow, deep_residual]),
        },
    )
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cnnjax import stats
from cnnjax.typing import UsageError, unknown

ALPHA = 0.05
MIN_SEEDS = 3
POWER = 0.8  # aimed at by ``Verdict.seeds_to_decide``
MAX_SEEDS = 1000

Outcome = Literal["reproduced", "refuted", "inconclusive"]
Row = Mapping[str, Any]

# The test of claims that are identities: they hold or fail for each case, and no seed decides anything.
EXACT = "exact"

# By test: where the mean reproduces the claim, how that is tested, where it refutes it. {m}: the margin.
_RULES: dict[str, tuple[str, str, str]] = {
    "greater": ("is above 0", "one-sided t test", "is below 0"),
    "less": ("is below 0", "one-sided t test", "is above 0"),
    "not_greater": ("is below {m}", "one-sided non-inferiority t test", "is above {m}"),
    "not_less": ("is above -{m}", "one-sided non-inferiority t test", "is below -{m}"),
    "equivalent": (
        "is between -{m} and {m}",
        "two one-sided t tests",
        "is outside -{m} to {m} on either side",
    ),
}


@dataclass(frozen=True)
class Claim:
    """One assertion about the mean of a per-seed difference, or an exact one about every case.

    Raises:
      UsageError: an unknown test, or a margin that the test has no use for or lacks.
    """

    id: str  # "deeper-plain"
    statement: str  # one sentence
    source: str  # "S2:205-211; S3:589"
    test: str  # greater, less, not_greater, not_less, equivalent or exact
    margin: float = 0.0  # in the unit of the effect: the largest difference that does not matter, or of rounding
    unit: str = ""  # of the effect: "training error, fraction"
    condition: str = ""  # what the runs must fulfil for the claim to be judged at all, for people

    def __post_init__(self):
        if self.test not in (*_RULES, EXACT):
            raise unknown("test of a claim", self.test, (*_RULES, EXACT))
        if self.test in ("greater", "less"):
            if self.margin != 0:
                raise UsageError(
                    f"Claim {self.id!r}: the test {self.test!r} compares with 0, so margin={self.margin} must go."
                )
        elif not (self.margin > 0 and math.isfinite(self.margin)):
            raise UsageError(
                f"Claim {self.id!r}: the test {self.test!r} needs a margin above 0, got {self.margin}; "
                "give the largest difference that does not matter."
            )

    @property
    def rule(self) -> str:
        """The decision rule as an English sentence."""
        if self.test == EXACT:
            return (
                f"exact: reproduced if in every case the deviation is at most {self.margin:g} (floating-point "
                "rounding), otherwise refuted; nothing is trained"
            )
        reproduced, test, refuted = (part.format(m=f"{self.margin:g}") for part in _RULES[self.test])
        return (
            f"reproduced if the paired mean difference {reproduced} ({test}, Holm-adjusted p < {ALPHA:g}, "
            f"n >= {MIN_SEEDS}); refuted if it {refuted} by the same standard; otherwise inconclusive"
            + (f"; judged only where {self.condition}" if self.condition else "")
        )


@dataclass(frozen=True)
class Verdict:
    """What the runs say about one claim. Numbers that the sample is too small for are nan.

    ``seeds_to_decide`` takes the observed effect and spread for the true ones. It plans a fresh run:
    adding seeds until a verdict appears would make false verdicts likelier than stated.
    """

    id: str
    statement: str
    source: str
    rule: str
    unit: str
    verdict: Outcome
    effect: float  # mean difference over the seeds
    interval: tuple[float, float]  # 95 %, two-sided and uncorrected: the rule decides, not this
    n: int
    p: float  # that the claim is reproduced, before correction
    p_adjusted: float  # after Holm's correction over the claims judged together
    seeds_to_decide: int | None  # in all, for a power of 0.8; only where inconclusive
    note: str


def judge(claims: Sequence[Claim], samples: Mapping[str, Sequence[float]]) -> list[Verdict]:
    """Judges ``claims`` together on ``samples``: by claim id, one paired difference per seed.

    Holm's correction runs over the reproduction p-values of all the claims and, separately, over
    the refutation p-values, so the chance of any false "reproduced" is at most 5 %, and that of any
    false "refuted" likewise. A claim with fewer than 3 seeds is not tested but still counts. Exact
    claims are no part of this: their sample is a deviation for each case, and the largest decides.

    Raises:
      UsageError: two claims of one id, a sample of no claim, or a difference that is not finite.
    """
    ids = [claim.id for claim in claims]
    for name, count in Counter(ids).items():
        if count > 1:
            raise UsageError(f"{count} claims have the id {name!r}; give each its own.")
    for name in samples:
        if name not in ids:
            raise unknown("claim", name, ids)

    tested = [claim for claim in claims if claim.test != EXACT]
    cases = [list(samples.get(claim.id, ())) for claim in tested]
    summaries = [_summary(claim, sample) for claim, sample in zip(tested, cases, strict=True)]
    p_values = [_p_values(claim, sample) for claim, sample in zip(tested, cases, strict=True)]
    reproduce = _corrected([p for p, _ in p_values])
    refute = _corrected([p for _, p in p_values])
    judged = {c.id: _verdict(c, s, r, f) for c, s, r, f in zip(tested, summaries, reproduce, refute, strict=True)}
    exact = {claim.id: _exact(claim, list(samples.get(claim.id, ()))) for claim in claims if claim.test == EXACT}
    return [{**judged, **exact}[claim.id] for claim in claims]


def withhold(verdicts: Sequence[Verdict], claim: str, reason: str) -> list[Verdict]:
    """The verdicts with that of one claim made inconclusive, because what its rule presupposes was not met."""
    return [
        dataclasses.replace(v, verdict="inconclusive", seeds_to_decide=None, note=reason) if v.id == claim else v
        for v in verdicts
    ]


def to_json(experiment: str, preset: str, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """The content of ``verdict.json``: plain lists and numbers, null for what is not known (nan)."""
    claims = [{name: _plain(value) for name, value in dataclasses.asdict(verdict).items()} for verdict in verdicts]
    return {"experiment": experiment, "preset": preset, "claims": claims}


def measured(assignment: Mapping[str, Any], seed: int, metrics: Mapping[str, float]) -> dict[str, Any]:
    """A row of what was found without training, in the form that ``by_seed`` and the figures read."""
    return {"assignment": dict(assignment), "seed": seed, "status": "done", "metrics": dict(metrics)}


def by_seed(
    rows: Iterable[Row], metric: str, where: Mapping[str, Any], diverged: float | None = None
) -> dict[int, float]:
    """The metric of the one run of each seed that matches ``where``, in seed order.

    Failed runs are left out. So are diverged ones, unless ``diverged`` gives the value to count them
    with: dropping them flatters an arm that diverges, so prefer a value where one is natural, such
    as the error of chance.

    Args:
      rows: ``{"assignment": {...}, "seed": int, "status": "done" | "diverged" | "failed",
        "metrics": {name: float}}``.
      metric: a name in ``metrics``.
      where: values that a row's assignment, or its ``seed``, must have.
      diverged: the value of a diverged run, in the metric's unit.

    Raises:
      UsageError: an unknown axis or metric, two runs of one seed that match, a finished run whose
        metric is not finite, or a ``diverged`` that is not.
    """
    if diverged is not None and not math.isfinite(diverged):
        raise UsageError(f"diverged={diverged} must be a finite value, or None to drop diverged runs.")
    rows = list(rows)
    axes = {"seed"}.union(*(row["assignment"] for row in rows))
    for axis in where:
        if rows and axis not in axes:
            raise unknown("axis", axis, axes)

    matching: dict[int, Row] = {}
    for row in rows:
        point = {**row["assignment"], "seed": row["seed"]}
        if any(axis not in point or point[axis] != value for axis, value in where.items()):
            continue
        if row["seed"] in matching:
            raise _ambiguous(where, matching[row["seed"]], row)
        matching[row["seed"]] = row

    values: dict[int, float] = {}
    for seed, row in sorted(matching.items()):
        if row["status"] == "done":
            values[seed] = _metric(row, metric)
        elif row["status"] == "diverged" and diverged is not None:
            values[seed] = diverged
    return values


def chance(rows: Iterable[Row]) -> float:
    """The error of guessing between equally frequent classes: what the error of a diverged run is worth."""
    return next((1 - 1 / row["classes"] for row in rows if row["status"] == "diverged"), 1.0)  # 1 where none did


def contrast(plus: Sequence[Mapping[int, float]], minus: Sequence[Mapping[int, float]]) -> list[float]:
    """Sum of the ``plus`` terms less the ``minus`` terms, for each seed that all have, in seed order.

    Terms come from ``by_seed``. A result that is only floating-point residue of its terms is 0:
    0.1 + 0.5 - 0.2 - 0.4 would otherwise be an effect of -6e-17, significant for want of spread.
    """
    terms = [(1.0, term) for term in plus] + [(-1.0, term) for term in minus]
    seeds = sorted(set.intersection(*(set(term) for _, term in terms))) if terms else []
    differences = []
    for seed in seeds:
        signed = [sign * term[seed] for sign, term in terms]
        residue = stats.ROUNDING * sum(abs(value) for value in signed)
        total = sum(signed)
        differences.append(0.0 if abs(total) <= residue else total)
    return differences


def paired(
    rows: Iterable[Row],
    metric: str,
    where_a: Mapping[str, Any],
    where_b: Mapping[str, Any],
    diverged: float | None = None,
) -> list[float]:
    """metric(a) - metric(b) for each seed that has both, in seed order; see ``by_seed``."""
    rows = list(rows)
    a, b = (by_seed(rows, metric, where, diverged) for where in (where_a, where_b))
    return contrast([a], [b])


def _exact(claim: Claim, deviations: Sequence[float]) -> Verdict:
    """Every case must hold; a deviation that is not a number does not."""
    worst = max(deviations, key=lambda value: math.inf if math.isnan(value) else abs(value), default=math.nan)
    holds = bool(deviations) and abs(worst) <= claim.margin
    return _said_of(
        claim,
        verdict="inconclusive" if not deviations else "reproduced" if holds else "refuted",
        effect=worst,
        interval=(math.nan, math.nan),
        n=len(deviations),
        p=math.nan,
        p_adjusted=math.nan,
        seeds_to_decide=None,
        note=f"the largest deviation in {len(deviations)} cases" if deviations else "no case was computed",
    )


def _said_of(claim: Claim, **found: Any) -> Verdict:
    """A verdict in its claim's words."""
    return Verdict(
        id=claim.id, statement=claim.statement, source=claim.source, rule=claim.rule, unit=claim.unit, **found
    )


@dataclass(frozen=True)
class _Evidence:
    """The case for one side of a claim."""

    p: float
    p_adjusted: float
    alpha: float  # what p must fall below, given how many of the claims are still undecided


def _corrected(p_values: Sequence[float]) -> list[_Evidence]:
    """Holm's correction; nan marks a claim that is not tested and so cannot be rejected."""
    adjusted = stats.holm([1.0 if math.isnan(p) else p for p in p_values])
    undecided = sum(p >= ALPHA for p in adjusted)
    alpha = ALPHA / max(undecided, 1)
    return [
        _Evidence(p, math.nan if math.isnan(p) else after, alpha) for p, after in zip(p_values, adjusted, strict=True)
    ]


def _summary(claim: Claim, sample: Sequence[float]) -> stats.Summary:
    if not sample:
        return stats.Summary(math.nan, math.nan, 0, math.nan, math.nan)
    try:
        return stats.summarize(sample)
    except UsageError as error:
        raise UsageError(f"Claim {claim.id!r}: {error}") from None


def _p_values(claim: Claim, sample: Sequence[float]) -> tuple[float, float]:
    """p for reproducing and for refuting the claim; nan where there are too few seeds to test."""
    if len(sample) < MIN_SEEDS:
        return math.nan, math.nan
    if claim.test == "equivalent":
        within = stats.equivalence(sample, claim.margin)
        return within.p, within.p_beyond
    towards = sample if claim.test in ("greater", "not_greater") else [-value for value in sample]
    if claim.test in ("greater", "less"):
        test = stats.paired_test(towards)
        return test.p_greater, test.p_less
    below = stats.not_greater(towards, claim.margin)
    return below.p, below.p_beyond


def _verdict(claim: Claim, summary: stats.Summary, reproduce: _Evidence, refute: _Evidence) -> Verdict:
    outcome: Outcome = "inconclusive"
    if reproduce.p_adjusted < ALPHA:
        outcome = "reproduced"
    elif refute.p_adjusted < ALPHA:
        outcome = "refuted"

    notes = [_sample_note(summary)]
    seeds = None
    if outcome == "refuted":
        notes.append(f"refutation p = {refute.p:.2g}, Holm-adjusted {refute.p_adjusted:.2g}")
    elif outcome == "inconclusive" and summary.n >= 2:
        seeds, power_note = _seeds_to_decide(claim, summary, reproduce.alpha, refute.alpha)
        notes.append(power_note)
    return _said_of(
        claim,
        verdict=outcome,
        effect=summary.mean,
        interval=(summary.low, summary.high),
        n=summary.n,
        p=reproduce.p,
        p_adjusted=reproduce.p_adjusted,
        seeds_to_decide=seeds,
        note="; ".join(note for note in notes if note),
    )


def _sample_note(summary: stats.Summary) -> str:
    if summary.n == 0:
        return "no seed has a result: its runs are missing, failed or diverged"
    if summary.n < MIN_SEEDS:
        return f"{summary.n} of the {MIN_SEEDS} seeds that a verdict needs"
    if summary.sd == 0:
        same = f"the same ({summary.mean:.6g})" if summary.mean else "exactly 0"
        return f"all {summary.n} differences are {same}"
    return ""


def _seeds_to_decide(
    claim: Claim, summary: stats.Summary, alpha_reproduce: float, alpha_refute: float
) -> tuple[int | None, str]:
    """Seeds at which the side that the mean points to would win with a chance of ``POWER``."""
    distance = _distance(claim, summary.mean)
    if distance == 0:
        return None, "the mean points to neither side"
    side, alpha = ("reproduced", alpha_reproduce) if distance > 0 else ("refuted", alpha_refute)
    if claim.test == "equivalent" and distance > 0:
        seeds = stats.seeds_to_decide(summary.mean, summary.sd, alpha, POWER, MAX_SEEDS, margin=claim.margin)
    else:
        tails = 2 if claim.test == "equivalent" else 1
        seeds = stats.seeds_to_decide(abs(distance), summary.sd, alpha / tails, POWER, MAX_SEEDS)
    if seeds is None:
        return None, f"the mean points to {side!r}, but {MAX_SEEDS} seeds would not decide it"
    seeds = max(seeds, MIN_SEEDS)
    return seeds, f"the mean points to {side!r}: {seeds} seeds would decide it with power {POWER:g}"


def _distance(claim: Claim, effect: float) -> float:
    """How far the effect lies on the reproducing side of the claim's boundary; negative beyond it."""
    towards = {
        "greater": effect,
        "less": -effect,
        "not_greater": claim.margin - effect,
        "not_less": claim.margin + effect,
        "equivalent": claim.margin - abs(effect),
    }[claim.test]
    return 0.0 if abs(towards) <= stats.ROUNDING * claim.margin else towards


def _metric(row: Row, metric: str) -> float:
    if metric not in row["metrics"]:
        raise unknown("metric", metric, row["metrics"])
    value = float(row["metrics"][metric])
    if not math.isfinite(value):
        raise UsageError(
            f"The finished run {row['assignment']} of seed {row['seed']} has {metric} = {value}; "
            "choose a metric that is finite there, or leave the run out of the rows."
        )
    return value


def _ambiguous(where: Mapping[str, Any], first: Row, second: Row) -> UsageError:
    a, b = first["assignment"], second["assignment"]
    differ = [axis for axis in sorted({*a, *b}) if axis not in a or axis not in b or a[axis] != b[axis]]
    remedy = (
        f"they differ in {', '.join(f'{axis} ({a.get(axis)!r}, {b.get(axis)!r})' for axis in differ)}; "
        "add that to the condition"
        if differ
        else "they have the same assignment; remove one of the rows"
    )
    return UsageError(f"Two runs of seed {first['seed']} match {dict(where)}: {remedy}.")


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
