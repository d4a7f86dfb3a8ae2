import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnjax import stats
from cnnjax.claims import ALPHA, Claim, Sample, by_seed, contrast, judge, mapped, measured, paired, to_json
from cnnjax.typing import UsageError

reproducible = settings(deadline=None, max_examples=60, derandomize=True)
thousandths = st.integers(-3000, 3000).map(lambda k: k / 1000)
samples = st.lists(thousandths, min_size=3, max_size=6)


def claim(test="greater", margin=0.0, id="deeper-plain"):
    return Claim(
        id=id,
        statement="A deeper plain network has the higher training error.",
        source="S2:205-211; S3:589",
        test=test,
        margin=margin,
        unit="training error, fraction",
    )


def verdict_of(test, margin, sample):
    return judge([claim(test, margin)], {"deeper-plain": sample})[0]


def row(seed, depth, error, *, status="done", **axes):
    return {
        "assignment": {"depth": depth, **axes},
        "seed": seed,
        "status": status,
        "metrics": {"error": error},
    }


# Verdicts


@pytest.mark.parametrize(
    ("test", "margin", "sample", "expected"),
    [
        ("greater", 0.0, [0.30, 0.33, 0.36], "reproduced"),
        ("greater", 0.0, [-0.30, -0.33, -0.36], "refuted"),
        ("greater", 0.0, [0.3, -0.2, 0.1], "inconclusive"),
        ("less", 0.0, [-0.30, -0.33, -0.36], "reproduced"),
        ("less", 0.0, [0.30, 0.33, 0.36], "refuted"),
        ("not_greater", 0.1, [0.01, 0.02, 0.03], "reproduced"),
        ("not_greater", 0.1, [-0.90, -0.92, -0.94], "reproduced"),
        ("not_greater", 0.1, [0.30, 0.33, 0.36], "refuted"),
        ("not_greater", 0.1, [0.09, 0.12, 0.06], "inconclusive"),
        ("not_less", 0.1, [-0.01, -0.02, -0.03], "reproduced"),
        ("not_less", 0.1, [0.90, 0.92, 0.94], "reproduced"),
        ("not_less", 0.1, [-0.30, -0.33, -0.36], "refuted"),
        ("equivalent", 0.1, [0.01, -0.02, 0.0], "reproduced"),
        ("equivalent", 0.1, [0.30, 0.33, 0.36], "refuted"),
        ("equivalent", 0.1, [-0.30, -0.33, -0.36], "refuted"),
        ("equivalent", 0.1, [0.09, 0.12, 0.06], "inconclusive"),
    ],
)
def test_verdict_of_each_test(test, margin, sample, expected):
    verdict = verdict_of(test, margin, sample)
    assert verdict.verdict == expected
    assert verdict.effect == pytest.approx(np.mean(sample))
    assert (verdict.seeds_to_decide is None) == (expected != "inconclusive")
    assert ("refutation p" in verdict.note) == (expected == "refuted")


def test_verdict_by_hand():
    verdict = verdict_of("greater", 0.0, [1.0, 2.0, 3.0])
    t = 2 * math.sqrt(3)  # closed form of the tail and of the quantile with 2 degrees of freedom
    assert verdict.p == verdict.p_adjusted == pytest.approx(0.5 - t / (2 * math.sqrt(2 + t * t)))
    half = 4.302652729911275 / math.sqrt(3)
    assert verdict.interval == pytest.approx((2 - half, 2 + half))
    assert (verdict.verdict, verdict.effect, verdict.n) == ("reproduced", 2.0, 3)


@reproducible
@given(samples, st.sampled_from([("greater", "less", 0.0), ("not_greater", "not_less", 0.5)]))
def test_tests_of_the_two_directions_mirror_each_other(sample, pair):
    up, down, margin = pair
    one, other = verdict_of(up, margin, sample), verdict_of(down, margin, [-value for value in sample])
    assert (one.verdict, one.p, one.seeds_to_decide) == (other.verdict, other.p, other.seeds_to_decide)


