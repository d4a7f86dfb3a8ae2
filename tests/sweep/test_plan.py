import dataclasses
import hashlib
import json

import numpy as np
import pytest

from cnnjax.data.catalog import DataConfig
from cnnjax.sweep import rule
from cnnjax.sweep.grid import NOTHING, axis, explicit, product
from cnnjax.sweep.plan import Bundle, assign, plan, points
from cnnjax.train.program import Driver
from cnnjax.train.spec import Hyper, Spec, digest, to_json
from cnnjax.typing import UsageError

MLP = Spec(model="mlp", model_fields=(("hidden", (8,)),), steps=10, batch_size=8)


# Points


def test_seeds_vary_fastest():
    made = points(MLP, Hyper(), product(l2=[0.1, 0.2], steps=[5, 6]), [3, 4])
    assert [(p.hyper.l2, p.spec.steps, p.seed) for p in made] == [
        (l2, steps, seed) for l2 in (0.1, 0.2) for steps in (5, 6) for seed in (3, 4)
    ]
    assert dict(made[2].assignment) == {"l2": 0.1, "steps": 6}


def test_a_run_is_named_by_what_it_is_and_not_by_how_it_was_swept():
    swept = points(MLP, Hyper(), product(l2=[0.0, 0.1], steps=[10, 20]), range(2))
    alone = points(dataclasses.replace(MLP, steps=20), Hyper(l2=0.1), NOTHING, [1])
    assert len({p.run_id for p in swept}) == len(swept) == 8
    assert alone[0].run_id == swept[-1].run_id
    assert len(alone[0].run_id) == 16


def test_ids_are_digests_of_the_whole_run_however_they_are_made():
    for grid in (product(l2=[0, 0.1], steps=[10, 20]), explicit({"nesterov": True}, {"evaluate_every": 1})):
        for point in points(MLP, Hyper(learning_rate=1), grid, [0, 7]):
            whole = {"spec": point.spec, "hyper": point.hyper, "seed": point.seed}
            text = json.dumps(to_json(whole), sort_keys=True)
            assert point.run_id == digest(whole) == hashlib.sha256(text.encode()).hexdigest()[:16]
            assert dataclasses.replace(point, seed=8).run_id != point.run_id
    swept = points(MLP, Hyper(), explicit({"milestones": (0.5,)}, {"milestones": (0.25,)}), [0, 1])
    assert len({id(point.spec) for point in swept}) == 2  # seeds share a Spec, and its JSON
    equal = (
        points(MLP, Hyper(), explicit({"model.bent": 1}), [0])[0],
        points(MLP, Hyper(), explicit({"model.bent": True}), [0])[0],
    )
    assert equal[0].run_id != equal[1].run_id  # though Python calls them equal


def test_whole_numbers_name_the_run_of_their_floats():
    whole = points(MLP, Hyper(learning_rate=1, l2=0), explicit({"momentum": 0}), [0])[0]
    real = points(MLP, Hyper(learning_rate=1.0), explicit({"momentum": 0.0}), [0])[0]
    assert whole.run_id == real.run_id
    sized = points(MLP, Hyper(), explicit({"train_size": 100}), [0])[0]
    assert type(sized.hyper.train_size) is int


def test_assignments_reach_model_data_spec_and_numbers():
    changes = {"model.width": 4, "data.image_size": 16, "steps": 7, "l2": 0.5, "model": "resnet8_cifar"}
    spec, hyper = assign(Spec(), Hyper(), changes)
    assert (spec.model, spec.model_fields) == ("resnet8_cifar", (("width", 4),))
    assert (spec.data, spec.steps, hyper.l2) == (DataConfig(image_size=16), 7, 0.5)
    assert assign(spec, hyper, {"model.norm": "none"})[0].model_fields == (("norm", "none"), ("width", 4))
    assert (spec, hyper) == assign(Spec(), Hyper(), dict(reversed(changes.items())))


@pytest.mark.parametrize(
    ("grid", "seeds", "message"),
    [
        ((), [0], "The sweep is empty"),
        (NOTHING, [], "The sweep is empty: give at least one point and one seed"),
        (explicit({"weight_deacy": 0.1}), [0], "Unknown swept name 'weight_deacy'. Did you mean 'weight_decay'"),
        (explicit({"data.imagesize": 8}), [0], "Unknown field of data 'imagesize'. Did you mean 'image_size'"),
        (explicit({"data": "digits"}), [0], "Unknown swept name 'data'"),
        (explicit({"model_fields": ()}), [0], "Unknown swept name 'model_fields'"),
        (explicit({"model.hidden": [8]}), [0], "model.hidden=[8] cannot be swept: it can change. Use a tuple"),
        (explicit({"l2": 0.1}, {"l2": 0.2}, {"l2": 0.1}), [0], "holds one run twice: {'l2': 0.1} and {'l2': 0.1}"),
        (explicit({}, {"l2": 0}), [7], "{} and {'l2': 0} with seed 7 are the same. Remove one"),
        (NOTHING, [1, 1], "with seed 1 are the same"),
        (NOTHING, [-1], "The seed -1 must be a whole number from 0 to 2**32 - 1"),
        (NOTHING, [2**32], "The seed 4294967296 must be"),
        (NOTHING, [0.5], "The seed 0.5 must be"),
        (NOTHING, np.arange(2), "must be a whole number from 0 to 2**32 - 1"),
    ],
)
def test_bad_points_are_refused(unchecked, grid, seeds, message):
    with pytest.raises(UsageError) as error:
        points(MLP, Hyper(), grid, seeds)
    assert message in str(error.value)


