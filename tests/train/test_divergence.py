"""What is said of a run whose loss stops being a number."""

import jax
import numpy as np
import pytest

from cnnjax import tree
from cnnjax.train.program import Driver
from cnnjax.train.run import Interrupted, train
from cnnjax.train.spec import Hyper


@pytest.mark.parametrize("rate", [1e20, 1e30, 3e38])
@pytest.mark.parametrize("form", ["scan", "loop"])
@pytest.mark.slow
def test_the_first_bad_parameter_of_a_diverged_run_is_named(digits, mlp, advance, form, rate, tmp_path):
    """Of the state at that step, which the chunk of steps has long left behind; also after a resumption."""
    hypers, driver = [Hyper(), Hyper(learning_rate=rate, momentum=0.0)], Driver(form, 2)
    whole, broken = train(mlp, hypers, [0, 0], digits, driver)
    assert (whole.diverged_step, whole.diverged_parameter) == (None, None)
    states = [advance(mlp, hypers, driver, broken.diverged_step + after)[1] for after in (0, 1)]
    bad = [
        name
        for state in states
        for name, leaf in zip(tree.names(state.params), jax.tree_util.tree_leaves(state.params), strict=True)
        if not np.isfinite(np.asarray(leaf)[1]).all()
    ]
    assert broken.diverged_parameter == bad[0]
    stops = iter([False, True])
    with pytest.raises(Interrupted):
        train(mlp, hypers, [0, 0], digits, driver, checkpoints=tmp_path, chunk_steps=3, should_stop=lambda: next(stops))
    _, resumed = train(mlp, hypers, [0, 0], digits, driver, checkpoints=tmp_path)
    assert resumed.diverged_parameter == bad[0]
    assert resumed.parameters_digest == broken.parameters_digest
