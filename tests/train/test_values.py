"""Numbers that programs cannot hold as they are written are refused before anything is loaded."""

import numpy as np
import pytest

from cnnjax.sweep import explicit, points, product
from cnnjax.sweep import plan as planned
from cnnjax.train import Hyper, Spec
from cnnjax.train.values import check_numbers
from cnnjax.typing import UsageError

MLP = Spec(model="mlp", steps=4, batch_size=8)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("learning_rate", 1e39, "learning_rate=1e+39 is more than float32 holds: use at most 3.403e+38"),
        ("l2", 3.5e38, "more than float32"),
        ("learning_rate", 10**400, "more than float32"),
        ("weight_decay", 1e-46, "weight_decay=1e-46 is less than float32 holds in full: use 0, or at least 1.175e-38"),
        ("weight_decay", 1e-40, "less than float32 holds in full"),
        ("l2", float("nan"), "l2=nan is out of range"),
        ("l2", float("inf"), "l2=inf must be finite"),
        ("momentum", -float("inf"), "momentum=-inf is out of range"),
        ("train_size", 2**24 + 1, "train_size=16777217 is 16777216 in float32"),
        ("learning_rate", np.float64(1e39), "more than float32"),
    ],
)
def test_a_number_that_float32_cannot_hold_is_refused(name, value, says):
    with pytest.raises(UsageError) as refused:
        check_numbers([Hyper(), Hyper(**{name: value})])
    assert says in str(refused.value)


def test_numbers_at_the_ends_of_float32_are_taken():
    ends = (0.0, -0.0, float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max))
    check_numbers([Hyper(learning_rate=value) for value in ends[:1] + ends[2:]])
    check_numbers([Hyper(train_size=2**24)])


@pytest.mark.parametrize(
    ("one", "other"), [(0.1, 0.1000000001), (1, 1.00000001), (0.3, 0.1 + 0.2), (1e-30, 1.00000001e-30)]
)
def test_numbers_that_float32_does_not_tell_apart_are_one_condition(one, other):
    grids = (product(weight_decay=[one, other]), explicit({"weight_decay": one, "l2": 1}, {"weight_decay": other}))
    for grid in grids:
        with pytest.raises(UsageError, match=f"weight_decay={float(one)} and weight_decay={other} are one number in"):
            planned(points(MLP, Hyper(), grid, [0]), "cpu")


def test_the_same_number_in_many_runs_is_no_repetition():
    check_numbers(
        [Hyper(l2=float(value)) for value in (0.1, 0.1, 0.25, np.nextafter(np.float32(0.25), 1, dtype=np.float32))]
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["width_multiplier", "stochastic_depth", "epsilon"])
def test_fields_of_the_model_are_finite(name, value):
    spec = Spec(model="efficientnet_b0", model_fields=((name, value),))
    with pytest.raises(UsageError, match=name):
        planned(points(spec, Hyper(), product(), [0]), "cpu")


@pytest.mark.parametrize("name", ["valid_fraction", "difficulty"])
def test_fields_of_the_data_are_finite(name):
    with pytest.raises(UsageError, match=name):
        planned(points(MLP, Hyper(), ({"data.name": "shapes", f"data.{name}": float("nan")},), [0]), "cpu")
