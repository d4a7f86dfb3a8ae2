"""The augmentation experiment judges made-up runs rightly, and its gallery shows what it says."""

import jax
import numpy as np
import pytest

from cnnjax import augment
from cnnjax.data import DataConfig
from experiments import augmentation

SEEDS = range(8)
DIGITS = augmentation.grid("quick", DataConfig())
# As on colour pictures, where everything suits.
NAMES = tuple(augment.AUGMENTATIONS)
PICTURES = tuple(
    {name: float(name in chosen) for name in NAMES}
    for chosen in [(), *((name,) for name in NAMES), ("flip", "crop"), NAMES]
)


def rows(grid, effect, spread=0.004):
    """A run for each condition and seed, whose test error is 0.3 + ``effect(condition)``."""
    random = np.random.default_rng(0)
    made = []
    for seed in SEEDS:
        for assignment in grid:
            change = effect(augmentation.condition(assignment)) + random.normal(0, spread)
            metrics = {
                "train_error": 0.0, "test_error": 0.3 + change, "valid_loss": 1 + change, "test_loss": 1 + 2 * change
            }  # fmt: skip
            made.append({"assignment": dict(assignment), "seed": seed, "status": "done", "metrics": metrics})
    return made


def outcomes(made):
    return {verdict.id: verdict.verdict for verdict in augmentation.verdict(made)}


def helpful(name):
    return {"none": 0.0, "flip": 0.05, "all together": -0.1}.get(name, -0.03)


def test_on_digits_augmentation_helps_and_mirroring_harms():
    assert set(outcomes(rows(DIGITS, helpful)).values()) == {"reproduced"}


def test_on_pictures_mirroring_is_judged_the_other_way():
    found = outcomes(rows(PICTURES, lambda name: 0.0 if name == "none" else -0.05))
    assert set(found.values()) == {"reproduced"}
    assert outcomes(rows(PICTURES, helpful))["flip-must-suit"] == "refuted"


def test_harm_is_refuted():
    found = outcomes(rows(DIGITS, lambda name: {"none": 0.0, "flip": -0.05}.get(name, 0.1)))
    assert set(found.values()) == {"refuted"}


def test_noise_is_inconclusive():
    """Half of the seeds gain what the other half loses."""
    made = rows(DIGITS, lambda name: 0.0)
    for row in made:
        if augmentation.condition(row["assignment"]) != "none":
            row["metrics"]["test_error"] += 0.05 if row["seed"] % 2 else -0.05
    found = outcomes(made)
    assert found["together-lower-test-error"] == "inconclusive"
    assert found["flip-must-suit"] == "inconclusive"


def test_the_choice_reads_the_validation_split_and_neither_none_nor_mirrored_digits():
    """Test errors say the opposite of the validation losses, of which none and flip have the smallest."""
    made = rows(DIGITS, helpful)
    for row in made:
        name = augmentation.condition(row["assignment"])
        row["metrics"]["valid_loss"] = {"none": 0.1, "flip": 0.1, "shear": 0.5}.get(name, 1.0)
        row["metrics"]["test_error"] = {"none": 0.3, "shear": 0.35}.get(name, 0.1) + 0.001 * row["seed"] * (
            name == "shear"
        )
    found = {verdict.id: verdict for verdict in augmentation.verdict(made)}
    assert found["chosen-lowers-test-error"].verdict == "refuted"
    assert found["chosen-lowers-test-error"].effect == pytest.approx(0.05, abs=0.01)


def test_a_condition_that_diverged_is_not_chosen():
    made = rows(DIGITS, helpful)
    for row in made:
        if augmentation.condition(row["assignment"]) == "all together" and row["seed"] == 0:
            row.update(status="diverged", metrics={})
    names = ["all together", "crop"]
    assert augmentation.chosen_condition(made, names) == "crop"


def test_digits_are_mirrored_in_one_condition_only():
    assert [augmentation.condition(a) for a in DIGITS if a["flip"]] == ["flip"]
    assert "rgb_shift" not in DIGITS[0]
    together = [a for a in DIGITS if augmentation.condition(a) == augmentation.TOGETHER]
    assert [a["crop"] for a in together] == [0.25]  # one pixel of eight


def test_all_conditions_are_one_program():
    """What is swept is traced: no assignment names anything of the Spec."""
    config = augmentation.spec("quick", DataConfig())
    assert all(set(assignment) == set(config.augment) for assignment in DIGITS)


@pytest.mark.slow
def test_each_row_of_the_gallery_changes_what_its_name_says():
    shown = [(name,) for name in augmentation.NAMES]
    found = augmentation.gallery_parameters(shown)
    still = augment.draw(jax.random.key(0), 1, 3, NAMES, dict.fromkeys(NAMES, 0.0))
    for line, (name,) in enumerate(shown):
        place = slice(line * augmentation.COLUMNS, (line + 1) * augmentation.COLUMNS)
        changed = {other for other in NAMES if not np.all(found[other][place] == still[other])}
        assert changed == {name}


def test_the_basis_is_that_of_the_colours():
    picture = np.random.default_rng(0).uniform(size=(8, 8, 3)).astype(np.float32)
    basis = augmentation.colour_basis(picture)
    np.testing.assert_allclose(basis @ basis.T, np.cov(picture.reshape(-1, 3).T), atol=1e-6)


def test_the_names_are_those_of_all_augmentations():
    assert set(augmentation.NAMES) == set(augment.AUGMENTATIONS)