@reproducible
@given(samples, st.sampled_from(["not_greater", "not_less", "equivalent"]))
def test_a_wider_margin_never_unmakes_a_reproduction(sample, test):
    ranks = {"refuted": 0, "inconclusive": 1, "reproduced": 2}
    verdicts = [ranks[verdict_of(test, margin, sample).verdict] for margin in (0.1, 0.5, 2.0)]
    assert verdicts == sorted(verdicts)


@pytest.mark.parametrize("test", ["greater", "less"])
@pytest.mark.parametrize("sample", [[0.5], [0.5, 0.5], [-0.5, -0.5001]])
def test_fewer_than_three_seeds_decide_nothing(test, sample):
    verdict = verdict_of(test, 0.0, sample)
    assert verdict.verdict == "inconclusive"
    assert verdict.n == len(sample)
    assert math.isnan(verdict.p)
    assert f"{len(sample)} of the 3 seeds" in verdict.note
    assert (verdict.seeds_to_decide is None) == (len(sample) == 1)


@pytest.mark.parametrize("given_samples", [{}, {"deeper-plain": []}])
def test_no_sample_is_inconclusive_with_a_note(given_samples):
    (verdict,) = judge([claim()], given_samples)
    assert (verdict.verdict, verdict.n, verdict.seeds_to_decide) == ("inconclusive", 0, None)
    assert math.isnan(verdict.effect)
    assert "no seed has a result" in verdict.note


@pytest.mark.parametrize(
    ("test", "margin", "value", "expected", "note"),
    [
        ("greater", 0.0, 0.0, "inconclusive", "all 6 differences are exactly 0"),
        ("not_greater", 0.02, 0.0, "reproduced", "all 6 differences are exactly 0"),
        ("equivalent", 0.02, 0.0, "reproduced", "all 6 differences are exactly 0"),
        ("not_greater", 0.3, 0.1 + 0.2, "inconclusive", "points to neither side"),  # 0.30000000000000004
        ("equivalent", 0.3, -0.1 - 0.2, "inconclusive", "points to neither side"),
    ],
)
def test_samples_without_spread(test, margin, value, expected, note):
    verdict = verdict_of(test, margin, [value] * 6)
    assert verdict.verdict == expected
    assert note in verdict.note
    assert verdict.seeds_to_decide is None


def counts(*errors, examples=100):
    """An arm by seed: so many wrong of ``examples``."""
    return {seed: wrong / examples for seed, wrong in enumerate(errors)}


@pytest.mark.parametrize(
    ("test", "margin", "more", "fewer", "expected"),
    [
        ("greater", 0.0, (1, 1, 1), (0, 0, 0), "inconclusive"),  # one more wrong, three times: chance
        ("greater", 0.0, (2, 3, 1), (1, 2, 0), "inconclusive"),
        ("greater", 0.0, (9, 5, 8), (2, 1, 2), "reproduced"),
        ("greater", 0.0, (9, 5, 8), (4, 0, 3), "reproduced"),  # five more, three times
        ("less", 0.0, (0, 0, 0), (9, 5, 8), "reproduced"),
        ("equivalent", 0.02, (1, 2, 0), (1, 2, 0), "inconclusive"),  # two of 100: counts scatter as much
        ("equivalent", 0.10, (1, 2, 0), (1, 2, 0), "reproduced"),
        ("not_greater", 0.02, (3, 2, 1), (3, 2, 1), "inconclusive"),
        ("not_greater", 0.02, (6, 5, 4), (2, 1, 0), "inconclusive"),
        ("not_greater", 0.02, (19, 18, 17), (2, 1, 0), "refuted"),
    ],
)
def test_equal_differences_of_counts_are_no_proof(test, margin, more, fewer, expected):
    sample = contrast([counts(*more)], [counts(*fewer)])
    assert sample.step == pytest.approx(0.01)
    assert verdict_of(test, margin, sample).verdict == expected


