"""The overfitting experiment judges made-up runs rightly, and its polynomials are what algebra says."""

import numpy as np
import pytest

from cnnjax import claims
from cnnjax.data import DataConfig
from experiments import overfitting

CHANCE = 0.9
SEEDS = range(8)
SIZES = (64, 256, 1024)
POLYNOMIALS = overfitting.measure("smoke", DataConfig())
NETS = overfitting.nets("quick", DataConfig())
SMALLER = overfitting.net(NETS[0])


def rows(errors, status="done"):
    """A run for each condition and seed; ``errors(name, size, noise)`` gives its training and test error."""
    conditions = [(net, size, 0.0) for net in NETS for size in SIZES] + [(NETS[-1], 256, CHANCE)]
    random = np.random.default_rng(0)
    made = []
    for net, size, noise in conditions:
        train, test = errors(overfitting.net(net), size, noise)
        for seed in SEEDS:
            jitter = random.uniform(-0.005, 0.005)
            metrics = {"train_error": train, "test_error": test + jitter, "parameters": 10}
            assignment = {**net, "train_size": size, "label_noise": noise}
            made.append({"assignment": assignment, "seed": seed, "status": status, "metrics": metrics})
    return made


def textbook(name, size, noise):
    """Gaps that shrink with data and are larger for the larger net; random labels learnt by heart."""
    if noise:
        return 0.0, CHANCE
    return 0.0, (0.1 if name == SMALLER else 0.3) * 64 / size


def outcomes(made):
    return {verdict.id: verdict.verdict for verdict in overfitting.verdict(made, POLYNOMIALS)}


def test_what_the_textbook_says_is_reproduced():
    assert set(outcomes(rows(textbook)).values()) == {"reproduced"}


def test_the_reverse_is_refuted():
    def reverse(name, size, noise):
        if noise:
            return 0.5, 0.4
        return 0.3, 0.6 if size == SIZES[-1] else 0.2 if name == SMALLER else 0.1

    found = outcomes(rows(reverse))
    assert {found[claim.id] for claim in overfitting.CLAIMS if not claim.id.startswith("polynomial")} == {"refuted"}


def test_equal_gaps_decide_nothing():
    found = outcomes(rows(lambda name, size, noise: (0.0, CHANCE) if noise else (0.0, 0.2)))
    assert found["more-data-smaller-gap"] == "inconclusive"
    assert found["more-data-lower-error"] == "inconclusive"
    assert found["larger-net-larger-gap"] == "inconclusive"


def test_diverged_runs_count_as_chance():
    """All runs of the VGG-style net on the smallest set diverge: it has not memorised anything."""
    made = rows(textbook)
    for row in made:
        if overfitting.net(row["assignment"]) == "VGG-style" and row["assignment"]["train_size"] == SIZES[0]:
            row.update(status="diverged", metrics={})
    found = {verdict.id: verdict for verdict in overfitting.verdict(made, POLYNOMIALS)}
    assert found["large-net-memorises-few"].effect == pytest.approx(CHANCE)
    assert found["large-net-memorises-few"].verdict == "refuted"
    assert found["large-net-overfits-few"].effect == 0


def test_rows_may_come_in_any_order():
    made = rows(textbook)
    shuffled = [made[place] for place in np.random.default_rng(1).permutation(len(made))]
    assert overfitting.nets_of(shuffled) == overfitting.nets_of(made)
    assert outcomes(shuffled) == outcomes(made)


def test_ten_points_of_a_parabola_without_noise():
    """Degree 2 recovers y = x^2, and degree 10 passes through the points with another polynomial."""
    x = np.linspace(-1, 1, 10)
    found = overfitting.fits(x, x**2)
    np.testing.assert_allclose(found["degree 2"], [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(np.polynomial.polynomial.polyval(x, found["degree 10"]), x**2, atol=1e-12)
    assert len(found["degree 10"]) == 11


def test_degree_ten_has_the_smallest_coefficients_of_all_exact_fits():
    x, y = overfitting.noisy_points(3)
    smallest = overfitting.fits(x, y)["degree 10"]
    through_nine = np.append(np.polynomial.polynomial.polyfit(x, y, 9), 0)  # degree 9 is determined
    np.testing.assert_allclose(np.polynomial.polynomial.polyval(x, through_nine), y, atol=1e-6)
    assert np.linalg.norm(smallest) < np.linalg.norm(through_nine)


def test_the_penalised_fit_minimises_its_loss():
    x, y = overfitting.noisy_points(0)
    powers = np.vander(x, 11, increasing=True)
    best = overfitting.fits(x, y)["degree 10, penalty"]
    gradient = 2 * powers.T @ (powers @ best - y) + 2 * overfitting.RIDGE * best
    np.testing.assert_allclose(gradient, 0, atol=1e-9)


def test_polynomial_errors_are_those_of_the_literature_of_this_example():
    """Medians over the draws: exact at the points, wild in between; degree 2 and the penalty stay close."""

    def median(metric, fit):
        return np.median(list(claims.by_seed(POLYNOMIALS, metric, {"fit": fit}).values()))

    assert median("train_mse", "degree 10") < 1e-20
    assert median("test_mse", "degree 10") > 1e3
    assert 1e-3 < median("test_mse", "degree 2") < 1e-2
    assert median("test_mse", "degree 2") < median("test_mse", "degree 10, penalty") < 0.05


def test_training_sizes_fit_the_data():
    sizes = overfitting.train_sizes("quick", DataConfig())
    assert sizes == sorted(sizes)
    assert sizes[-1] == 1024


def test_random_labels_are_uniform():
    """At this rate of wrong labels the true one is as likely as any other."""
    random = [a for a in overfitting.grid("quick", DataConfig()) if a["label_noise"]]
    assert [a["label_noise"] for a in random] == [pytest.approx(1 - 1 / 10)]
