import json
import os
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import numpy as np
import pytest

from cnnjax.sweep.grid import NOTHING
from cnnjax.sweep.plan import AUTO, plan, points
from cnnjax.train import shard
from cnnjax.train.program import Driver
from cnnjax.train.spec import Hyper, Spec
from cnnjax.typing import UsageError

ROOT = Path(__file__).parents[2]

# Several devices, in one process of their own

ON_FOUR = """
import dataclasses, json, sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, PartitionSpec as P
from cnnjax.data.catalog import DataConfig, load
from cnnjax.data.feed import DATA, Feed
from cnnjax.nn.norm import EPSILON, standardize
from cnnjax.sweep.bundle import signature
from cnnjax.sweep.grid import NOTHING
from cnnjax.sweep.plan import plan, points
from cnnjax.train import shard
from cnnjax.train.program import Driver
from cnnjax.train.run import Interrupted, train
from cnnjax.train.spec import Hyper, Spec
from cnnjax.typing import UsageError

digits, found = load(DataConfig()), {}
spec = Spec(model="mlp", model_fields=(("hidden", (8,)), ("norm", "batch")), steps=12, batch_size=16, evaluate_every=6)
measured = dataclasses.replace(spec, keep_weights=True, keep_outputs=True, probes=("batch_statistics",))
drawing = Hyper(dropout=0.2, label_noise=0.1, train_size=300)
still = dataclasses.replace(drawing, dropout=0.0)

def run(driver, hyper=drawing, seeds=None, spec=spec, **options):
    seeds = range(driver.members) if seeds is None else seeds
    return train(spec, [hyper] * len(seeds), list(seeds), digits, driver, **options)

def digests(outcomes):
    return [outcome.parameters_digest for outcome in outcomes]

for lanes, runs in ((1, 4), (2, 2)):
    alone = Driver("scan", lanes)
    each = [run(alone, seeds=range(at, at + lanes)) for at in range(0, 4, lanes)]
    found[f"alone {lanes}"] = [digest for outcomes in each for digest in digests(outcomes)]
    found[f"spread {lanes}"] = digests(run(Driver("scan", lanes, runs)))

def summary(outcome):
    flat = jax.tree_util.tree_leaves_with_path(outcome.variables)
    return {"losses": [record[f"{split}_loss"] for record in outcome.history for split in ("batch", "train", "valid")],
            "metrics": [outcome.metrics[name] for name in ("test_loss", "test_error", "test_loss_batch_statistics")],
            "weights": [np.asarray(leaf).ravel().tolist() for path, leaf in flat],
            "outputs": np.asarray(outcome.outputs["probabilities"]).ravel().tolist()}

shared = {bn: Driver("scan", 1, 1, 4, bn) for bn in ("synchronised", "local")}
(one,), (four,) = (run(driver, still, spec=measured) for driver in (Driver("scan", 1), shared["synchronised"]))
(local,) = run(shared["local"], still)
found["one"], found["four"] = summary(one), summary(four)
found["local"] = [record["batch_loss"] for record in local.history]
(drawn, other) = (run(shared["synchronised"])[0] for _ in range(2))
found["drawn"] = [drawn.parameters_digest, other.parameters_digest]
found["streamed"] = digests(run(shared["synchronised"], feed_mode="stream"))

# What is cut in two must not leak
both = run(Driver("scan", 1, 2, 2))
found["grid"] = [digests(both), [run(Driver("scan", 1, 1, 2), drawing, [seed])[0].parameters_digest for seed in (0, 1)]]

# Stopped on four devices
place = Path(sys.argv[1])
def stopped():
    try:
        run(shared["synchronised"], checkpoints=place, chunk_steps=4, should_stop=lambda: True)
    except Interrupted:
        return
stopped()
try:
    run(Driver("scan", 1, 1, 2), checkpoints=place)
except UsageError as error:
    found["refused"] = str(error)
steps = []
(mixed,) = run(Driver("scan", 1, 1, 2), checkpoints=place, mix_signatures=True, on_progress=steps.append)
found["mixed"] = [steps, mixed.parameters_digest, mixed.metrics["train_loss"], drawn.metrics["train_loss"]]
stopped()
found["resumed"] = digests(run(shared["synchronised"], checkpoints=place))

# Each device gets the examples that it needs, and no others
mesh = shard.mesh(2, 2)
(chunk,) = Feed(digits, "stream", [0, 1], [0, 0], 16, 3, mesh).chunks([(0, 3)])
wanted = next(iter(Feed(digits, "resident", [0, 1], [0, 0], 16, 3).chunks([(0, 3)]))).indices
found["pools"] = [
    [pool["labels"].shape, {d.id for d in pool["labels"].devices()} == {d.id for d in row},
     all(np.array_equal(np.asarray(pool["labels"])[part][chunk.indices[:, run, part * 8:part * 8 + 8]],
                        digits.labels[wanted[:, run, part * 8:part * 8 + 8]]) for part in (0, 1))]
    for run, (pool, row) in enumerate(zip(chunk.pool, mesh.devices))]

# Gradients of the synchronised normalisation are those of the plain formula on the whole batch
rng = np.random.default_rng(0)
x, target = (rng.standard_normal((8, 3, 2, 5)).astype(np.float32) * 3 + 1 for _ in range(2))
scale, bias = rng.uniform(0.5, 2, 5).astype(np.float32), rng.standard_normal(5).astype(np.float32)
def plain(x, scale, bias):
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (((x - mean) / jnp.sqrt(var + EPSILON) * scale + bias) * target).sum()
def part(x, scale, bias, target):
    def value(*args):
        return (standardize(*args, EPSILON, DATA)[0] * target).sum()
    grads = jax.grad(value, (0, 1, 2))(x, scale, bias)
    return grads[0], jax.lax.psum(grads[1:], DATA)
split = jax.jit(jax.shard_map(part, mesh=Mesh(jax.devices(), (DATA,)), in_specs=(P(DATA), P(), P(), P(DATA)),
                              out_specs=(P(DATA), P()), check_vma=False))
gx, (gs, gb) = split(x, scale, bias, target)
expected = jax.jit(jax.grad(plain, (0, 1, 2)))(x, scale, bias)
found["gradients"] = [float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip((gx, gs, gb), expected)]

# Refusals and signatures
def planned(driver, **changes):
    made = points(dataclasses.replace(spec, **changes), Hyper(), NOTHING, [0, 1])
    return plan(made, "cpu", driver).bundles
found["refusals"] = []
for driver, batch_size in ((Driver("auto", data=8), 16), (Driver("auto", runs=5), 16), (Driver("auto", data=4), 18)):
    try:
        planned(driver, batch_size=batch_size)
    except UsageError as error:
        found["refusals"].append(str(error))
one_image_each = {"model": "mlp", "model_fields": (("norm", "batch"),), "batch_size": 4}
planned(Driver("scan", 1, data=4), **one_image_each)
try:
    planned(Driver("scan", 1, data=4, batch_norm="local"), **one_image_each)
except UsageError as error:
    found["refusals"].append(str(error))
def signed(driver):
    return signature(planned(driver)[0], 1, "cpu", "cpu")
usual = signed(Driver("scan", 1))
found["signatures"] = {"same": usual == signed(Driver("scan", 1, 4)),
                       "four": {k: v for k, v in signed(shared["local"]).items() if usual.get(k) != v}}
found["auto"] = list(planned(Driver("auto", runs=2, data=2))[0].driver)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    several = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    flags = {"XLA_FLAGS": several, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", ON_FOUR, tmp_path_factory.mktemp("checkpoints") / "one"], cwd=ROOT,
        env={**os.environ, **flags}, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.slow
def test_devices_that_share_the_runs_give_the_bits_of_one(four, lanes):
    assert four[f"spread {lanes}"] == four[f"alone {lanes}"]
    assert len(set(four["spread 1"])) == 4
    assert not set(four["alone 1"]) & set(four["alone 2"])  # other lanes are another program


@pytest.mark.slow
def test_devices_that_share_each_batch_agree_with_one_to_rounding(four):
    for name in ("losses", "metrics"):
        np.testing.assert_allclose(four["four"][name], four["one"][name], rtol=1e-5, atol=1e-6)
    for ours, expected in zip(four["four"]["weights"], four["one"]["weights"], strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(four["four"]["outputs"], four["one"]["outputs"], atol=2e-3)  # kept as float16


@pytest.mark.slow
def test_local_statistics_are_another_run_that_learns_too(four):
    gaps = np.abs(np.subtract(four["local"], four["one"]["losses"][::3]))
    assert gaps.max() > 1e-3
    assert gaps.max() < 0.5


@pytest.mark.slow
def test_the_feed_changes_no_bit_and_the_same_devices_repeat_themselves(four):
    assert four["streamed"] == four["drawn"][:1]
    assert four["drawn"][0] == four["drawn"][1]


@pytest.mark.slow
def test_runs_and_batches_are_shared_at_once(four):
    assert four["grid"][0] == four["grid"][1]
    assert len(set(four["grid"][0])) == 2


@pytest.mark.slow
def test_a_state_is_resumed_by_the_same_devices_and_by_others_only_if_asked(four):
    assert four["resumed"] == four["drawn"][:1]
    assert "data=4" in four["refused"]
    assert "data=2" in four["refused"]
    assert "--mix_signatures" in four["refused"]
    steps, digest, loss, expected = four["mixed"]
    assert min(steps) > 1  # it went on
    assert digest != four["drawn"][0]
    assert loss == pytest.approx(expected, rel=0.2)  # the devices drew other dropout


@pytest.mark.slow
def test_a_streaming_device_gets_only_the_examples_that_it_needs(four):
    assert four["pools"] == [[[2, 3 * 8], True, True]] * 2


@pytest.mark.slow
def test_synchronised_normalisation_has_the_gradients_of_the_plain_formula(four):
    assert max(four["gradients"]) < 1e-5


@pytest.mark.slow
def test_what_the_devices_cannot_share_is_refused(four):
    devices, runs, batch, one_image_each = four["refusals"]
    assert "run_devices=1 times data_devices=8 asks for 8 devices, but there are 4" in devices
    assert "--xla_force_host_platform_device_count=8" in devices
    assert "asks for 5 devices" in runs
    assert "batch_size=18 cannot be shared equally by data_devices=4. Use a multiple of 4, such as 16" in batch
    assert "in batches of 1: norm1 standardise a single value by itself" in one_image_each


@pytest.mark.slow
def test_signatures_tell_devices_that_share_batches_and_no_others(four):
    assert four["signatures"]["same"]
    told = {"device_count": 4, "data": 4, "processes": 1, "batch_norm": "local"}
    assert four["signatures"]["four"] == told
    assert four["auto"] == ["scan", 8, 2, 2, "synchronised"]  # form and lanes by the rule


# One device


class Foreign(nn.Module):
    num_classes: int = 10

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x.reshape(len(x), -1))
        return nn.Dense(self.num_classes)(x)


def test_batch_norm_that_knows_of_no_devices_is_refused(digits, mlp):
    with pytest.raises(UsageError, match=r"The layer norm is flax\.linen\.BatchNorm.*data_devices=1"):
        shard.check_network(Spec(model=Foreign(), steps=1), digits.info)
    shard.check_network(mlp, digits.info)


@pytest.mark.parametrize(
    ("driver", "message"),
    [
        (Driver(AUTO, batch_norm="synchronized"), "Unknown batch_norm 'synchronized'. Did you mean 'synchronised'"),
        (Driver("scan", runs=0), "run_devices must be at least 1, not 0"),
        (Driver("scan", data=-2), "data_devices must be at least 1, not -2"),
    ],
)
def test_a_bad_driver_is_refused_before_anything_is_loaded(mlp, driver, message):
    with pytest.raises(UsageError, match=message):
        plan(points(mlp, Hyper(), NOTHING, [0]), "cpu", driver)


def test_the_default_driver_names_what_it_named_before():
    assert Driver("scan", 8).of_state() == {"form": "scan", "lanes": 8}
    assert Driver("scan", 8, data=4).of_state() == Driver("scan", 8).of_state()
    assert (Driver("scan", 2, 3).members, Driver("scan", 2, 3, 4).devices) == (6, 12)
