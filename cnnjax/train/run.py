"""Training a bundle of runs to the end, in chunks: the only training loop of the project."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnnjax import metrics, tree
from cnnjax.data.catalog import Dataset
from cnnjax.data.dataset import SPLITS
from cnnjax.data.feed import Chunk, Feed, Mode
from cnnjax.strict_json import with_nan
from cnnjax.tasks.frozen import COLLECTION, merge
from cnnjax.train import checkpoint, peers, shard
from cnnjax.train.features import Start, start
from cnnjax.train.program import Driver, Program, program, stack_hyper
from cnnjax.train.saver import Saver, expected_cost
from cnnjax.train.spec import Hyper, Spec, digest, to_json

CHUNK_STEPS = 50  # most steps between looks at the device; does not change results
PART_SECONDS = 1.5  # most time between looks, as far as it is known how long a step takes; nor does this
LOOK_SECONDS = 1.0  # least time between looks within a chunk
CHECKPOINT_SECONDS = 60.0  # shorter runs never save: repeating one costs less than a minute
log = logging.getLogger(__name__)


@dataclass
class Outcome:
    """What one finished run leaves behind.

    Attributes:
      metrics: final ``train_``, ``valid_`` and ``test_`` ``loss`` and ``error``, ``gap_`` (validation less
        training) likewise, ``parameters`` and, where some are frozen, ``trained_parameters``, and what the Spec's
        probes found, ``test_`` too.
      history: one record per evaluation: step, images seen, ``batch_`` means over the training
        steps since the last one, and ``train_`` and ``valid_`` in evaluation mode.
      diverged_step: steps done when the loss was first found not to be finite, or None.
      diverged_parameter: the first parameter, by name, that was not finite then, or else after the step that followed.
      parameters_digest: SHA-256 of the final parameters and model state.
      seconds: of training, evaluation and computing features, an equal share of the bundle's; compiling excluded.
      compile_seconds: of compiling and of drawing the parameters, an equal share of the bundle's.
      images_per_second: training images of this run over the time its steps took.
      accesses: how many times each split was evaluated; the test split once.
      outputs: class probabilities (N, classes) float16 and labels (N,) int32 of the test split, where the Spec
        keeps them.
      variables: the final variables of the whole network, where the Spec keeps them.
      arrays: what the Spec's probes found that is no number, such as the kernels of the first layer.
      earlier_signatures: digests of the other execution signatures that the run went through before.
    """

    metrics: dict[str, float]
    history: list[dict[str, float]]
    diverged_step: int | None
    parameters_digest: str
    seconds: float
    compile_seconds: float
    images_per_second: float
    accesses: dict[str, int]
    outputs: dict[str, np.ndarray] | None = None
    variables: dict[str, Any] | None = None
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    diverged_parameter: str | None = None
    earlier_signatures: list[str] = field(default_factory=list)


class Interrupted(Exception):
    """The caller asked to stop: the state is saved, where a checkpoint directory was given and could be written.

    Attributes:
      saved: False where it is not, so that a resumed run repeats steps; the message says why.
    """

    saved: bool = True


@dataclass
class Clock:
    """Where the time of a bundle went."""

    started: float = field(default_factory=time.perf_counter)
    compile: float = 0.0
    features: float = 0.0
    steps: float = 0.0
    evaluation: float = 0.0


@peers.together()
def train(
    spec: Spec,
    hypers: Sequence[Hyper],
    seeds: Sequence[int],
    dataset: Dataset,
    driver: Driver,
    *,
    feed_mode: Mode = "auto",
    checkpoints: Path | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    chunk_steps: int = CHUNK_STEPS,
    keep_checkpoint: bool = False,
    signature: Mapping[str, Any] | None = None,
    mix_signatures: bool = False,
    on_progress: Callable[[int], None] = lambda steps: None,
    on_evaluation: Callable[[int, list[dict[str, float]]], None] = lambda step, records: None,
    on_outcomes: Callable[[list[Outcome]], None] = lambda outcomes: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Outcome]:
    """Trains ``driver.members`` runs of one Spec side by side, from the start or a checkpoint.

    Processes that have joined (``peers.join``) call it together. The first one decides what depends on clocks, and
    writes; all return the same.

    Args:
      spec: the static part, the same for all.
      hypers: the numbers of each run.
      seeds: the seed of each run.
      dataset: decoded examples.
      driver: how to execute; changes bits.
      feed_mode: resident on the device or streamed; does not change results.
      checkpoints: directory for checkpoints; None saves none and resumes nothing.
      checkpoint_seconds: least time between two saves, more where they are dear (``saver.period``); 0 saves at every
        look.
      chunk_steps: most steps between looks at the device; does not change results.
      keep_checkpoint: keep the last state, saved at the last step, instead of removing all checkpoints at the end.
      signature: what the bits depend on beside the runs; goes into checkpoints, and none of another is continued.
      mix_signatures: go on from a state of another signature, or that another number of devices with a part of each
        batch has made.
      on_progress: called at every look with the number of steps done.
      on_evaluation: called after every evaluation with the number of steps done and the new record of each history.
      on_outcomes: called with what is returned, while the checkpoints are still there: who writes results writes them
        here, and a kill meanwhile loses nothing.
      should_stop: asked at every look, and before an evaluation.

    Returns:
      One ``Outcome`` for each run, in order.

    Raises:
      Interrupted: ``should_stop`` said so; the state was saved if there is a place for it.
      UsageError: the checkpoints belong to other runs, to a program with other arrays or to another signature.
      RuntimeError: devices or processes that should hold the same state do not.
    """
    if not len(hypers) == len(seeds) == driver.members:
        raise ValueError(f"{driver.members} runs need as many hypers and seeds, not {len(hypers)} and {len(seeds)}")
    should_stop = peers.any_of(should_stop)
    begun = start(spec, dataset)
    compiled = program(begun.spec, begun.dataset.info, driver)
    sizes = [int(hyper.train_size) for hyper in hypers]
    feed = Feed(begun.dataset, feed_mode, seeds, sizes, spec.batch_size, chunk_steps, compiled.mesh)
    numbers, words = compiled.on_devices((stack_hyper(list(hypers)), np.asarray(seeds, np.uint32)))
    bundle = _Bundle(compiled, feed, numbers, words, begun)
    runs = {"hypers": list(hypers), "seeds": list(seeds), "data": dataset.fingerprint}
    owner = to_json({"spec": spec, "driver": driver.of_state(), **runs, "signature": signature})
    bundle.start(checkpoints, owner, mix_signatures)
    with Saver(checkpoints if peers.leads() else None, owner, checkpoint_seconds, expected_cost(bundle.state)) as saver:
        if bundle.evaluation_is_due():  # it was stopped just before one
            on_evaluation(bundle.step, bundle.evaluate())
        for chunk, evaluate in bundle.remaining_chunks(chunk_steps):
            for through in bundle.advance_in_parts(chunk):
                if through and evaluate:
                    if should_stop():  # an evaluation may take long
                        raise _stopped(bundle, saver, checkpoints)
                    on_evaluation(bundle.step, bundle.evaluate())
                on_progress(bundle.step)
                if should_stop():
                    raise _stopped(bundle, saver, checkpoints)
                if bundle.step < spec.steps and peers.told(saver.due()):
                    saver.save(bundle.step, *bundle.saved(checkpoints))
        if keep_checkpoint:
            saver.save(bundle.step, *bundle.saved(checkpoints), keep=1)
        outcomes = bundle.finish()
        peers.agree([outcome.parameters_digest for outcome in outcomes], "the end")
        on_outcomes(outcomes)
    if checkpoints and not keep_checkpoint and peers.leads():
        checkpoint.remove(checkpoints)
    return outcomes


def _stopped(bundle: "_Bundle", saver: Saver, checkpoints: Path | None) -> Interrupted:
    """What to raise, after saving the state; it never says of a state that was not that it was."""
    stopped = Interrupted(f"stopped at step {bundle.step} of {bundle.spec.steps}")
    stopped.saved = checkpoints is not None
    saver.save(bundle.step, *bundle.saved(checkpoints))
    try:
        saver.wait()
    except OSError as error:
        log.warning("%s", error)
        stopped = Interrupted(f"{stopped}, which is not saved: {str(error).rstrip('.')}")
        stopped.saved = False
    return stopped


def evaluation_steps(spec: Spec) -> list[int]:
    """The numbers of steps after which a run is evaluated; the last is always one."""
    period = spec.evaluate_every or spec.steps
    return [*range(period, spec.steps, period), spec.steps]


def schedule(spec: Spec, first_step: int, chunk_steps: int) -> list[tuple[int, int, bool]]:
    """(first step, steps, whether an evaluation follows) of every chunk from ``first_step`` on."""
    entries = []
    for stop in evaluation_steps(spec):
        while first_step < stop:
            length = min(chunk_steps, stop - first_step)
            first_step += length
            entries.append((first_step - length, length, first_step == stop))
    return entries


def part_steps(remaining: int, step_seconds: float | None) -> int:
    """How many of a chunk's remaining steps to take before the next look: all, or an even part that is short enough.

    Args:
      remaining: steps of the chunk.
      step_seconds: of one step, as last measured; None before the first.
    """
    if step_seconds is None:
        return 1
    parts = max(1, math.ceil(remaining * step_seconds / PART_SECONDS))
    return max(1, math.ceil(remaining / parts))


def part_of(chunk: Chunk, first: int, steps: int) -> Chunk:
    """Some steps of a chunk, in arrays as long as the chunk's, so that it is the same program."""
    if first == 0:
        return chunk._replace(length=steps)
    rolled = {name: np.roll(getattr(chunk, name), -first, axis=0) for name in ("indices", "noise", "counts")}
    return chunk._replace(length=steps, **rolled)