# Plans


def test_runs_of_one_spec_share_bundles_of_one_width():
    made = points(MLP, Hyper(), product(steps=[10, 20], l2=[0.0, 0.1, 0.2]), range(3))
    planned = plan(made, "cpu", Driver("scan", 4))
    assert planned.points == made
    assert planned.programs == 2
    assert [len(bundle.points) for bundle in planned.bundles] == [4, 4, 1, 4, 4, 1]
    assert [bundle.spec.steps for bundle in planned.bundles] == [20] * 3 + [10] * 3  # the costliest first
    assert {p.run_id for bundle in planned.bundles for p in bundle.points} == {p.run_id for p in made}
    assert all(p.spec == bundle.spec for bundle in planned.bundles for p in bundle.points)
    short = planned.bundles[2]
    assert short.padded() == [short.points[0]] * 4
    assert len({bundle.bundle_id for bundle in planned.bundles}) == 6


def test_a_bundle_is_named_by_its_runs_and_driver():
    (first,) = plan(points(MLP, Hyper(), NOTHING, range(2)), "cpu", Driver("scan", 2)).bundles
    again, more = plan(points(MLP, Hyper(), NOTHING, range(3)), "cpu", Driver("scan", 2)).bundles
    assert again == first
    assert again.bundle_id == first.bundle_id
    assert len({b.bundle_id for b in (first, more, dataclasses.replace(first, driver=Driver("loop", 2)))}) == 3


def test_the_driver_is_a_fixed_rule_of_platform_and_cost():
    small, large = (
        plan(points(Spec(model=m), Hyper(), NOTHING, [0]), "cpu").bundles[0] for m in ("mlp", "resnet8_cifar")
    )
    assert small.image_cost == 64 * 100 + 100 * 10
    assert (small.driver, large.driver) == (Driver("scan", 8), Driver("scan", 1))
    assert large.cost == large.image_cost * 128 * 200
    for platform, rules in rule.RULES.items():
        assert rules[-1].multiply_adds == float("inf")
        for each in rules[:-1]:
            assert rule.default_driver(platform, int(each.multiply_adds)) == each.driver
            assert rule.default_driver(platform, int(each.multiply_adds) + 1) != each.driver


def test_one_bad_point_among_many_stops_the_plan():
    grid = product(axis("l2", [k / 100 for k in range(100)]), momentum=[0.5, 0.9])
    assert len(plan(points(MLP, Hyper(), grid, [0]), "cpu").points) == 200
    with pytest.raises(UsageError, match=r"momentum=1.5 is out of range"):
        plan(points(MLP, Hyper(), (*grid[:150], {"momentum": 1.5}, *grid[150:]), [0]), "cpu")
    with pytest.raises(UsageError, match="lenet5_classic needs images of at least 32x32 pixels, not 8x8"):
        plan(points(Spec(), Hyper(), explicit({"model": "mlp"}, {"model": "lenet5_classic"}), [0]), "cpu")


def test_forecasts_grow_with_the_work():
    def forecast(**changes):
        (bundle,) = plan(points(dataclasses.replace(MLP, **changes), Hyper(), NOTHING, [0]), "cpu").bundles
        seconds = rule.forecast_seconds("cpu", bundle.spec, bundle.image_cost)
        return seconds, rule.forecast_bytes(bundle.spec, bundle.info, bundle.driver)

    seconds, size = forecast()
    assert seconds == 3 * (64 * 8 + 8 * 10) * 8 * 10 / rule.FORECAST_RATE["cpu"]
    assert forecast(steps=20) == (2 * seconds, size)
    assert forecast(batch_size=4096)[1] > size > 400 * 2**20


def test_a_bundle_without_free_lanes_needs_no_padding():
    (bundle,) = plan(points(MLP, Hyper(), NOTHING, range(2)), "cpu", Driver("scan", 2)).bundles
    assert isinstance(bundle, Bundle)
    assert bundle.padded() == list(bundle.points)
