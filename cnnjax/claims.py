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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cnnjax import stats
from cnnjax.samples import BySeed, Sample, by_seed, chance, contrast, mapped, measured, paired
from cnnjax.typing import UsageError, unknown

__all__ = [
    "ALPHA", "EXACT", "MIN_SEEDS", "BySeed", "Claim", "Sample", "Verdict", "by_seed", "chance", "contrast", "judge",
    "mapped", "measured", "paired", "to_json", "withhold",
]  # fmt: skip

# What a p-value must be below, so that at most 5 % of families have a false verdict: the t test presumes differences
# that scatter symmetrically, and those of counts do not quite. With 0.05 it was 5.25 % (benchmarks/faults/chance.py).
ALPHA = 0.045
MIN_SEEDS = 3
POWER = 0.8  # aimed at by ``Verdict.seeds_to_decide``
MAX_SEEDS = 1000

Outcome = Literal["reproduced", "refuted", "inconclusive"]

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
            f"reproduced if the paired mean difference {reproduced} ({test}, spread at least a step of the metric, "
            f"Holm-adjusted p < {ALPHA:g}, n >= {MIN_SEEDS}); refuted if it {refuted} by the same standard; "
            f"otherwise inconclusive" + (f"; judged only where {self.condition}" if self.condition else "")
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
    false "refuted" likewise. A claim with fewer than 3 seeds, or with a difference that is nan because a run diverged,
    is not tested but still counts. Exact claims are no part of this: their sample is a deviation for each case, and the
    largest decides.

    Args:
      claims: that belong together.
      samples: of ``contrast``, which knows the metric's step; of other lists the differences themselves show it.

    Raises:
      UsageError: two claims of one id, a sample of no claim, or a difference that is infinite.
    """
    ids = [claim.id for claim in claims]
    for name, count in Counter(ids).items():
        if count > 1:
            raise UsageError(f"{count} claims have the id {name!r}; give each its own.")
    for name in samples:
        if name not in ids:
            raise unknown("claim", name, ids)

    tested = [claim for claim in claims if claim.test != EXACT]
    cases = [_case(claim, samples.get(claim.id, ())) for claim in tested]
    reproduce = _corrected([case.p_reproduce for case in cases])
    refute = _corrected([case.p_refute for case in cases])
    judged = {case.claim.id: _verdict(case, r, f) for case, r, f in zip(cases, reproduce, refute, strict=True)}
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


@dataclass(frozen=True)
class _Case:
    """A claim with what its runs say. p-values are nan where it is not tested."""

    claim: Claim
    summary: stats.Summary  # of the differences that are known
    step: float
    diverged: int  # differences that are not known
    counted: tuple[int, ...]  # seeds with a diverged run that is counted
    p_reproduce: float
    p_refute: float


def _case(claim: Claim, sample: Sequence[float]) -> _Case:
    known = [value for value in sample if not math.isnan(value)]
    step = sample.step if isinstance(sample, Sample) else stats.step(known)
    counted = tuple(sorted(sample.counted)) if isinstance(sample, Sample) else ()
    try:
        summary = stats.summarize(known, least=stats.least_spread(step)) if known else stats.NOTHING
    except UsageError as error:
        raise UsageError(f"Claim {claim.id!r}: {error}") from None
    diverged = len(sample) - len(known)
    testable = len(known) >= MIN_SEEDS and not diverged
    p_values = _p_values(claim, known, step) if testable else (math.nan, math.nan)
    return _Case(claim, summary, step, diverged, counted, *p_values)


def _p_values(claim: Claim, sample: Sequence[float], step: float) -> tuple[float, float]:
    """p for reproducing and for refuting the claim."""
    if claim.test == "equivalent":
        within = stats.equivalence(sample, claim.margin, step=step)
        return within.p, within.p_beyond
    towards = sample if claim.test in ("greater", "not_greater") else [-value for value in sample]
    if claim.test in ("greater", "less"):
        test = stats.paired_test(towards, step=step)
        return test.p_greater, test.p_less
    below = stats.not_greater(towards, claim.margin, step=step)
    return below.p, below.p_beyond


def _verdict(case: _Case, reproduce: _Evidence, refute: _Evidence) -> Verdict:
    claim, summary = case.claim, case.summary
    outcome: Outcome = "inconclusive"
    if reproduce.p_adjusted < ALPHA:
        outcome = "reproduced"
    elif refute.p_adjusted < ALPHA:
        outcome = "refuted"

    notes = [_sample_note(case)]
    if case.counted:
        runs = f"{len(case.counted)} diverged runs" if len(case.counted) > 1 else "1 diverged run"
        notes.append(f"{runs} counted as the worst value (seed {', '.join(map(str, case.counted))})")
    seeds = None
    if outcome == "refuted":
        notes.append(f"refutation p = {refute.p:.2g}, Holm-adjusted {refute.p_adjusted:.2g}")
    elif outcome == "inconclusive" and summary.n >= 2 and not case.diverged:
        seeds, power_note = _seeds_to_decide(case, reproduce.alpha, refute.alpha)
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


def _sample_note(case: _Case) -> str:
    summary = case.summary
    if case.diverged:
        have = f"{case.diverged} of {summary.n + case.diverged} seeds have"
        return f"{have} a run that diverged, which has no value: nothing is decided, and the effect is of the others"
    if summary.n == 0:
        return "no seed has a result: its runs are missing or failed"
    if summary.n < MIN_SEEDS:
        return f"{summary.n} of the {MIN_SEEDS} seeds that a verdict needs"
    if summary.sd == 0:
        same = f"the same ({summary.mean:.6g})" if summary.mean else "exactly 0"
        believed = f"; their spread counts as {case.step:.2g}, a step of the metric" if case.step else ""
        return f"all {summary.n} differences are {same}{believed}"
    return ""


def _seeds_to_decide(case: _Case, alpha_reproduce: float, alpha_refute: float) -> tuple[int | None, str]:
    """Seeds at which the side that the mean points to would win with a chance of ``POWER``."""
    claim, mean = case.claim, case.summary.mean
    distance = _distance(claim, mean)
    if distance == 0:
        return None, "the mean points to neither side"
    side, alpha = ("reproduced", alpha_reproduce) if distance > 0 else ("refuted", alpha_refute)
    sd = max(case.summary.sd, stats.least_spread(case.step, claim.margin))
    seeds: int | None
    if sd == 0:  # the sign-flip test decides
        seeds = math.floor(-math.log2(alpha)) + 1
    elif claim.test == "equivalent" and distance > 0:
        seeds = stats.seeds_to_decide(mean, sd, alpha, POWER, MAX_SEEDS, margin=claim.margin)
    else:
        tails = 2 if claim.test == "equivalent" else 1
        seeds = stats.seeds_to_decide(abs(distance), sd, alpha / tails, POWER, MAX_SEEDS)
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


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
