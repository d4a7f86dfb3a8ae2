"""What saving costs: one checkpoint of a small and of a large state, and its share of a run's time.

    python -m benchmarks.checkpointing

In one process pinned to one core, as a worker is: there the thread that writes takes its time from the training. Of
one save the time that passed counts; of the runs the processor time of all threads, so that other work on the machine
does not.
"""

import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.measure import alternate, machine, record

STATES = {"small": ("resnet20_cifar", 32), "large": ("vgg16", 96)}
ROUNDS, STEPS, BATCH, SAVES = 4, 8000, 32, 3


def main() -> None:
    from cnnjax.sweep.supervise import pin

    pin(0, 1)
    import jax

    from cnnjax.train.saver import SHARE, period

    jax.config.update("jax_enable_compilation_cache", False)
    with tempfile.TemporaryDirectory() as directory:
        saves = {name: one_save(Path(directory, name), *state) for name, state in STATES.items()}
        runs, saved = contest(Path(directory, "run"), saves["small"]["seconds of the first"])
        times = alternate(runs, ROUNDS)
    ratio = times["saving"]["median"] / times["not saving"]["median"]
    record(
        "checkpointing",
        "Seconds of one checkpoint, whole and as far as the training waits for it; processor seconds of a run "
        "(resnet20_cifar, width 8, on the embedded digits) that saves as often as it may for what one save costs, over "
        "those of one that saves nothing",
        "python -m benchmarks.checkpointing",
        {**machine(), "cores": 1},
        {
            "one checkpoint": saves,
            "period chosen, seconds": {name: round(period(60.0, each["seconds"]), 1) for name, each in saves.items()},
            "saves in a run": len(saved) / ROUNDS,
            "a run, processor seconds": {k: {n: round(v, 2) for n, v in each.items()} for k, each in times.items()},
            "saving over not saving": round(ratio, 3),
            f"at most {SHARE:.0%} more": ratio <= 1 + SHARE,
        },
    )


def one_save(directory: Path, model: str, side: int) -> dict[str, float]:
    """Megabytes of a state, and median seconds of its save and of the part of it that the training waits for."""
    import jax
    import jax.numpy as jnp

    from cnnjax import models
    from cnnjax.train.saver import Saver

    shapes = models.parameter_shapes(models.create(model, num_classes=1000), (side, side, 3))["params"]
    # The parameters and their momentum, as a run with sgd has them; drawn, for zeros would be compressed.
    draw = jax.jit(lambda shape, key: 0.02 * jax.random.normal(key, shape), static_argnums=0)
    leaves, structure = jax.tree_util.tree_flatten((shapes, shapes))
    state = structure.unflatten([draw(leaf.shape, jax.random.key(at)) for at, leaf in enumerate(leaves)])
    jax.block_until_ready(state)
    waited, whole = [], []
    with Saver(directory, {"model": model}, 0.0, 0.0) as saver:
        for step in range(SAVES + 1):
            started = time.perf_counter()
            saver.save(step, state, {"step": jnp.float32(step).item()})
            waited.append(time.perf_counter() - started)
            saver.wait()
            whole.append(time.perf_counter() - started)
    return {
        "megabytes": round(sum(leaf.nbytes for leaf in jax.tree_util.tree_leaves(state)) / 1e6, 1),
        "seconds": round(statistics.median(whole[1:]), 3),
        "seconds of the first": round(whole[0], 3),
        "seconds that the training waits": round(statistics.median(waited[1:]), 3),
    }


def contest(directory: Path, cost: float):
    """Two runs, of which one saves as often as the share of the time allows, and a list that grows with each save.

    Args:
      directory: for its checkpoints.
      cost: seconds that the first save is taken to cost, as the first of another state did.
    """
    from cnnjax.data import DataConfig, load
    from cnnjax.train import Hyper, Spec, checkpoint, saver
    from cnnjax.train.program import Driver
    from cnnjax.train.run import train

    saved: list[int] = []
    save, saver.FIRST_SECONDS = checkpoint.save, cost

    def counting(directory, owner, step, *rest):
        saved.append(step)
        save(directory, owner, step, *rest)

    dataset = load(DataConfig("digits"))
    spec = Spec(model="resnet20_cifar", model_fields=(("width", 8),), steps=STEPS, batch_size=BATCH)

    def run(checkpoints: Path | None) -> float:
        started = time.process_time()
        # The period asked for is none to speak of: what one save has cost decides alone.
        train(spec, [Hyper()], [0], dataset, Driver("scan", 1), checkpoints=checkpoints, checkpoint_seconds=1e-9)
        return time.process_time() - started

    run(None)  # compiles
    checkpoint.save = counting
    return {"not saving": lambda: run(None), "saving": lambda: run(directory)}, saved


if __name__ == "__main__":
    main()
