"""The compiled functions of a group of runs: one set for each (Spec, dataset, driver, lanes)."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax import metrics, tree
from cnnjax.data.cache import root as cache_root
from cnnjax.data.catalog import Info
from cnnjax.data.feed import Chunk
from cnnjax.tasks.frozen import COLLECTION
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

    Every method's state and hyper have a leading axis of ``driver.lanes``.
    """

    def __init__(self, spec: Spec, info: Info, driver: Driver):
        if driver.form not in DRIVERS:
            raise unknown("driver", driver.form, DRIVERS)
        if driver.lanes < 1:
            raise UsageError(f"lanes must be at least 1, not {driver.lanes}.")
        self.spec, self.info, self.driver = spec, info, driver
        self.task = build_task(spec, info)
        over = partial(step.over_lanes, lanes=driver.lanes)
        train_one = over(partial(step.training_step, self.task, spec, info), shared=(2,))
        evaluate_one = over(partial(step.evaluation_sums, self.task, info), shared=(2, 6))

        def advance_scan(state, sums, hyper, pool, indices, noise, length):
            def body(i, carry):
                new_state, batch_sums = train_one(carry[0], hyper, pool, indices[i], noise[i])
                return new_state, _add(carry[1], batch_sums)

            # The number of steps is traced, so chunks of every length are one program.
            return lax.fori_loop(0, length, body, (state, sums))

        def advance_once(state, sums, hyper, pool, indices, noise):
            new_state, batch_sums = train_one(state, hyper, pool, indices, noise)
            return new_state, _add(sums, batch_sums)

        def evaluate(state, hyper, pool, indices, noise, counts, noisy, length):
            def body(i, sums):
                return _add(sums, evaluate_one(state, hyper, pool, indices[i], noise[i], counts[i], noisy))

            return lax.fori_loop(0, length, body, self.zeros())

        probe_one = over(partial(step.probe_sums, self.task), shared=(1,))
        outputs_one = over(partial(step.outputs, self.task), shared=(1,))

        def probe(state, pool, indices, counts, length):
            shapes = jax.eval_shape(probe_one, state, pool, indices[0], counts[0])
            empty = jax.tree_util.tree_map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
            return lax.fori_loop(
                0, length, lambda i, sums: _add(sums, probe_one(state, pool, indices[i], counts[i])), empty
            )

        def outputs(state, pool, indices):
            return lax.map(lambda at: outputs_one(state, pool, at), indices)

        initial = over(partial(step.initial_state, self.task, spec), shared=(2,))
        self._initial = jax.jit(initial, compiler_options=compiler_options(runs_once=True))
        self._scan = jax.jit(advance_scan, donate_argnums=(0, 1), compiler_options=compiler_options())
        self._once = jax.jit(advance_once, donate_argnums=(0, 1), compiler_options=compiler_options())
        self._evaluate = jax.jit(evaluate, compiler_options=compiler_options())
        self._probe = jax.jit(probe, compiler_options=compiler_options())
        self._outputs = jax.jit(outputs, compiler_options=compiler_options())

    def zeros(self) -> metrics.Sums:
        """Sums of no example, one for each lane."""
        return {name: jnp.zeros(self.driver.lanes, jnp.float32) for name in metrics.zeros()}

    def initial_state(
        self, hyper: Hyper, seeds: np.ndarray, pool: step.Pool, given: Mapping[str, np.ndarray] | None = None
    ) -> step.State:
        """The state of every lane before its first step: drawn, but for the arrays ``given`` by name."""
        state = self._initial(hyper, seeds, pool)
        return _placed(state, given) if given else state

    def advance(
        self, state: step.State, sums: metrics.Sums, hyper: Hyper, chunk: Chunk
    ) -> tuple[step.State, metrics.Sums]:
        """The steps of a chunk. The given state and sums are donated: do not use them again."""
        if self.driver.form == "scan":
            return self._scan(state, sums, hyper, chunk.pool, chunk.indices, chunk.noise, np.int32(chunk.length))
        for indices, noise in zip(chunk.indices[: chunk.length], chunk.noise, strict=False):
            state, sums = self._once(state, sums, hyper, chunk.pool, indices, noise)
        return state, sums

    def evaluate(self, state: step.State, hyper: Hyper, chunk: Chunk, noisy: bool) -> metrics.Sums:
        """The metric sums over the chunk's examples, in evaluation mode."""
        args = (chunk.pool, chunk.indices, chunk.noise, chunk.counts, np.int32(noisy), np.int32(chunk.length))
        return self._evaluate(state, hyper, *args)

    def probe(self, state: step.State, chunk: Chunk) -> metrics.Sums:
        """The sums of the Spec's probes over the chunk's examples."""
        return self._probe(state, chunk.pool, chunk.indices, chunk.counts, np.int32(chunk.length))

    def outputs(self, state: step.State, chunk: Chunk) -> list[np.ndarray]:
        """For each lane the class probabilities (n, classes) of the chunk's examples."""
        found = np.asarray(self._outputs(state, chunk.pool, chunk.indices))[: chunk.length]
        meant = np.arange(found.shape[2]) < np.asarray(chunk.counts)[: chunk.length, :, None]
        return [found[:, lane][meant[:, lane]] for lane in range(self.driver.lanes)]

    def start(
        self, hyper: Hyper, seeds: np.ndarray, chunk: Chunk, given: Mapping[str, np.ndarray] | None = None
    ) -> step.State:
        """``initial_state``, in a thread beside the one that compiles what ``advance`` needs: neither waits."""
        shapes = jax.eval_shape(self._initial, hyper, seeds, chunk.pool)
        with ThreadPoolExecutor(1) as beside:
            state = beside.submit(self.initial_state, hyper, seeds, chunk.pool, given)
            self.compile_steps(shapes, hyper, chunk)
            return state.result()

    def compile_steps(self, state: Any, hyper: Hyper, chunk: Chunk) -> None:
        """Compiles what ``advance`` needs, for a state, or its shapes, like this; nothing is computed."""
        if self.driver.form == "scan":
            lowered = self._scan.lower(
                state, self.zeros(), hyper, chunk.pool, chunk.indices, chunk.noise, np.int32(chunk.length)
            )
        else:
            lowered = self._once.lower(state, self.zeros(), hyper, chunk.pool, chunk.indices[0], chunk.noise[0])
        lowered.compile()  # JAX finds it again when the function is called

    def compilations(self) -> int:
        """How many programs have been compiled so far; constant after the first chunk and evaluation."""
        functions: list[Any] = [self._initial, self._scan, self._once, self._evaluate, self._probe, self._outputs]
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


