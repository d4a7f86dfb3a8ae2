import pytest

from cnnjax.sweep.grid import NOTHING, axis, explicit, product, zipped
from cnnjax.typing import UsageError


def test_product_takes_every_combination_the_last_axis_fastest():
    assert product(axis("model.width", [4, 8]), l2=[0.0, 1e-4]) == (
        {"model.width": 4, "l2": 0.0},
        {"model.width": 4, "l2": 1e-4},
        {"model.width": 8, "l2": 0.0},
        {"model.width": 8, "l2": 1e-4},
    )
    assert product() == NOTHING == ({},)
    assert product(NOTHING, steps=[1]) == ({"steps": 1},)


def test_zipped_walks_its_axes_together():
    assert zipped(steps=[1, 2], l2=[0.1, 0.2]) == ({"steps": 1, "l2": 0.1}, {"steps": 2, "l2": 0.2})
    assert product(zipped(steps=[1, 2], l2=[0.1, 0.2]), dropout=(0.0,)) == (
        {"steps": 1, "l2": 0.1, "dropout": 0.0},
        {"steps": 2, "l2": 0.2, "dropout": 0.0},
    )


def test_explicit_points_may_assign_different_names():
    assert explicit({"model": "mlp"}, {"l2": 0.1}) == ({"model": "mlp"}, {"l2": 0.1})


def test_axes_may_be_generators_and_are_read_once():
    assert product(l2=(10.0**-k for k in (3, 4))) == ({"l2": 1e-3}, {"l2": 1e-4})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: product(l2=[]), "The axis 'l2' has no values. Give at least one"),
        (lambda: axis("l2", [0.1, 0.2, 0.1]), "The axis 'l2' holds 0.1 twice"),
        (lambda: axis("l2", [0, 0.0]), "The axis 'l2' holds 0.0 twice"),
        (lambda: product(axis("l2", [0.1]), l2=[0.2]), "'l2' is assigned twice"),
        (lambda: product(zipped(l2=[0.1]), zipped(l2=[0.2])), "'l2' is assigned twice"),
        (lambda: zipped(l2=[0.1, 0.2], steps=[1]), "equally long, not {'l2': 2, 'steps': 1}. Use product"),
        (lambda: zipped(l2=[]), "The axis 'l2' has no values"),
        (lambda: explicit(), "The grid is empty. Give at least one point"),
    ],
)
def test_a_bad_grid_is_refused(make, message):
    with pytest.raises(UsageError) as error:
        make()
    assert message in str(error.value)
