"""Which driver, and what a sweep gains: loop against scan, lanes, and sixteen LeNet-5 runs at once.

    python -m benchmarks.drivers

The table of drivers is measured in one process pinned to one core, as a worker is. The sixteen runs are
measured twice: as a user without this project would do them (plain Flax and optax, one jitted step called
from Python, one run after the other, all cores), and by worker processes, one pinned to each core.
"""

import functools
import multiprocessing
import time

from benchmarks.measure import alternate, machine, record

STEPS = 20
NETS = {
    "mlp, digits, batch 32": ("mlp", (), 32),
    "lenet5 SAME, digits, batch 32": ("lenet5", (("padding", "SAME"),), 32),
    "resnet8 width 4, digits, batch 32": ("resnet8_cifar", (("width", 4),), 32),
    "resnet20 width 8, digits, batch 128": ("resnet20_cifar", (("width", 8),), 128),
}
RUNS, SWEEP_STEPS, BATCH = 16, 500, 32


def driver_table(results) -> None:
    """In a process of its own, because it pins itself."""
    from cnnjax.data import DataConfig, load
    from cnnjax.sweep import rule, supervise
    from cnnjax.train import Hyper, Spec

    supervise.pin(0, 1)
    dataset = load(DataConfig("digits"))
    table = {}
    for name, (model, fields, batch) in NETS.items():
        spec = Spec(model=model, model_fields=fields, steps=2000, batch_size=batch)
        candidates = [d for d in rule.CANDIDATES if d.lanes == 1 or model != "resnet20_cifar"]
        rates = rule.calibrate(spec, Hyper(), dataset, candidates, STEPS, rounds=5)
        table[name] = {
            "multiply-adds per image": rule.cost(spec, dataset.info),
            "steps per second, all lanes": {f"{d.form}, {d.lanes} lanes": round(r, 1) for d, r in rates.items()},
        }
        by_driver = {(d.form, d.lanes): r for d, r in rates.items()}
        table[name]["scan: time per step over loop's"] = round(by_driver["loop", 1] / by_driver["scan", 1], 3)
    results.put(table)


def plain_runs() -> float:
    """Model-steps per second of plain Flax, one run after the other; compiled beforehand."""
    advance = _plain()
    started = time.perf_counter()
    for seed in range(RUNS):
        advance(seed, SWEEP_STEPS)
    return RUNS * SWEEP_STEPS / (time.perf_counter() - started)


@functools.cache
def _plain():
    import flax.linen as nn
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from cnnjax.data import DataConfig, load

    class LeNet5(nn.Module):
        @nn.compact
        def __call__(self, x):
            for features in (6, 16):
                x = nn.avg_pool(nn.tanh(nn.Conv(features, (5, 5))(x)), (2, 2), (2, 2))
            x = x.reshape(x.shape[0], -1)
            for units in (120, 84):
                x = nn.tanh(nn.Dense(units)(x))
            return nn.Dense(10)(x)

    dataset = load(DataConfig("digits"))
    images = jnp.asarray(dataset.images[:1024], jnp.float32) / 255
    labels = jnp.asarray(dataset.labels[:1024])
    model, optimizer = LeNet5(), optax.sgd(0.1, momentum=0.9)

    @jax.jit
    def step(params, moments, indices):
        def loss(params):
            logits = model.apply({"params": params}, images[indices])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels[indices]).mean()

        updates, moments = optimizer.update(jax.grad(loss)(params), moments)
        return optax.apply_updates(params, updates), moments

    init = jax.jit(lambda key: model.init(key, images[:1])["params"])

    def advance(seed: int, steps: int) -> None:
        params = init(jax.random.key(seed))
        moments = optimizer.init(params)
        for indices in np.random.default_rng(seed).integers(0, 1024, (steps, BATCH)):
            params, moments = step(params, moments, indices)
        jax.block_until_ready(params)

    advance(0, 2)
    return advance


class Workers:
    """One process per core, each with its share of the runs, started and compiled before the clock."""

    def __init__(self, count: int):
        context = multiprocessing.get_context("spawn")
        self.pipes = []
        for number in range(count):
            ours, theirs = context.Pipe()
            context.Process(target=_worker, args=(theirs, number, count), daemon=True).start()
            self.pipes.append(ours)
        for pipe in self.pipes:
            pipe.recv()

    def runs(self) -> float:
        started = time.perf_counter()
        for pipe in self.pipes:
            pipe.send("again")
        for pipe in self.pipes:
            pipe.recv()
        return RUNS * SWEEP_STEPS / (time.perf_counter() - started)

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.send("done")


def _worker(pipe, number: int, count: int) -> None:
    from cnnjax.data import DataConfig, load
    from cnnjax.sweep import rule, supervise
    from cnnjax.train import Hyper, Spec
    from cnnjax.train.run import train

    supervise.pin(number, 1)
    dataset = load(DataConfig("digits"))
    spec = Spec(model="lenet5", model_fields=(("padding", "SAME"),), steps=SWEEP_STEPS, batch_size=BATCH)
    driver = rule.default_driver("cpu", rule.cost(spec, dataset.info))
    seeds = list(range(number, RUNS, count))
    bundles = [seeds[at : at + driver.lanes] for at in range(0, len(seeds), driver.lanes)]
    train(spec, [Hyper()] * driver.lanes, bundles[0], dataset, driver)
    pipe.send("ready")
    while pipe.recv() == "again":
        for bundle in bundles:
            train(spec, [Hyper()] * driver.lanes, bundle, dataset, driver)
        pipe.send("done")


def main() -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=driver_table, args=(queue,))
    process.start()
    table = queue.get()
    process.join()
    ran_on = machine()
    workers = Workers(ran_on["cores"])
    rates = alternate(
        {"plain Flax, one after the other": plain_runs, "cnnjax, a worker per core": workers.runs}, rounds=5
    )
    workers.close()
    gain = rates["cnnjax, a worker per core"]["median"] / rates["plain Flax, one after the other"]["median"]
    record(
        "drivers",
        "Training steps per second by driver on one core; model-steps per second of sixteen LeNet-5 runs on digits, "
        "evaluation included for cnnjax and absent for plain Flax",
        "python -m benchmarks.drivers",
        ran_on,
        {"drivers, one core": table, "sixteen LeNet-5 runs": rates, "sixteen LeNet-5 runs, gain": round(gain, 2)},
    )


if __name__ == "__main__":
    main()