class _Bundle:
    """The state of the runs in training, and what is known of them so far."""

    def __init__(self, compiled: Program, feed: Feed, hyper: Hyper, seeds: Any, begun: Start):
        self.compiled, self.feed, self.hyper, self.seeds, self.begun = compiled, feed, hyper, seeds, begun
        self.spec = compiled.spec
        self.step = self.first_step = 0
        self.step_seconds: float | None = None
        self.history: list[list[dict[str, float]]] = [[] for _ in seeds]
        self.accesses = dict.fromkeys(SPLITS, 0)
        self.earlier: list[str] = []  # digests of the signatures that the state was made under before
        self.clock = Clock(features=begun.seconds)
        self.clock.started -= begun.compile_seconds

    def start(self, checkpoints: Path | None, owner: Mapping[str, Any], mix_signatures: bool) -> None:
        """From the newest good checkpoint, else from the first step."""
        first = next(iter(self.feed.chunks([(0, 1)])))
        self.state = self.compiled.start(self.hyper, self.seeds, first, self.begun.given)
        self.sums = self.compiled.zeros()
        self.clock.compile = time.perf_counter() - self.clock.started
        like = (self.state, self.sums)
        restored = peers.restored(checkpoints, owner, like, mix_signatures) if checkpoints else None
        if restored:
            peers.check_sharing(restored.extra["sharing"], self._sharing(), mix_signatures)
            before = (restored.owner or {}).get("signature")
            self.earlier = restored.extra.get("earlier", []) + (
                [] if before == owner["signature"] else [digest(before)]
            )
            self.state, self.sums = self.compiled.on_devices(restored.arrays)
            self.step = self.first_step = restored.extra["step"]
            self.history = [[*map(with_nan, records)] for records in restored.extra["history"]]
            self.accesses = restored.extra["accesses"]
        self.advance(first._replace(length=0))  # nothing, so that the first step takes no longer than the others

    def saved(self, checkpoints: Path | None) -> tuple[Any, dict[str, Any]]:
        """What a checkpoint holds: arrays, and the rest as JSON. Of several processes each has committed it then."""
        extra = {"step": self.step, "history": self.history, "accesses": self.accesses}
        extra |= {"sharing": self._sharing(), "earlier": self.earlier}
        arrays = (self.state, self.sums)
        if self.compiled.mesh is None:
            return arrays, extra
        arrays = shard.host(arrays)
        if checkpoints:
            peers.commit(checkpoints, self.step, arrays)
        return arrays, extra

    def _sharing(self) -> dict[str, Any]:
        """Who shares each batch."""
        driver = self.compiled.driver
        alone = driver.data == 1
        return {"data": driver.data, "batch_norm": None if alone else driver.batch_norm, "processes": peers.count()}

    def remaining_chunks(self, chunk_steps: int):
        """Each remaining chunk, and whether an evaluation follows it."""
        entries = schedule(self.spec, self.step, chunk_steps)
        chunks = self.feed.chunks([(first, steps) for first, steps, _ in entries])
        return zip(chunks, [evaluate for *_, evaluate in entries], strict=True)

    def advance_in_parts(self, chunk: Chunk) -> Iterator[bool]:
        """Takes the steps of a chunk; comes by when it is time for a look, and says whether the chunk is through."""
        done, looked = 0, time.perf_counter()
        while done < chunk.length:
            steps = peers.told(part_steps(chunk.length - done, self.step_seconds))
            started = time.perf_counter()
            self.advance(part_of(chunk, done, steps))
            self.step_seconds = (time.perf_counter() - started) / steps
            done += steps
            if done == chunk.length or peers.told(time.perf_counter() - looked >= LOOK_SECONDS):
                yield done == chunk.length
                looked = time.perf_counter()

    def advance(self, chunk: Chunk) -> None:
        started = time.perf_counter()
        self.state, self.sums = self.compiled.advance(self.state, self.sums, self.hyper, chunk)
        jax.block_until_ready(self.sums)
        self.step += chunk.length
        self.clock.steps += time.perf_counter() - started

    def _diverged_parameters(self) -> list[str | None]:
        """The parameter of each run that diverged, found by taking the run's steps again, up to there.

        The program itself could look at every step, but it would be another program, with other bits.
        """
        names: list[str | None] = [None for _ in self.seeds]
        found = shard.host(self.state.diverged_at)
        looks = sorted({int(at) + after for at in found if at >= 0 for after in (0, 1)})
        entries = [
            (first, min(self.feed.max_steps, stop - first))
            for start, stop in zip([0, *looks], looks, strict=False)
            for first in range(start, stop, self.feed.max_steps)
        ]
        if not looks:
            return names
        (first,) = self.feed.chunks([(0, 1)])
        state = self.compiled.initial_state(self.hyper, self.seeds, first.pool, self.begun.given)
        sums, step = self.compiled.zeros(), 0
        chunks = self.feed.chunks(entries)
        for stop in looks:
            while step < stop:
                chunk = next(chunks)
                state, sums = self.compiled.advance(state, sums, self.hyper, chunk)
                step += chunk.length
            params = shard.host(state.params)
            for lane in np.flatnonzero((found == step) | (found == step - 1)).tolist():
                names[lane] = names[lane] or tree.first_not_finite(params, lane)
        return names

    def evaluation_is_due(self) -> bool:
        """Whether an evaluation comes before the next step."""
        evaluated = self.history[0][-1]["step"] if self.history[0] else 0
        return self.step != evaluated and self.step in evaluation_steps(self.spec)

    def evaluate(self) -> list[dict[str, float]]:
        """Adds a record to every run's history, and returns these."""
        self._compile_evaluation()
        started = time.perf_counter()
        records: list[dict[str, float]] = [
            {"step": self.step, "images": self.step * self.spec.batch_size} for _ in self.seeds
        ]
        measured = {"batch": [self.sums], "train": self._sums_over("train"), "valid": self._sums_over("valid")}
        for name, sums in measured.items():
            for record, lane in zip(records, self._means(sums), strict=True):
                record.update({f"{name}_{key}": value for key, value in lane.items()})
        for history, record in zip(self.history, records, strict=True):
            history.append(record)
        self.sums = self.compiled.zeros()
        self.clock.evaluation += time.perf_counter() - started
        return records

    def _compile_evaluation(self) -> None:
        """Once, after the first steps, so that training begins sooner; no example is read."""
        started, before = time.perf_counter(), self.compiled.compilations()
        slab = next(iter(self.feed.split("valid")))
        self.compiled.evaluate(self.state, self.hyper, slab._replace(length=0), noisy=False)
        if self.compiled.compilations() > before:
            self.clock.compile += time.perf_counter() - started

    def finish(self) -> list[Outcome]:
        """The test split, read this once, and the results of every run."""
        started = time.perf_counter()
        tests = self._means(self._sums_over("test"))
        found = self._probed()
        arrays = [{name: value for name, value in lane.items() if np.ndim(value)} for lane in found]
        probed = [{name: value for name, value in lane.items() if not np.ndim(value)} for lane in found]
        outputs = self._outputs() if self.spec.keep_outputs else [None] * len(self.seeds)
        self.clock.evaluation += time.perf_counter() - started
        lanes, named = len(self.seeds), self._diverged_parameters()
        state = shard.host(self.state)
        outcomes = []
        for lane in range(lanes):
            params, model_state = jax.tree_util.tree_map(lambda leaf, at=lane: leaf[at], state[1:3])
            model_state = {**self.begun.rest, **model_state}
            last = self.history[lane][-1]
            final = {key: value for key, value in last.items() if key.startswith(("train_", "valid_"))}
            final.update({f"test_{key}": value for key, value in {**tests[lane], **probed[lane]}.items()})
            final.update({f"gap_{key}": final[f"valid_{key}"] - final[f"train_{key}"] for key in ("loss", "error")})
            final["parameters"] = tree.count((params, model_state.get(COLLECTION, {})))
            if COLLECTION in model_state:
                final["trained_parameters"] = tree.count(params)
            diverged = int(state.diverged_at[lane])
            if diverged < 0 and not all(map(math.isfinite, final.values())):
                diverged = self.step  # the last step did it, or only an evaluation shows it
                named[lane] = tree.first_not_finite(state.params, lane)
            images = (self.step - self.first_step) * self.spec.batch_size
            outcomes.append(
                Outcome(
                    metrics=final,
                    history=self.history[lane],
                    diverged_step=diverged if diverged >= 0 else None,
                    diverged_parameter=named[lane],
                    parameters_digest=tree.digest((params, model_state)),
                    seconds=(self.clock.steps + self.clock.evaluation + self.clock.features) / lanes,
                    compile_seconds=self.clock.compile / lanes,
                    images_per_second=images * lanes / max(self.clock.steps, 1e-9),
                    accesses=self.accesses,
                    outputs=outputs[lane],
                    variables=merge({"params": params, **model_state}) if self.spec.keep_weights else None,
                    arrays=arrays[lane],
                    earlier_signatures=self.earlier,
                )
            )
        return outcomes

    def _probed(self) -> list[dict[str, Any]]:
        """What the Spec's probes find on the test split, for each run; part of its one evaluation."""
        if not self.spec.probes:
            return [{} for _ in self.seeds]
        return self._means([self.compiled.probe(self.state, chunk) for chunk in self.feed.split("test", whole=True)])

    def _outputs(self) -> list[dict[str, np.ndarray]]:
        """The class probabilities of the test split, for each run."""
        chunks = [self.compiled.outputs(self.state, chunk) for chunk in self.feed.split("test", whole=True)]
        start, stop = self.feed.dataset.ranges["test"]
        labels = np.asarray(self.feed.dataset.labels[start:stop])
        return [
            {"probabilities": np.concatenate(parts).astype(np.float16), "labels": labels}
            for parts in zip(*chunks, strict=True)
        ]

    def _sums_over(self, split: str) -> list[metrics.Sums]:
        self.accesses[split] += 1
        limit = self.spec.train_examples if split == "train" else None
        noisy = split == "train"
        return [self.compiled.evaluate(self.state, self.hyper, chunk, noisy) for chunk in self.feed.split(split, limit)]

    def _means(self, sums: list[metrics.Sums]) -> list[dict[str, Any]]:
        """Means of every lane, added up on the host in double precision."""
        parts = [shard.host(part) for part in sums]
        total = {name: sum(part[name].astype(np.float64) for part in parts) for name in parts[0]}
        summarize = self.compiled.task.summarize
        return [summarize({k: v[lane] for k, v in total.items()}) for lane in range(len(self.seeds))]