def test_the_step_of_errors_that_are_all_zero_is_that_of_the_other_runs():
    rows = [row(seed, depth, 0.0) for seed in range(4) for depth in (8, 20)]
    rows += [row(seed, 44, wrong / 256) for seed, wrong in enumerate((7, 30, 12, 9))]
    sample = contrast([by_seed(rows, "error", {"depth": 20})], [by_seed(rows, "error", {"depth": 8})])
    assert (sample, sample.step) == ([0.0] * 4, 1 / 256)
    assert verdict_of("not_greater", 0.02, sample).verdict == "reproduced"
    assert verdict_of("not_greater", 0.005, sample).verdict == "inconclusive"  # not much more than a step
    assert "their spread counts as 0.0039, a step of the metric" in verdict_of("not_greater", 0.02, sample).note
    assert judge([claim()], {"deeper-plain": sample})[0].interval[1] == pytest.approx(3.18244630528 / 256 / 2)


def test_equal_differences_whose_step_is_not_known_are_no_proof():
    assert verdict_of("greater", 0.0, [0.25] * 4).verdict == "inconclusive"
    assert verdict_of("equivalent", 0.02, [0.25] * 4).verdict == "inconclusive"
    for count, expected in ((3, "inconclusive"), (4, "inconclusive"), (5, "reproduced")):
        verdict = verdict_of("greater", 0.0, Sample([0.25] * count))  # no step: continuous
        assert (verdict.verdict, verdict.p) == (expected, 0.5**count)  # of the exact sign-flip test
        assert verdict.seeds_to_decide == (5 if expected == "inconclusive" else None)


def test_holm_spans_the_claims_judged_together():
    sample = [1.0, 2.0, 3.0]  # p = 0.037
    alone = verdict_of("greater", 0.0, sample)
    # An empty sample is not tested, but it was claimed, so it counts.
    together = judge([claim(id="a"), claim(id="b")], {"a": sample})
    assert (alone.verdict, together[0].verdict) == ("reproduced", "inconclusive")
    assert together[0].p == alone.p
    assert together[0].p_adjusted == pytest.approx(2 * alone.p)


def test_refutations_are_corrected_apart_from_reproductions():
    up, down = [1.0, 2.0, 3.0], [-0.30, -0.33, -0.36]
    verdicts = judge([claim(id="a"), claim(id="b")], {"a": [*up, 2.0, 2.0], "b": down})
    assert [v.verdict for v in verdicts] == ["reproduced", "refuted"]
    p = stats.paired_test(down).p_less
    assert f"refutation p = {p:.2g}, Holm-adjusted {2 * p:.2g}" in verdicts[1].note


def test_seeds_to_decide_is_the_power_calculation_of_the_test():
    def seeds(test, margin, sample):
        return verdict_of(test, margin, sample).seeds_to_decide

    sample = [0.3, -0.2, 0.1, 0.2, 0.1]
    mean, sd = 0.1, float(np.std(sample, ddof=1))
    assert seeds("greater", 0.0, sample) == stats.seeds_to_decide(mean, sd, ALPHA)
    assert seeds("less", 0.0, sample) == stats.seeds_to_decide(mean, sd, ALPHA)  # towards refutation
    assert seeds("not_greater", 0.25, sample) == stats.seeds_to_decide(0.25 - mean, sd, ALPHA)
    assert seeds("not_greater", 0.01, sample) == stats.seeds_to_decide(mean - 0.01, sd, ALPHA)
    assert seeds("not_less", 0.05, sample) == stats.seeds_to_decide(0.05 + mean, sd, ALPHA)
    assert seeds("equivalent", 0.25, sample) == stats.seeds_to_decide(mean, sd, ALPHA, margin=0.25)
    assert seeds("equivalent", 0.05, sample) == stats.seeds_to_decide(mean - 0.05, sd, ALPHA / 2)


def test_seeds_to_decide_uses_the_level_that_holm_leaves():
    open_sample = [0.3, -0.2, 0.1, 0.2, 0.1]
    verdicts = judge(
        [claim(id="clear"), claim(id="open"), claim(id="missing")],
        {"clear": [1.0, 1.01, 1.02], "open": open_sample},
    )
    assert [v.verdict for v in verdicts] == ["reproduced", "inconclusive", "inconclusive"]
    sd = float(np.std(open_sample, ddof=1))
    assert verdicts[1].seeds_to_decide == stats.seeds_to_decide(0.1, sd, ALPHA / 2)


