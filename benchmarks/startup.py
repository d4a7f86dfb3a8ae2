"""How long until something happens: help, and the first training step on a cold compilation cache.

    python -m benchmarks.startup

Each contestant is a fresh process, timed from outside. Beside the first step of our ResNet-20 runs the
same net in plain Flax and optax, jitted the usual way.
"""

import os
import subprocess
import sys
import tempfile
import time

from benchmarks.measure import alternate, machine, record

OURS = """
from cnnjax.data import DataConfig, load
from cnnjax.train import Hyper, Spec
from cnnjax.train.program import Driver
from cnnjax.train.run import Interrupted, train
spec = Spec(model="resnet20_cifar", model_fields=(("width", 8),))
try:
    train(spec, [Hyper()], [0], load(DataConfig("digits")), Driver(), chunk_steps=1, should_stop=lambda: True)
except Interrupted:
    pass
"""

PLAIN = """
import flax.linen as nn, jax, jax.numpy as jnp, optax
from sklearn.datasets import load_digits
class Block(nn.Module):
    features: int
    stride: int = 1
    @nn.compact
    def __call__(self, x, train):
        conv = lambda s: nn.Conv(self.features, (3, 3), (s, s), use_bias=False)
        y = nn.relu(nn.BatchNorm(not train, momentum=0.9)(conv(self.stride)(x)))
        y = nn.BatchNorm(not train, momentum=0.9)(conv(1)(y))
        if x.shape != y.shape:
            e = self.features - x.shape[-1]
            x = jnp.pad(x[:, :: self.stride, :: self.stride], ((0, 0), (0, 0), (0, 0), (e // 2, e - e // 2)))
        return nn.relu(x + y)
class ResNet20(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(nn.BatchNorm(not train, momentum=0.9)(nn.Conv(8, (3, 3), use_bias=False)(x)))
        for stage in range(3):
            for block in range(3):
                x = Block(8 * 2**stage, 2 if stage and not block else 1)(x, train)
        return nn.Dense(10)(x.mean((1, 2)))
data = load_digits()
images = jnp.asarray(data.images[:128, :, :, None] / 16.0, jnp.float32)
labels = jnp.asarray(data.target[:128])
model, optimizer = ResNet20(), optax.sgd(0.1, momentum=0.9)
variables = jax.jit(lambda k: model.init(k, images[:1], True))(jax.random.key(0))
state = (variables["params"], variables["batch_stats"], optimizer.init(variables["params"]))
@jax.jit
def step(state, images, labels):
    params, stats, moments = state
    def loss(params):
        variables = {"params": params, "batch_stats": stats}
        logits, new = model.apply(variables, images, True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), new["batch_stats"]
    gradients, stats = jax.grad(loss, has_aux=True)(params)
    updates, moments = optimizer.update(gradients, moments)
    return optax.apply_updates(params, updates), stats, moments
jax.block_until_ready(step(state, images, labels))
"""


def seconds(*command: str) -> float:
    with tempfile.TemporaryDirectory() as cold:
        environment = {**os.environ, "CNNJAX_CACHE": cold}
        started = time.perf_counter()
        subprocess.run([sys.executable, *command], check=True, env=environment, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started


def main() -> None:
    helps = alternate(
        {
            "experiments.degradation --help": lambda: seconds("-m", "experiments.degradation", "--help"),
            "import jax, flax.linen": lambda: seconds("-c", "import jax, flax.linen"),
        },
        rounds=5,
    )
    steps = alternate(
        {"cnnjax": lambda: seconds("-c", OURS), "plain Flax": lambda: seconds("-c", PLAIN)},
        rounds=5,
    )
    ratio = steps["cnnjax"]["median"] / steps["plain Flax"]["median"]
    record(
        "startup",
        "Seconds of a whole process: help; the first training step of ResNet-20 (width 8, digits) with nothing cached",
        "python -m benchmarks.startup",
        machine(),
        {"help": helps, "first step, cold": steps, "first step, ratio to plain Flax": round(ratio, 2)},
    )


if __name__ == "__main__":
    main()
