"""Which driver runs a group: a fixed rule of (platform, spec), so that a command compiles the same program always.

Results depend on the driver to the bit, so it is never chosen by timing behind the user's back;
``calibrate`` measures, and the user passes what it prints.
"""

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from cnnjax import tree
from cnnjax.analysis import activations, multiply_adds
from cnnjax.data.catalog import Dataset, Info
from cnnjax.data.feed import Feed
from cnnjax.tasks.task import shapes_of
from cnnjax.train.features import head_alone, start
from cnnjax.train.program import Driver, program, stack_hyper
from cnnjax.train.spec import Hyper, Spec, build_model


class Rule(NamedTuple):
    """Applies to nets of at most ``multiply_adds`` per image; the first that applies is taken."""

    multiply_adds: float
    driver: Driver


# CPU: benchmarks/drivers.py, results in benchmarks/results/drivers.json. Eight lanes triple the speed of nets
# without convolutions. Small convolutional nets gain about a quarter with four lanes, steps alone; they stay
# at one until whole sweeps, with their longer compiling and padded bundles, are measured. GPU and TPU: not
# measured yet; one run at a time is the choice that cannot hurt.
RULES: dict[str, tuple[Rule, ...]] = {
    "cpu": (Rule(3e4, Driver("scan", 8)), Rule(float("inf"), Driver("scan", 1))),
    "gpu": (Rule(float("inf"), Driver("scan", 1)),),
    "tpu": (Rule(float("inf"), Driver("scan", 1)),),
}

# Multiply-adds per second of forward and backward pass together, for forecasts only: what one core
# of a 2020s server did in benchmarks/drivers.py, to within a factor of three.
FORECAST_RATE = {"cpu": 7e9, "gpu": 5e12, "tpu": 5e12}


def cost(spec: Spec, info: Info) -> int:
    """Multiply-adds of one image in one forward pass; of the head alone, where the features are cached."""
    if (alone := head_alone(spec, info)) is not None:
        return multiply_adds(alone.head, alone.image_shape)
    return multiply_adds(build_model(spec, info.num_classes), info.image_shape)


def default_driver(platform: str, image_cost: int) -> Driver:
    """The driver for a net of ``image_cost`` multiply-adds per image on "cpu", "gpu" or "tpu"."""
    return next(rule.driver for rule in RULES[platform] if image_cost <= rule.multiply_adds)


def forecast_seconds(platform: str, spec: Spec, image_cost: int) -> float:
    """Seconds that one run's training may take on one core or device: three passes over every image."""
    return 3 * image_cost * spec.batch_size * spec.steps / FORECAST_RATE[platform]


def forecast_bytes(spec: Spec, info: Info, driver: Driver) -> int:
    """Memory that one process may need: dataset, parameters and optimizer, activations, and JAX itself."""
    model = build_model(spec, info.num_classes)
    parameters = tree.count(shapes_of(model, info.image_shape)["params"])
    dataset = sum(info.sizes.values()) * math.prod(info.image_shape)
    # A layer's output is kept before and after normalisation, and has gradients of both.
    each = 4 * (4 * spec.batch_size * activations(model, info.image_shape) + 8 * parameters)
    return 2 * dataset + driver.members * each + 400 * 2**20


CANDIDATES = tuple(Driver(form, lanes) for form in ("loop", "scan") for lanes in (1, 4, 8))


def calibrate(
    spec: Spec,
    hyper: Hyper,
    dataset: Dataset,
    candidates: Sequence[Driver] = CANDIDATES,
    steps: int = 20,
    rounds: int = 3,
) -> dict[Driver, float]:
    """Training steps per second, over all lanes, of each candidate driver in this process.

    Candidates take turns, and the median of the rounds counts.
    """
    times: dict[Driver, list[float]] = {candidate: [] for candidate in candidates}
    advance = {candidate: _timer(spec, hyper, dataset, candidate, steps) for candidate in candidates}
    for _ in range(rounds):
        for candidate in candidates:
            times[candidate].append(advance[candidate]())
    return {driver: steps * driver.lanes / float(np.median(taken)) for driver, taken in times.items()}


def _timer(spec: Spec, hyper: Hyper, dataset: Dataset, driver: Driver, steps: int):
    """A function that runs some steps and returns the seconds they took, compiled beforehand."""
    begun = start(spec, dataset)
    compiled = program(begun.spec, begun.dataset.info, driver)
    seeds = list(range(driver.lanes))
    feed = Feed(begun.dataset, "auto", seeds, [int(hyper.train_size)] * driver.lanes, spec.batch_size, steps)
    chunk = next(iter(feed.chunks([(0, steps)])))
    hypers, seed_array = stack_hyper([hyper] * driver.lanes), np.asarray(seeds, np.uint32)
    carry = (compiled.initial_state(hypers, seed_array, chunk.pool, begun.given), compiled.zeros())

    def advance() -> float:
        nonlocal carry
        started = time.perf_counter()
        carry = compiled.advance(carry[0], carry[1], hypers, chunk)
        jax.block_until_ready(carry[1])
        return time.perf_counter() - started

    advance()
    return advance