@reproducible
@given(samples, st.sampled_from(["greater", "not_less", "equivalent"]))
def test_an_inconclusive_claim_needs_more_seeds_than_it_has(sample, test):
    verdict = verdict_of(test, 0.0 if test == "greater" else 0.5, sample)
    if verdict.seeds_to_decide is not None:
        assert verdict.seeds_to_decide > verdict.n
        assert f"{verdict.seeds_to_decide} seeds would decide it" in verdict.note


def test_a_hopeless_claim_says_so():
    verdict = verdict_of("greater", 0.0, [1.0, -1.0, 0.001])
    assert verdict.seeds_to_decide is None
    assert "1000 seeds would not decide it" in verdict.note


def test_judge_refuses_what_does_not_belong():
    with pytest.raises(UsageError, match="2 claims have the id 'deeper-plain'"):
        judge([claim(), claim()], {})
    with pytest.raises(UsageError, match="Did you mean 'deeper-plain'"):
        judge([claim()], {"deeper-plane": [0.1]})
    with pytest.raises(UsageError, match="Claim 'deeper-plain': Value 1 of 3 is inf"):
        judge([claim()], {"deeper-plain": [0.1, math.inf, 0.2]})


# Identical arms, and effects exactly on the boundary: the worst case for a false verdict.


@pytest.mark.parametrize(
    ("tests", "mean"),
    [(["greater"] * 3, 0.0), (["not_greater", "equivalent"], 0.5)],
)
@pytest.mark.slow
def test_false_verdicts_stay_within_the_binomial_bound(tests, mean):
    from scipy.stats import binom

    sets, seeds = 400, 4
    claims = [claim(t, 0.5 if mean else 0.0, id=f"{i}") for i, t in enumerate(tests)]
    a, b = np.random.default_rng(0).normal(size=(2, sets, len(claims), seeds))
    found = [
        {v.verdict for v in judge(claims, {f"{i}": x.tolist() for i, x in enumerate(differences)})}
        for differences in a - b + mean
    ]
    bound = binom.isf(0.001, sets, 0.05)
    for outcome in ("reproduced", "refuted"):
        assert sum(outcome in verdicts for verdicts in found) <= bound


# Claims and their rule


def test_rule_is_a_sentence():
    assert claim().rule == (
        "reproduced if the paired mean difference is above 0 (one-sided t test, spread at least a step of "
        "the metric, Holm-adjusted p < 0.045, n >= 3); refuted if it is below 0 by the same standard; "
        "otherwise inconclusive"
    )
    assert "is below 0.02 (one-sided non-inferiority" in claim("not_greater", 0.02).rule
    assert "refuted if it is below -0.02" in claim("not_less", 0.02).rule
    assert "is between -0.02 and 0.02 (two one-sided t tests" in claim("equivalent", 0.02).rule


@pytest.mark.parametrize(
    ("test", "margin", "message"),
    [
        ("graeter", 0.0, "Did you mean 'greater'"),
        ("greater", 0.1, "margin=0.1 must go"),
        ("not_greater", 0.0, "needs a margin above 0"),
        ("not_less", -0.1, "needs a margin above 0"),
        ("equivalent", math.nan, "needs a margin above 0"),
    ],
)
def test_malformed_claims_are_refused(test, margin, message):
    with pytest.raises(UsageError, match=message):
        claim(test, margin)


