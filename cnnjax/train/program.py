"""The compiled functions of a group of runs: one set for each (Spec, dataset, driver, lanes)."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cnnjax import metrics, tree
from cnnjax.data.cache import root as cache_root
from cnnjax.data.catalog import Info
from cnnjax.data.feed import DATA, Chunk
from cnnjax.nn.norm import BATCH_NORMS, shared_batch
from cnnjax.tasks.frozen import COLLECTION
from cnnjax.train import shard, step
from cnnjax.train.spec import Hyper, Spec, build_task
from cnnjax.typing import UsageError, unknown

DRIVERS = ("loop", "scan")

# How arrays lie on devices that share each batch: whole on each, a part for each, and (steps,) lanes, batch.
WHOLE, POOLS, BATCH, BATCHES = (PartitionSpec(*axes) for axes in ((), (DATA,), (None, DATA), (None, None, DATA)))


class Driver(NamedTuple):
    """How a bundle of runs is executed; part of the execution signature, for it changes bits.

    Attributes:
      form: "loop" (one compiled step, called from Python) or "scan" (a chunk of steps in one program).
      lanes: runs trained side by side in one program (vmap), on each device.
      runs: devices that share the members of a bundle; changes no bit.
      data: devices that share each batch.
      batch_norm: where devices share a batch: see ``nn.norm.shared_batch``.
    """

    form: str = "scan"
    lanes: int = 1
    runs: int = 1
    data: int = 1
    batch_norm: str = BATCH_NORMS[0]

    @property
    def members(self) -> int:
        """Runs of a bundle."""
        return self.lanes * self.runs

    @property
    def devices(self) -> int:
        """Devices that a bundle needs."""
        return self.runs * self.data

    def of_state(self) -> dict[str, Any]:
        """What the state of a bundle belongs to: not the devices that share a batch, for each has the whole state."""
        return {"form": self.form, "lanes": self.lanes, **({"runs": self.runs} if self.runs > 1 else {})}


class Program:
    """The compiled functions of one (Spec, dataset shape, driver). Make them with ``program``.

    Every method's state and hyper have a leading axis of ``driver.members``.

    Args:
      spec, info, driver: as above.
      group: the devices that share each batch; None is one device, that where the examples lie.

    Attributes:
      mesh: for the ``Feed``; see ``Spread``.
    """

    mesh: Mesh | None = None

    def __init__(self, spec: Spec, info: Info, driver: Driver, group: Mesh | None = None):
        if driver.form not in DRIVERS:
            raise unknown("driver", driver.form, DRIVERS)
        if driver.lanes < 1:
            raise UsageError(f"lanes must be at least 1, not {driver.lanes}.")
        self.spec, self.info, self.driver = spec, info, driver
        self._group = group
        # XLA on the CPU can hang where programs wait for other devices while more of them are queued.
        self._blocks = group is not None and jax.default_backend() == "cpu"
        self.task = build_task(spec, info)
        axis = DATA if group is not None else None
        over = partial(step.over_lanes, lanes=driver.lanes)
        train_one = over(partial(step.training_step, self.task, spec, info, axis=axis), shared=(2,))
        evaluate_one = over(partial(step.evaluation_sums, self.task, info), shared=(2, 6))

        def advance_scan(state, sums, hyper, pool, indices, noise, length):
            pool = self._own(pool)

            def body(i, carry):
                with shared_batch(axis, driver.batch_norm):
                    new_state, batch_sums = train_one(carry[0], hyper, pool, indices[i], noise[i])
                return new_state, _add(carry[1], batch_sums)

            # The number of steps is traced, so chunks of every length are one program.
            return lax.fori_loop(0, length, body, (state, sums))

        def advance_once(state, sums, hyper, pool, indices, noise):
            with shared_batch(axis, driver.batch_norm):
                new_state, batch_sums = train_one(state, hyper, self._own(pool), indices, noise)
            return new_state, _add(sums, batch_sums)

        def evaluate(state, hyper, pool, indices, noise, counts, noisy, length):
            pool = self._own(pool)
            if axis is not None:  # of the examples that are meant, so many are in the parts of the devices before
                counts = counts - lax.axis_index(axis) * indices.shape[-1]

            def body(i, sums):
                return _add(sums, evaluate_one(state, hyper, pool, indices[i], noise[i], counts[i], noisy))

            sums = lax.fori_loop(0, length, body, _zeros(driver.lanes))
            return sums if axis is None else lax.psum(sums, axis)

        probe_one = over(partial(step.probe_sums, self.task), shared=(1,))
        outputs_one = over(partial(step.outputs, self.task), shared=(1,))

        def probe(state, pool, indices, counts, length):
            pool = self._own(pool)
            shapes = jax.eval_shape(probe_one, state, pool, indices[0], counts[0])
            empty = jax.tree_util.tree_map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
            return lax.fori_loop(
                0, length, lambda i, sums: _add(sums, probe_one(state, pool, indices[i], counts[i])), empty
            )

        def outputs(state, pool, indices):
            pool = self._own(pool)
            return lax.map(lambda at: outputs_one(state, pool, at), indices)

        initial_one = over(partial(step.initial_state, self.task, spec), shared=(2,))

        def initial(hyper, seeds, pool):
            return initial_one(hyper, seeds, self._own(pool))

        compiled = self._compiled
        carry, steps = (WHOLE, WHOLE), (POOLS, BATCHES, BATCHES)
        self._initial = compiled(initial, (WHOLE, WHOLE, POOLS), WHOLE, runs_once=True)
        self._scan = compiled(advance_scan, (*carry, WHOLE, *steps, WHOLE), carry, donate=(0, 1))
        self._once = compiled(advance_once, (*carry, WHOLE, POOLS, BATCH, BATCH), carry, donate=(0, 1))
        self._evaluate = compiled(evaluate, (WHOLE, WHOLE, *steps, WHOLE, WHOLE, WHOLE), WHOLE)
        self._probe = compiled(probe, (WHOLE, POOLS, WHOLE, WHOLE, WHOLE), WHOLE)
        self._outputs = compiled(outputs, (WHOLE, POOLS, WHOLE), WHOLE)

    def _compiled(self, function, takes, gives, donate=(), runs_once=False):
        """A function of what one device has, jitted; for a group of devices, what it takes and gives lies as named."""
        options = {"donate_argnums": donate, "compiler_options": compiler_options(runs_once)}
        if self._group is None:
            return jax.jit(function, **options)
        # Without vma: gradients stay each device's own until the step takes their mean.
        mapped = jax.shard_map(function, mesh=self._group, in_specs=takes, out_specs=gives, check_vma=False)
        takes, gives = jax.tree_util.tree_map(
            partial(NamedSharding, self._group), (takes, gives), is_leaf=lambda each: isinstance(each, PartitionSpec)
        )
        return jax.jit(mapped, in_shardings=takes, out_shardings=gives, **options)

    def _own(self, pool: step.Pool) -> step.Pool:
        """This device's pool, of those of its group."""
        return pool if self._group is None else jax.tree_util.tree_map(lambda leaf: leaf[0], pool)

    def _parts(self, values: Any, how: PartitionSpec) -> Any:
        """Arrays on the host, of which each device of the group gets a part."""
        return values if self._group is None else shard.place(self._group, how, values)

    def on_devices(self, values: Any) -> Any:
        """A state or sums, restored from a checkpoint, where the program reads them."""
        return values

    def zeros(self) -> metrics.Sums:
        """Sums of no example, one for each member."""
        return _zeros(self.driver.members)

    def initial_state(
        self, hyper: Hyper, seeds: np.ndarray, pool: step.Pool, given: Mapping[str, np.ndarray] | None = None
    ) -> step.State:
        """The state of every member before its first step: drawn, but for the arrays ``given`` by name."""
        state = self._initial(hyper, seeds, pool)
        return self._placed(state, given) if given else state

    def advance(
        self, state: step.State, sums: metrics.Sums, hyper: Hyper, chunk: Chunk
    ) -> tuple[step.State, metrics.Sums]:
        """The steps of a chunk. The given state and sums are donated: do not use them again."""
        if self.driver.form == "scan":
            indices, noise = self._parts((chunk.indices, chunk.noise), BATCHES)
            return self._scan(state, sums, hyper, chunk.pool, indices, noise, np.int32(chunk.length))
        for batch in zip(chunk.indices[: chunk.length], chunk.noise, strict=False):
            state, sums = self._once(state, sums, hyper, chunk.pool, *self._parts(batch, BATCH))
            if self._blocks:
                jax.block_until_ready(sums)
        return state, sums

    def evaluate(self, state: step.State, hyper: Hyper, chunk: Chunk, noisy: bool) -> metrics.Sums:
        """The metric sums over the chunk's examples, in evaluation mode."""
        indices, noise = self._parts((chunk.indices, chunk.noise), BATCHES)
        args = (chunk.pool, indices, noise, chunk.counts, np.int32(noisy), np.int32(chunk.length))
        sums = self._evaluate(state, hyper, *args)
        return jax.block_until_ready(sums) if self._blocks else sums

    def probe(self, state: step.State, chunk: Chunk) -> metrics.Sums:
        """The sums of the Spec's probes over the examples of a ``whole`` chunk: devices do not share a batch here."""
        return self._probe(state, chunk.pool, chunk.indices, chunk.counts, np.int32(chunk.length))

    def outputs(self, state: step.State, chunk: Chunk) -> list[np.ndarray]:
        """For each member the class probabilities (n, classes) of a ``whole`` chunk's examples."""
        found = shard.host(self._outputs(state, chunk.pool, chunk.indices))[: chunk.length]
        meant = np.arange(found.shape[2]) < np.asarray(chunk.counts)[: chunk.length, :, None]
        return [found[:, lane][meant[:, lane]] for lane in range(self.driver.members)]

    def start(
        self, hyper: Hyper, seeds: np.ndarray, chunk: Chunk, given: Mapping[str, np.ndarray] | None = None
    ) -> step.State:
        """``initial_state``, in a thread beside the one that compiles what ``advance`` needs: neither waits."""
        shapes = self._shapes(jax.eval_shape(self._initial, hyper, seeds, chunk.pool), chunk.pool)
        with ThreadPoolExecutor(1) as beside:
            state = beside.submit(self.initial_state, hyper, seeds, chunk.pool, given)
            self.compile_steps(shapes, hyper, chunk)
            return state.result()

    def compile_steps(self, state: Any, hyper: Hyper, chunk: Chunk) -> None:
        """Compiles what ``advance`` needs, for a state, or its shapes, like this; nothing is computed."""
        sums = self._shapes(self.zeros(), chunk.pool)
        if self.driver.form == "scan":
            batches = self._parts((chunk.indices, chunk.noise), BATCHES)
            lowered = self._scan.lower(state, sums, hyper, chunk.pool, *batches, np.int32(chunk.length))
        else:
            batch = self._parts((chunk.indices[0], chunk.noise[0]), BATCH)
            lowered = self._once.lower(state, sums, hyper, chunk.pool, *batch)
        lowered.compile()  # JAX finds it again when the function is called

    def lowered(self, steps: Chunk, evaluation: Chunk) -> dict[str, Any]:
        """Its functions, traced for chunks of these shapes, by name; what the Spec does not ask for is left out."""
        hyper, seeds = stack_hyper([Hyper()] * self.driver.members), np.zeros(self.driver.members, np.uint32)
        state, sums = jax.eval_shape(self._initial, hyper, seeds, steps.pool), self.zeros()
        found = {"initial_state": self._initial.lower(hyper, seeds, steps.pool)}
        if self.driver.form == "scan":
            batches = (steps.indices, steps.noise, np.int32(steps.length))
            found["step"] = self._scan.lower(state, sums, hyper, steps.pool, *batches)
        else:
            batch = [jax.ShapeDtypeStruct(each.shape[1:], each.dtype) for each in (steps.indices, steps.noise)]
            found["step"] = self._once.lower(state, sums, hyper, steps.pool, *batch)
        pool, indices, noise, counts, length = evaluation
        rest = (indices, noise, counts, np.int32(False), np.int32(length))
        found["evaluation"] = self._evaluate.lower(state, hyper, pool, *rest)
        if self.spec.probes:
            found["probes"] = self._probe.lower(state, pool, indices, counts, np.int32(length))
        if self.spec.keep_outputs:
            found["outputs"] = self._outputs.lower(state, pool, indices)
        return found

    def compilations(self) -> int:
        """How many programs have been compiled so far; constant after the first chunk and evaluation."""
        functions: list[Any] = [self._initial, self._scan, self._once, self._evaluate, self._probe, self._outputs]
        return sum(function._cache_size() for function in functions)

    def _shapes(self, values: Any, pool: step.Pool) -> Any:
        """The shapes of arrays that lie where the pool does; on the default device they are as they are."""
        labels = pool["labels"]
        if not getattr(labels, "committed", False):
            return values
        where = labels.sharding if self._group is None else NamedSharding(self._group, WHOLE)
        return jax.tree_util.tree_map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where), values)

    def _placed(self, state: step.State, given: Mapping[str, np.ndarray]) -> step.State:
        """The state with each array of ``given``, in every lane, in the place of the one drawn."""

        def choose(name: str, leaf: Any) -> Any:
            collection, _, rest = name.partition("/")
            array = given.get(f"params/{rest}" if collection == COLLECTION else name)
            if array is None:
                return leaf
            whole = np.array(np.broadcast_to(array, leaf.shape), leaf.dtype)
            if self._group is not None:
                return shard.place(self._group, WHOLE, whole)
            return jax.device_put(whole, leaf.sharding if leaf.committed else None)

        variables = tree.mask({"params": state.params, **state.model_state}, choose)
        return state._replace(params=variables.pop("params"), model_state=variables)


