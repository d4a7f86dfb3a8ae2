"""What all augmentations together cost: a training step of ResNet-20 on 32x32 colour images with and without.

    python -m benchmarks.augmentation

The contestants are whole training steps, compiled as a run compiles them, in one process pinned to one core. Its
processor time counts, not the time that passed, so that other work on the machine does not.
"""

import time

from benchmarks.measure import alternate, machine, record

BATCH, STEPS, ROUNDS, LIMIT = 128, 2, 7, 10.0


def main() -> None:
    from cnnjax.augment import AUGMENTATIONS
    from cnnjax.data import DataConfig, load
    from cnnjax.sweep import supervise

    supervise.pin(0, 1)
    dataset = load(DataConfig("shapes", image_size=32, examples=BATCH * STEPS))
    contestants = {"none": (), "flip, crop": ("flip", "crop"), "all": tuple(AUGMENTATIONS)}
    steps = alternate({name: timer(names, dataset) for name, names in contestants.items()}, ROUNDS)
    plain = steps["none"]["median"]
    shares = {name: round(100 * (step["median"] / plain - 1), 2) for name, step in steps.items() if name != "none"}
    record(
        "augmentation",
        f"Processor milliseconds of a training step of ResNet-20 (width 16, batch {BATCH}, 32x32x3), and what "
        "augmentations at strength 1 add to it",
        "python -m benchmarks.augmentation",
        {**machine(), "cores": 1},
        {
            "milliseconds": {name: {k: round(v, 2) for k, v in step.items()} for name, step in steps.items()},
            "added, % of a step without": shares,
            "all add at most 10 %": shares["all"] <= LIMIT,
        },
    )


def timer(names: tuple[str, ...], dataset):
    """A function that takes ``STEPS`` steps and returns the processor milliseconds of one; compiled beforehand."""
    import jax
    import numpy as np

    from cnnjax.data.feed import Feed
    from cnnjax.sweep import rule
    from cnnjax.train import Hyper, Spec
    from cnnjax.train.program import program, stack_hyper

    spec = Spec(model="resnet20_cifar", batch_size=BATCH, steps=STEPS, augment=names)
    compiled = program(spec, dataset.info, rule.default_driver("cpu", rule.cost(spec, dataset.info)))
    (chunk,) = Feed(dataset, "resident", [0], [0], BATCH, STEPS).chunks([(0, STEPS)])
    hyper = stack_hyper([Hyper()])
    carry = compiled.initial_state(hyper, np.zeros(1, np.uint32), chunk.pool), compiled.zeros()

    def measure() -> float:
        nonlocal carry
        started = time.process_time()
        carry = compiled.advance(*carry, hyper, chunk)
        jax.block_until_ready(carry)
        return 1e3 * (time.process_time() - started) / STEPS

    measure()
    return measure


if __name__ == "__main__":
    main()
