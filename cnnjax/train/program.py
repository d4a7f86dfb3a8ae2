"""The compiled functions of a group of runs: one set for each (Spec, dataset, driver, lanes)."""

from functools import cache
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax import metrics
from cnnjax.data.cache import root as cache_root
from cnnjax.data.catalog import Info
from cnnjax.data.feed import Chunk
from cnnjax.train import step
from cnnjax.train.spec import Hyper, Spec, build_task
from cnnjax.typing import UsageError, unknown

DRIVERS = ("loop", "scan")


class Driver(NamedTuple):
    """How a bundle of runs is executed; part of the execution signature, for it changes bits.

    Attributes:
      form: "loop" (one compiled step, called from Python) or "scan" (a chunk of steps in one program).
      lanes: runs trained side by side in one program (vmap).
    """

    form: str = "scan"
    lanes: int = 1


class Program:
    """The compiled functions of one (Spec, dataset shape, driver). Make them with ``program``.

    Every method's state, hyper and seeds have a leading axis of ``driver.lanes``.
    """

    def __init__(self, spec: Spec, info: Info, driver: Driver):
        if driver.form not in DRIVERS:
            raise unknown("driver", driver.form, DRIVERS)
        if driver.lanes < 1:
            raise UsageError(f"lanes must be at least 1, not {driver.lanes}.")
        self.spec, self.info, self.driver = spec, info, driver
        self.task = build_task(spec, info)
        over = partial(step.over_lanes, lanes=driver.lanes)
        train_one = over(partial(step.training_step, self.task, spec, info), shared=(3,))
        evaluate_one = over(partial(step.evaluation_sums, self.task, info), shared=(3, 6))

        def advance_scan(state, sums, hyper, seeds, pool, indices, length):
            def body(i, carry):
                new_state, batch_sums = train_one(carry[0], hyper, seeds, pool, indices[i])
                return new_state, _add(carry[1], batch_sums)

            # The number of steps is traced, so chunks of every length are one program.
            return lax.fori_loop(0, length, body, (state, sums))

        def advance_once(state, sums, hyper, seeds, pool, indices):
            new_state, batch_sums = train_one(state, hyper, seeds, pool, indices)
            return new_state, _add(sums, batch_sums)

        def evaluate(state, hyper, seeds, pool, indices, counts, noisy, length):
            def body(i, sums):
                return _add(sums, evaluate_one(state, hyper, seeds, pool, indices[i], counts[i], noisy))

            return lax.fori_loop(0, length, body, self.zeros())

        # It runs once, so on the CPU compiling it fast matters more than running it fast.
        options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
        initial = over(partial(step.initial_state, self.task, spec), shared=(2,))
        self._initial = jax.jit(initial, compiler_options=options)
        self._scan = jax.jit(advance_scan, donate_argnums=(0, 1))
        self._once = jax.jit(advance_once, donate_argnums=(0, 1))
        self._evaluate = jax.jit(evaluate)

    def zeros(self) -> metrics.Sums:
        """Sums of no example, one for each lane."""
        return {name: jnp.zeros(self.driver.lanes, jnp.float32) for name in metrics.zeros()}

    def initial_state(self, hyper: Hyper, seeds: np.ndarray, pool: step.Pool) -> step.State:
        """The state of every lane before its first step."""
        return self._initial(hyper, seeds, pool)

    def advance(
        self, state: step.State, sums: metrics.Sums, hyper: Hyper, seeds: np.ndarray, chunk: Chunk
    ) -> tuple[step.State, metrics.Sums]:
        """The steps of a chunk. The given state and sums are donated: do not use them again."""
        if self.driver.form == "scan":
            return self._scan(state, sums, hyper, seeds, chunk.pool, chunk.indices, np.int32(chunk.length))
        for indices in chunk.indices[: chunk.length]:
            state, sums = self._once(state, sums, hyper, seeds, chunk.pool, indices)
        return state, sums

    def evaluate(self, state: step.State, hyper: Hyper, seeds: np.ndarray, chunk: Chunk, noisy: bool) -> metrics.Sums:
        """The metric sums over the chunk's examples, in evaluation mode."""
        length = np.int32(chunk.length)
        args = (chunk.pool, chunk.indices, chunk.counts, np.int32(noisy), length)
        return self._evaluate(state, hyper, seeds, *args)

    def compile(self, state: step.State, hyper: Hyper, seeds: np.ndarray, chunk: Chunk, slab: Chunk) -> None:
        """Compiles what ``advance`` and ``evaluate`` need; the given state stays as it is."""
        spare = jax.tree_util.tree_map(jnp.copy, state)
        if self.driver.form == "scan":  # no step of a chunk is done
            self.advance(spare, self.zeros(), hyper, seeds, chunk._replace(length=0))
        else:
            self.advance(spare, self.zeros(), hyper, seeds, chunk._replace(length=1))
        self.evaluate(state, hyper, seeds, slab._replace(length=0), noisy=False)

    def compilations(self) -> int:
        """How many programs have been compiled so far; constant after the first chunk and evaluation."""
        functions: list[Any] = [self._initial, self._scan, self._once, self._evaluate]
        return sum(function._cache_size() for function in functions)


@cache
def _program(spec: Spec, key: tuple, driver: Driver) -> Program:
    name, image_shape, num_classes, sizes, class_names = key
    return Program(spec, Info(name, image_shape, num_classes, dict(sizes), class_names), driver)


def program(spec: Spec, info: Info, driver: Driver) -> Program:
    """The ``Program`` of these, built once in a process, so that later bundles compile nothing.

    Raises:
      UsageError: unknown driver, or lanes below 1.
    """
    enable_compilation_cache()
    key = (info.name, info.image_shape, info.num_classes, tuple(sorted(info.sizes.items())), info.class_names)
    return _program(spec, key, driver)


def stack_hyper(hypers: list[Hyper]) -> Hyper:
    """One Hyper with a float32 array (lanes,) in every field."""
    return jax.tree_util.tree_map(lambda *values: np.asarray(values, np.float32), *hypers)


def enable_compilation_cache() -> None:
    """Keeps compiled programs in the user's cache, unless JAX has been told of another place."""
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_root() / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def _add(a, b):
    return jax.tree_util.tree_map(jnp.add, a, b)