def test_json_has_the_published_form_and_no_nan():
    verdicts = judge([claim(), claim("equivalent", 0.1, id="empty")], {"deeper-plain": [0.30, 0.33, 0.36]})
    content = to_json("degradation", "quick", verdicts)
    read = json.loads(json.dumps(content, allow_nan=False))
    assert read == content
    assert {"experiment", "preset", "claims"} == set(read)
    first, empty = read["claims"]
    assert {"id", "statement", "source", "rule", "verdict", "effect", "interval", "n"} <= set(first)
    assert first["interval"] == list(verdicts[0].interval)
    assert (first["verdict"], first["n"]) == ("reproduced", 3)
    assert (empty["effect"], empty["interval"], empty["p"], empty["n"]) == (None, [None, None], None, 0)


# Samples from rows

ROWS = [
    row(2, 20, 0.2, residual=False),
    row(0, 56, 0.9, residual=False),
    row(0, 20, 0.5, residual=False),
    row(1, 56, math.nan, residual=False, status="diverged"),
    row(1, 20, 0.25, residual=False),
    row(2, 56, 0.5, residual=False),
    row(0, 56, 0.375, residual=True),
    row(0, 20, 0.25, residual=True),
    row(2, 56, 0.125, residual=True, status="failed"),
    row(2, 20, 0.125, residual=True),
]


def test_by_seed_takes_finished_runs_in_seed_order():
    shallow = by_seed(ROWS, "error", {"residual": False, "depth": 20})
    assert list(shallow.items()) == [(0, 0.5), (1, 0.25), (2, 0.2)]
    assert by_seed(ROWS, "error", {"residual": True, "depth": 56}) == {0: 0.375}
    assert by_seed(ROWS, "error", {"residual": False, "depth": 20, "seed": 1}) == {1: 0.25}


def test_diverged_runs_have_the_value_that_is_given_or_none():
    deep = {"residual": False, "depth": 56}
    assert by_seed(ROWS, "error", deep) == pytest.approx({0: 0.9, 1: math.nan, 2: 0.5}, nan_ok=True)
    found = by_seed(ROWS, "error", deep, diverged=0.75)
    assert (found, found.counted) == ({0: 0.9, 1: 0.75, 2: 0.5}, {1})
    with pytest.raises(UsageError, match="diverged=inf"):
        by_seed(ROWS, "error", deep, diverged=math.inf)


def test_a_diverged_run_without_a_value_leaves_its_claim_open():
    """Left out, it would flatter its arm: of the others, the deep nets are surely better."""
    rows = [row(seed, depth, loss + seed / 100) for seed in range(8) for depth, loss in ((56, 0.1), (20, 0.9))]
    verdict = verdict_of("less", 0.0, paired(rows, "error", {"depth": 56}, {"depth": 20}))
    assert verdict.verdict == "reproduced"
    rows[6] = {**rows[6], "status": "diverged", "metrics": {}}
    open_, other = judge(
        [claim("less"), claim("less", id="other")],
        {"deeper-plain": paired(rows, "error", {"depth": 56}, {"depth": 20}), "other": [-0.30, -0.33, -0.36]},
    )
    assert (open_.verdict, open_.n, open_.seeds_to_decide) == ("inconclusive", 7, None)
    assert "1 of 8 seeds have a run that diverged, which has no value" in open_.note
    assert other.p_adjusted == pytest.approx(2 * other.p)  # it counts in the correction


def test_a_diverged_run_that_counts_is_in_the_note():
    rows = [row(seed, depth, error) for seed in range(8) for depth, error in ((56, 0.1), (20, 0.5))]
    rows[7] = {**rows[7], "status": "diverged", "metrics": {}}
    verdict = verdict_of("less", 0.0, paired(rows, "error", {"depth": 56}, {"depth": 20}, diverged=0.9))
    assert verdict.verdict == "reproduced"
    assert "1 diverged run counted as the worst value (seed 3)" in verdict.note
    kept = mapped(math.log2, by_seed(rows, "error", {"depth": 20}, diverged=0.9))
    assert (kept.counted, kept[3]) == ({3}, math.log2(0.9))
    assert math.isnan(mapped(math.log2, by_seed(rows, "error", {"depth": 20}))[3])


