"""What scanning equal blocks saves: how soon ResNet-110 trains, and its step beside that of the unrolled network.

    python -m benchmarks.scanned_blocks

Batches of 128 images of 32x32 pixels, momentum, on all cores. The unrolled networks have the same blocks, written
out one after the other, each with parameters of its own. The start is that of a fresh process with an empty
compilation cache, which says itself when it has got how far. Processor time counts all threads; on a machine that
others use too it is the figure to compare.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from unittest import mock

from benchmarks.measure import machine, record

ROUNDS = {"resnet20_cifar": 7, "resnet110_cifar": 3}
STARTS = 5
START = """
import sys, time
from benchmarks.scanned_blocks import cifar_shaped, prepared
moments = {}
def reached(moment):
    moments[moment] = {"wall": time.time() - float(sys.argv[1]), "processor": time.process_time()}
import jax
from cnnjax.train.program import program
reached("imported")
state, advance = prepared("resnet110_cifar", program)
jax.block_until_ready(state)
reached("step compiled")
jax.block_until_ready(advance(state))
reached("first step done")
import json
print(json.dumps(moments))
"""


def main() -> None:
    ran_on = {**machine(), "load average before": round(os.getloadavg()[0], 1)}
    results = {"resnet110_cifar, seconds from the start of the process": starts()}
    results |= {name: compare(name, rounds) for name, rounds in ROUNDS.items()}
    record(
        "scanned_blocks",
        "Seconds to compile the training step of a CIFAR ResNet (batch 128), and of a step, its equal blocks scanned "
        "or unrolled",
        "python -m benchmarks.scanned_blocks",
        ran_on,
        results,
    )


def starts():
    """Moment -> seconds since the process was started: the medians, and the least."""
    found = []
    for _ in range(STARTS):
        with tempfile.TemporaryDirectory() as cold:
            command = [sys.executable, "-c", START, str(time.time())]
            ended = subprocess.run(command, check=True, env={**os.environ, "CNNJAX_CACHE": cold}, capture_output=True)
        found.append(json.loads(ended.stdout))
        print(found[-1], flush=True)
    return {
        moment: {
            f"{kind}, {which.__name__}": round(which(each[moment][kind] for each in found), 2)
            for kind in ("wall", "processor")
            for which in (statistics.median, min)
        }
        for moment in found[0]
    }


def compare(name: str, rounds: int):
    """Seconds on the clock and of the processor, and the ratios of a step's medians, measured in turn."""
    compiling, steps, measured = {}, {}, {}
    for form in ("scanned", "unrolled"):
        compiling[form], steps[form] = contestant(name, form)
        measured[form] = [steps[form]()]
        print(name, form, "compiling", compiling[form], "first step", measured[form], flush=True)
        measured[form] = []
    for _ in range(rounds):
        for form, step in steps.items():
            measured[form].append(step())
    step_seconds = {
        form: {kind: round(statistics.median(each[kind] for each in values), 3) for kind in ("wall", "processor")}
        for form, values in measured.items()
    }
    ratios = {kind: step_seconds["scanned"][kind] / step_seconds["unrolled"][kind] for kind in ("wall", "processor")}
    return {
        "compiling": compiling,
        "step": step_seconds,
        "step, scanned over unrolled": {kind: round(ratio, 3) for kind, ratio in ratios.items()},
    }


def contestant(name: str, form: str):
    """What compiling took, and a function that takes a step and returns what that took."""
    import jax

    from cnnjax.models import resnet
    from cnnjax.train.program import Program

    clock = Clock()
    with mock.patch.object(resnet, "repeat", resnet.repeat if form == "scanned" else one_after_the_other):
        carry, advance = prepared(name, Program)
    jax.block_until_ready(carry)
    compiling = clock.read()

    def step():
        nonlocal carry
        clock = Clock()
        carry = jax.block_until_ready(advance(carry))
        return clock.read()

    return compiling, step


def prepared(name: str, make_program):
    """The state before the first step, and a function from the state before a step to that after it, compiled."""
    import numpy as np

    from cnnjax.data.feed import Feed
    from cnnjax.train import Hyper, Spec
    from cnnjax.train.program import Driver, stack_hyper

    dataset = cifar_shaped()
    spec, hyper = Spec(model=name), stack_hyper([Hyper()])
    program = make_program(spec, dataset.info, Driver())
    first = next(iter(Feed(dataset, "auto", [0], [0], spec.batch_size, 1).chunks([(0, 1)])))
    state = program.start(hyper, np.zeros(1, np.uint32), first)
    return (state, program.zeros()), lambda carry: program.advance(*carry, hyper, first)


def cifar_shaped():
    """A dataset of a few random images of CIFAR-10's shape."""
    import numpy as np

    from cnnjax.data.dataset import Info, assemble

    info = Info("random", (32, 32, 3), 10, {"train": 128, "valid": 1, "test": 1}, tuple("0123456789"))
    images = np.random.default_rng(0).integers(0, 256, (130, 32, 32, 3), np.uint8)
    return assemble(info, images, np.arange(130, dtype=np.int32) % 10)


def one_after_the_other(block, times, x, train, dropout_rate):
    """``models.resnet.repeat`` without a loop."""
    for index in range(times):
        x = block.clone(parent=block.parent, name=f"{block.name}_{index}")(x, train, dropout_rate)
    return x


class Clock:
    """Seconds since it was made: on the wall, and of the processor."""

    def __init__(self):
        self.wall, self.processor = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        wall, processor = time.perf_counter() - self.wall, time.process_time() - self.processor
        return {"wall": round(wall, 3), "processor": round(processor, 3)}


if __name__ == "__main__":
    main()