@cache
def compiler_options(runs_once: bool = False) -> dict[str, Any] | None:
    """What XLA is told on the CPU to compile faster, as far as this version of it knows the options.

    Its older emitters of fused loops compile a third faster than the newer ones, to code as fast. What runs
    once need not be optimised. (Level 2 for the rest compiles a sixth faster, to code as fast; it would change the last
    bits of all weights ever trained, and so the committed evidence.)
    """
    if jax.default_backend() != "cpu":
        return None
    options: dict[str, Any] = {"xla_cpu_use_fusion_emitters": False}
    if runs_once:
        options["xla_backend_optimization_level"] = 0
    try:
        jax.jit(lambda: jnp.zeros(()), compiler_options=options)()
    except jax.errors.JaxRuntimeError:  # options come and go
        return None
    return options


def stack_hyper(hypers: list[Hyper]) -> Hyper:
    """One Hyper with a float32 array (lanes,) in every field."""
    return jax.tree_util.tree_map(lambda *values: np.asarray(values, np.float32), *hypers)


def enable_compilation_cache() -> None:
    """Keeps compiled programs in the user's cache, unless JAX has been told of another place."""
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_root() / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def _placed(state: step.State, given: Mapping[str, np.ndarray]) -> step.State:
    """The state with each array of ``given``, in every lane, in the place of the one drawn."""

    def choose(name: str, leaf: Any) -> Any:
        collection, _, rest = name.partition("/")
        array = given.get(f"params/{rest}" if collection == COLLECTION else name)
        if array is None:
            return leaf
        return jax.device_put(np.array(np.broadcast_to(array, leaf.shape), leaf.dtype))

    variables = tree.mask({"params": state.params, **state.model_state}, choose)
    return state._replace(params=variables.pop("params"), model_state=variables)


def _add(a, b):
    return jax.tree_util.tree_map(jnp.add, a, b)
