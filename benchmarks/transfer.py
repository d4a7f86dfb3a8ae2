"""What freezing saves: a training step of ResNet-18 from weights, by what trains, and on features computed once.

    python -m benchmarks.transfer

The contestants are whole training steps, compiled as a run compiles them, in one process pinned to one core. Its
processor time counts, not the time that passed, so that other work on the machine does not. The weights are drawn:
what they are changes no time.
"""

import tempfile
import time
from pathlib import Path

from benchmarks.measure import alternate, machine, record

MODEL, SIDE, BATCH, IMAGES, ROUNDS = "resnet18", 64, 32, 512, 7
STEPS = 2, 500  # of each measurement; of steps on features
TARGETS = {"head": 3, "head on cached features": 20}


def main() -> None:
    from cnnjax.sweep import supervise

    supervise.pin(0, 1)
    import jax

    from cnnjax.data import DataConfig, load

    jax.config.update("jax_enable_compilation_cache", False)  # what filling the cache of features costs, whole
    dataset = load(DataConfig("shapes", image_size=SIDE, examples=IMAGES))
    with tempfile.TemporaryDirectory() as directory:
        weights = str(Path(directory, "weights.safetensors"))
        draw(weights, dataset)
        made = {
            "all": timer(weights, dataset, "all"),
            "late": timer(weights, dataset, "late"),
            "head": timer(weights, dataset, "head", cache=False),
            "head on cached features": timer(weights, dataset, "head"),
        }
    steps = alternate({name: measure for name, (measure, *_) in made.items()}, ROUNDS)
    whole = steps["all"]["median"]
    ratios = {name: round(whole / step["median"], 1) for name, step in steps.items() if name != "all"}
    reached = {
        f"{name} at least {least} times faster than all": ratios[name] >= least for name, least in TARGETS.items()
    }
    _, begun, seconds = made["head on cached features"]
    record(
        "transfer",
        f"Processor milliseconds of a training step of {MODEL} (batch {BATCH}, {SIDE}x{SIDE}x3, float32), by the "
        "stages that train, and what computing the features once costs",
        "python -m benchmarks.transfer",
        {**machine(), "cores": 1},
        {
            "milliseconds": {name: {k: round(v, 3) for k, v in step.items()} for name, step in steps.items()},
            "all's time over": ratios,
            **reached,
            "filling the cache, once": {
                "images": len(begun.dataset.labels),
                "processor seconds, compiling and reading the weights included": round(seconds, 2),
                "as many steps of all": round(1e3 * seconds / whole, 1),
            },
        },
    )


def draw(path: str, dataset) -> None:
    """Writes weights of the network, as a seed draws them."""
    import jax
    import jax.numpy as jnp

    from cnnjax import models, weights

    fields = {"num_classes": dataset.info.num_classes}
    images = jnp.zeros((1, *dataset.info.image_shape))
    variables = jax.jit(models.create(MODEL, **fields).init)(jax.random.key(0), images)
    weights.save(path, variables, MODEL, image_shape=dataset.info.image_shape, **fields)


def timer(weights: str, dataset, regime: str, cache: bool = True):
    """How long training takes.

    Returns:
      A function that takes some steps and returns the processor milliseconds of one; what training begins with, and
      the processor seconds to make that.
    """
    import jax
    import numpy as np

    from cnnjax import models
    from cnnjax.data.feed import Feed
    from cnnjax.train import Hyper, Spec
    from cnnjax.train.features import start
    from cnnjax.train.program import Driver, program, stack_hyper

    count = STEPS[regime == "head" and cache]
    spec = Spec(
        model=MODEL, batch_size=BATCH, steps=count, weights=weights, frozen=models.frozen_stages(MODEL, regime),
        cache_features=cache,
    )  # fmt: skip
    started = time.process_time()
    begun = start(spec, dataset)
    seconds = time.process_time() - started
    compiled = program(begun.spec, begun.dataset.info, Driver("scan", 1))
    (chunk,) = Feed(begun.dataset, "resident", [0], [0], BATCH, count).chunks([(0, count)])
    hyper = stack_hyper([Hyper()])
    carry = compiled.initial_state(hyper, np.zeros(1, np.uint32), chunk.pool, begun.given), compiled.zeros()

    def measure() -> float:
        nonlocal carry
        started = time.process_time()
        carry = compiled.advance(*carry, hyper, chunk)
        jax.block_until_ready(carry)
        return 1e3 * (time.process_time() - started) / count

    measure()
    return measure, begun, seconds


if __name__ == "__main__":
    main()