def test_paired_is_a_less_b_where_both_are_done():
    plain = {"residual": False}
    a, b = {**plain, "depth": 56}, {**plain, "depth": 20}
    assert paired(ROWS, "error", a, b) == pytest.approx([0.4, math.nan, 0.3], nan_ok=True)
    assert paired(ROWS, "error", a, b, diverged=0.75) == pytest.approx([0.4, 0.5, 0.3])
    assert paired([], "error", a, b) == []


def test_contrast_gives_the_difference_of_differences():
    terms = {
        (residual, depth): by_seed(ROWS, "error", {"residual": residual, "depth": depth})
        for residual in (False, True)
        for depth in (20, 56)
    }
    gap_narrows = contrast([terms[False, 56], terms[True, 20]], [terms[False, 20], terms[True, 56]])
    assert gap_narrows == pytest.approx([(0.9 - 0.5) - (0.375 - 0.25)])
    assert contrast([], []) == []


def test_contrast_drops_floating_point_residue():
    assert 0.1 + 0.5 - 0.2 - 0.4 != 0
    assert contrast([{0: 0.1}, {0: 0.5}], [{0: 0.2}, {0: 0.4}]) == [0.0]
    assert contrast([{0: 1.0 + 1e-7}], [{0: 1.0}]) == pytest.approx([1e-7])


@reproducible
@given(st.dictionaries(st.integers(0, 9), thousandths), st.dictionaries(st.integers(0, 9), thousandths))
def test_contrast_is_antisymmetric_over_shared_seeds(a, b):
    assert contrast([a], [b]) == [-value for value in contrast([b], [a])]
    assert len(contrast([a], [b])) == len(a.keys() & b.keys())


def test_ambiguous_conditions_are_named():
    with pytest.raises(UsageError, match=r"Two runs of seed 0 match .*'depth': 20.*residual \(False, True\)"):
        by_seed(ROWS, "error", {"depth": 20})
    with pytest.raises(UsageError, match="same assignment"):
        by_seed([row(0, 20, 0.1), row(0, 20, 0.1)], "error", {"depth": 20})


def test_unknown_names_are_named_with_the_nearest():
    with pytest.raises(UsageError, match=r"Unknown axis 'dept'. Did you mean 'depth'"):
        by_seed(ROWS, "error", {"dept": 20})
    with pytest.raises(UsageError, match=r"Unknown metric 'eror'. Did you mean 'error'"):
        by_seed(ROWS, "eror", {"depth": 20, "residual": True})


def test_a_finished_run_without_a_finite_metric_is_named():
    with pytest.raises(UsageError, match=r"'depth': 20.* of seed 3 has error = inf"):
        by_seed([row(3, 20, math.inf)], "error", {"depth": 20})


# Exact claims


@pytest.mark.parametrize(
    ("deviations", "expected", "worst"),
    [
        ([0.0, 1e-7, -9e-6], "reproduced", -9e-6),
        ([0.0, 2e-5], "refuted", 2e-5),
        ([0.0, math.nan], "refuted", math.nan),
        ([], "inconclusive", math.nan),
    ],
)
def test_an_exact_claim_holds_in_every_case_or_fails(deviations, expected, worst):
    found = verdict_of("exact", 1e-5, deviations)
    assert (found.verdict, found.n) == (expected, len(deviations))
    assert found.effect == worst or (math.isnan(found.effect) and math.isnan(worst))
    assert all(map(math.isnan, found.interval))
    assert "at most 1e-05" in found.rule


def test_exact_claims_are_no_part_of_the_correction():
    sample = [0.30, 0.33, 0.37]
    alone = judge([claim()], {"deeper-plain": sample})
    beside = judge([claim("exact", 1e-6, "identity"), claim()], {"deeper-plain": sample, "identity": [0.0]})
    assert [found.id for found in beside] == ["identity", "deeper-plain"]
    assert beside[1] == alone[0]


def test_measured_rows_are_read_as_runs_are():
    rows = [measured({"depth": depth}, seed, {"norm": depth + seed}) for depth in (8, 20) for seed in (0, 1)]
    assert by_seed(rows, "norm", {"depth": 20}) == {0: 20.0, 1: 21.0}
