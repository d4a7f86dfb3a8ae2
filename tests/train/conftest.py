"""A net without convolutions, which compiles in a second or two, and a small one with everything on."""

import numpy as np
import pytest

from cnnjax.data.catalog import DataConfig, load
from cnnjax.data.feed import Feed
from cnnjax.train.program import program, stack_hyper
from cnnjax.train.run import CHUNK_STEPS
from cnnjax.train.spec import Hyper, Spec


@pytest.fixture(scope="session")
def digits():
    return load(DataConfig())


@pytest.fixture(scope="session")
def mlp():
    """A dense net of 12 steps, evaluated after 6 and 12."""
    return Spec(model="mlp", model_fields=(("hidden", (8,)),), steps=12, batch_size=16, evaluate_every=6)


@pytest.fixture(scope="session")
def net():
    """A residual net with batch normalisation and augmentation of 6 steps, evaluated after 3 and 6."""
    return Spec(
        model="resnet8_cifar",
        model_fields=(("width", 4),),
        steps=6,
        batch_size=8,
        evaluate_every=3,
        augment=("flip", "crop"),
    )


@pytest.fixture(scope="session")
def everything():
    """Numbers under which every part of a training step does something."""
    return Hyper(
        learning_rate=0.05,
        l2=1e-3,
        weight_decay=1e-2,
        dropout=0.2,
        label_smoothing=0.1,
        label_noise=0.3,
        flip=0.8,
        crop=0.6,
        train_size=300,
        warmup=0.5,
        warmup_factor=0.1,
    )


@pytest.fixture(scope="session")
def advance(digits):
    """``advance(spec, hypers, driver, steps)``: the states of seed 0 before and after some steps on the digits."""

    def run(spec, hypers, driver, steps):
        compiled = program(spec, digits.info, driver)
        seeds, stacked = [0] * driver.lanes, stack_hyper(list(hypers))
        feed = Feed(digits, "resident", seeds, [h.train_size for h in hypers], spec.batch_size, CHUNK_STEPS)
        (chunk,) = feed.chunks([(0, steps)])
        seeds = np.asarray(seeds, np.uint32)
        before, spare = (compiled.initial_state(stacked, seeds, chunk.pool) for _ in range(2))
        after, _ = compiled.advance(spare, compiled.zeros(), stacked, chunk)
        return before, after

    return run
