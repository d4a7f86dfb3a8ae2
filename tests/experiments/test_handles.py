"""The verdict on the handles from made-up responses of the 16 combinations."""

import itertools

import numpy as np
import pytest

from cnnjax.data import DataConfig
from cnnjax.report import figures
from experiments import handles

EFFECTS = (-0.04, -0.03, -0.02, -0.05)  # augmentation, dropout, weight decay, normalisation


def made(response, *, seeds=6, noise=0.001):
    """Rows with the test error that ``response`` gives for the four levels."""
    rows = []
    for seed in range(seeds):
        draw = np.random.default_rng(seed)
        for point in handles.grid("quick", DataConfig()):
            error = response(*handles.levels(point)) + 0.05 * seed + noise * draw.standard_normal()
            metrics = {"test_error": error, "gap_loss": 2 * error, "train_error": 0.0}
            rows.append({"assignment": point, "seed": seed, "status": "done", "metrics": metrics})
    return rows


def additive(*levels):
    return 0.5 + float(np.dot(EFFECTS, levels))


def outcomes(rows):
    return {v.id: v for v in handles.verdict(rows)}


def test_every_combination_runs_once_in_two_programs():
    for data in (DataConfig(), DataConfig("folder:pictures")):
        points = handles.grid("quick", data)
        assert sorted(map(handles.levels, points)) == list(itertools.product((0, 1), repeat=4))


def test_main_effects_are_those_put_in_and_adding_up_is_no_overlap():
    found = outcomes(made(additive, noise=0.01))
    mains = [found[claim.id] for claim in handles.CLAIMS[:4]]
    assert [v.verdict for v in mains] == ["reproduced"] * 4
    assert [v.effect for v in mains] == pytest.approx(EFFECTS, abs=0.005)
    assert found["handles-overlap"].verdict == "inconclusive"
    assert found["handles-overlap"].effect == pytest.approx(0, abs=0.05)


def test_handles_that_harm():
    found = outcomes(made(lambda *levels: 1 - additive(*levels)))
    assert [found[claim.id].verdict for claim in handles.CLAIMS[:4]] == ["refuted"] * 4


def test_handles_that_repair_the_same_damage_overlap():
    found = outcomes(made(lambda *levels: 0.5 - 0.1 * any(levels)))
    assert found["handles-overlap"].verdict == "reproduced"
    assert found["handles-overlap"].effect == pytest.approx(0.3, abs=0.01)  # -0.1 against 4 times -0.1


def test_handles_that_work_only_together_are_the_opposite():
    found = outcomes(made(lambda *levels: 0.5 - 0.1 * all(levels)))
    assert found["handles-overlap"].verdict == "refuted"
    assert found["handles-overlap"].effect == pytest.approx(-0.1, abs=0.01)


def test_a_seed_that_lacks_a_combination_is_left_out_and_a_diverged_run_is_not():
    rows = made(additive)
    rows[0]["status"] = "failed"
    assert sorted(handles.responses(rows, "test_error")) == [1, 2, 3, 4, 5]
    rows[0].update(status="diverged", classes=10)
    found = handles.responses(rows, "test_error")
    assert sorted(found) == [0, 1, 2, 3, 4, 5]
    assert found[0][handles.levels(rows[0]["assignment"])] == pytest.approx(0.9)
    gaps = handles.responses(rows, "gap_loss")
    assert [seed for seed, response in gaps.items() if np.isnan(response).any()] == [0]  # no loss is natural for it
    notes = {verdict.note for verdict in handles.verdict(rows)}
    assert all("1 diverged run counted as the worst value (seed 0)" in note for note in notes)
    assert all(figures.draw(figure, rows).axes for figure in handles.FIGURES)
    assert handles.responses([row for row in rows if any(handles.levels(row["assignment"]))], "test_error") == {}


@pytest.mark.parametrize("seeds", [1, 2])
def test_figures_are_drawn_of_few_seeds(seeds):
    for figure in handles.FIGURES:
        assert figures.draw(figure, made(additive, seeds=seeds)).axes


def test_effects_are_ordered_by_size():
    figure = figures.draw(handles.FIGURES[0], made(additive))
    names = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert names[:4] == ["normalisation", "augmentation", "dropout", "weight decay"]
    assert len(names) == 4 + 6