class Spread(Program):
    """A ``Program`` for each group of devices that has members of its own, as one.

    One program for all would be compiled to other bits, even if nothing crosses from group to group: XLA optimises
    what it partitions differently. So each group runs what it would run alone, and states are cut and joined.

    Args:
      spec, info, driver: as above.
      mesh: the devices.
    """

    def __init__(self, spec: Spec, info: Info, driver: Driver, mesh: Mesh):
        self.spec, self.info, self.driver, self.mesh = spec, info, driver, mesh
        alone, shared = driver._replace(runs=1), mesh.devices.shape[1] > 1
        self.groups = [Program(spec, info, alone, shard.group(row) if shared else None) for row in mesh.devices]
        self.task = self.groups[0].task

    def on_devices(self, values: Any) -> Any:
        """As of ``Program``."""
        return shard.on_members(self.mesh, values)

    def zeros(self) -> metrics.Sums:
        """As of ``Program``."""
        return self.on_devices({name: np.zeros(self.driver.members, np.float32) for name in metrics.zeros()})

    def initial_state(self, hyper, seeds, pool, given=None):
        """As of ``Program``."""
        return self._each("initial_state", (hyper, seeds), pool, (given,))

    def advance(self, state, sums, hyper, chunk):
        """As of ``Program``."""
        return self._each("advance", (state, sums, hyper), chunk)

    def evaluate(self, state, hyper, chunk, noisy):
        """As of ``Program``."""
        return self._each("evaluate", (state, hyper), chunk, (noisy,))

    def probe(self, state, chunk):
        """As of ``Program``."""
        return self._each("probe", (state,), chunk)

    def outputs(self, state, chunk):
        """As of ``Program``."""
        return [member for found in self._ask("outputs", (state,), chunk) for member in found]

    def start(self, hyper, seeds, chunk, given=None):
        """As of ``Program``."""
        return self._each("start", (hyper, seeds), chunk, (given,))

    def compile_steps(self, state, hyper, chunk):
        """As of ``Program``."""
        self._ask("compile_steps", (state, hyper), chunk)

    def compilations(self) -> int:
        """As of ``Program``."""
        return sum(group.compilations() for group in self.groups)

    def _each(self, method: str, values: Any, examples: Any, rest: tuple = ()) -> Any:
        return shard.joined(self.mesh, self._ask(method, values, examples, rest))

    def _ask(self, method: str, values: Any, examples: Any, rest: tuple = ()) -> list[Any]:
        """What each group's method gives for its members of the values and of the pool or chunk."""
        shares = shard.cut(self.mesh, values)

        def ask(number: int) -> Any:
            return getattr(self.groups[number], method)(*shares[number], self._share(examples, number), *rest)

        numbers = range(len(self.groups))
        if self.driver.data > 1 or len(numbers) == 1:
            return [ask(number) for number in numbers]
        with ThreadPoolExecutor(len(numbers)) as beside:
            return list(beside.map(ask, numbers))

    def _share(self, examples: Any, number: int) -> Any:
        """A group's of the pools, or its part of a chunk."""
        if not isinstance(examples, Chunk):
            return examples[number]
        lanes = self.driver.lanes
        own = slice(number * lanes, (number + 1) * lanes)
        arrays = {name: getattr(examples, name)[:, own] for name in ("indices", "noise", "counts")}
        return examples._replace(pool=examples.pool[number], **arrays)


@cache
def _program(spec: Spec, key: tuple, driver: Driver) -> Program:
    name, image_shape, num_classes, sizes, class_names = key
    info = Info(name, image_shape, num_classes, dict(sizes), class_names)
    shard.check(driver.runs, driver.data, driver.batch_norm, spec.batch_size)
    mesh = shard.mesh(driver.runs, driver.data)
    return Program(spec, info, driver) if mesh is None else Spread(spec, info, driver, mesh)


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


def _zeros(lanes: int) -> metrics.Sums:
    return {name: jnp.zeros(lanes, jnp.float32) for name in metrics.zeros()}


def _add(a, b):
    return jax.tree_util.tree_map(jnp.add, a, b)
