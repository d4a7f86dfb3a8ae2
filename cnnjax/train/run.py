"""Training a bundle of runs to the end, in chunks: the only training loop of the project."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnnjax import metrics, tree
from cnnjax.data.catalog import Dataset
from cnnjax.data.dataset import SPLITS
from cnnjax.data.feed import Feed, Mode
from cnnjax.tasks.frozen import COLLECTION, merge
from cnnjax.train import checkpoint
from cnnjax.train.features import Start, start
from cnnjax.train.program import Driver, Program, program, stack_hyper
from cnnjax.train.spec import Hyper, Spec, digest

CHUNK_STEPS = 50  # steps between looks at the device; does not change results
CHECKPOINT_SECONDS = 60.0  # shorter runs never save: repeating one costs less than a minute


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
      parameters_digest: SHA-256 of the final parameters and model state.
      seconds: of training, evaluation and computing features, an equal share of the bundle's; compiling excluded.
      compile_seconds: of compiling and of drawing the parameters, an equal share of the bundle's.
      images_per_second: training images of this run over the time its steps took.
      accesses: how many times each split was evaluated; the test split once.
      outputs: class probabilities (N, classes) float16 and labels (N,) int32 of the test split, where the Spec
        keeps them.
      variables: the final variables of the whole network, where the Spec keeps them.
      arrays: what the Spec's probes found that is no number, such as the kernels of the first layer.
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


class Interrupted(Exception):
    """The caller asked to stop: the state is saved, where a checkpoint directory was given."""


@dataclass
class Clock:
    """Where the time of a bundle went."""

    started: float = field(default_factory=time.perf_counter)
    compile: float = 0.0
    features: float = 0.0
    steps: float = 0.0
    evaluation: float = 0.0


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
    on_progress: Callable[[int], None] = lambda steps: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Outcome]:
    """Trains ``driver.lanes`` runs of one Spec side by side, from the start or a checkpoint.

    Args:
      spec: the static part, the same for all.
      hypers: the numbers of each run.
      seeds: the seed of each run.
      dataset: decoded examples.
      driver: how to execute; changes bits.
      feed_mode: resident on the device or streamed; does not change results.
      checkpoints: directory for checkpoints; None saves none and resumes nothing.
      checkpoint_seconds: least time between two saves.
      chunk_steps: steps between looks at the device; does not change results.
      on_progress: called with the number of steps done, after every chunk.
      should_stop: asked after every chunk.

    Returns:
      One ``Outcome`` for each run, in order.

    Raises:
      Interrupted: ``should_stop`` said so; the state was saved if there is a place for it.
    """
    if not len(hypers) == len(seeds) == driver.lanes:
        raise ValueError(f"{driver.lanes} lanes need as many hypers and seeds, not {len(hypers)} and {len(seeds)}")
    begun = start(spec, dataset)
    compiled = program(begun.spec, begun.dataset.info, driver)
    feed = Feed(begun.dataset, feed_mode, seeds, [int(h.train_size) for h in hypers], spec.batch_size, chunk_steps)
    bundle = _Bundle(compiled, feed, stack_hyper(list(hypers)), np.asarray(seeds, np.uint32), begun)
    runs = {"hypers": list(hypers), "seeds": list(seeds), "data": dataset.fingerprint}
    owner = digest({"spec": spec, "driver": driver, **runs})
    bundle.start(checkpoints, owner)
    last_save = time.perf_counter()
    for chunk, evaluate in bundle.remaining_chunks(chunk_steps):
        bundle.advance(chunk)
        if evaluate:
            bundle.evaluate()
        on_progress(bundle.step)
        stop = should_stop()
        due = time.perf_counter() - last_save > checkpoint_seconds and bundle.step < spec.steps
        if checkpoints and (stop or due):
            checkpoint.save(checkpoints, owner, bundle.step, *bundle.saved())
            last_save = time.perf_counter()
        if stop:
            raise Interrupted(f"stopped at step {bundle.step} of {spec.steps}")
    outcomes = bundle.finish()
    if checkpoints:
        checkpoint.remove(checkpoints)
    return outcomes


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


class _Bundle:
    """The state of the runs in training, and what is known of them so far."""

    def __init__(self, compiled: Program, feed: Feed, hyper: Hyper, seeds: np.ndarray, begun: Start):
        self.compiled, self.feed, self.hyper, self.seeds, self.begun = compiled, feed, hyper, seeds, begun
        self.spec = compiled.spec
        self.step = self.first_step = 0
        self.history: list[list[dict[str, float]]] = [[] for _ in seeds]
        self.accesses = dict.fromkeys(SPLITS, 0)
        self.clock = Clock(features=begun.seconds)
        self.clock.started -= begun.compile_seconds

    def start(self, checkpoints: Path | None, owner: str) -> None:
        """From the newest good checkpoint, else from the first step."""
        first = next(iter(self.feed.chunks([(0, 1)])))
        self.state = self.compiled.start(self.hyper, self.seeds, first, self.begun.given)
        self.sums = self.compiled.zeros()
        self.clock.compile = time.perf_counter() - self.clock.started
        restored = checkpoint.restore(checkpoints, owner, (self.state, self.sums)) if checkpoints else None
        if restored:
            self.state, self.sums = restored.arrays
            self.step = self.first_step = restored.extra["step"]
            self.history = restored.extra["history"]
            self.accesses = restored.extra["accesses"]

    def saved(self) -> tuple[Any, dict[str, Any]]:
        """What a checkpoint holds: arrays, and the rest as JSON."""
        extra = {"step": self.step, "history": self.history, "accesses": self.accesses}
        return (self.state, self.sums), extra

    def remaining_chunks(self, chunk_steps: int):
        """Each remaining chunk, and whether an evaluation follows it."""
        entries = schedule(self.spec, self.step, chunk_steps)
        chunks = self.feed.chunks([(first, steps) for first, steps, _ in entries])
        return zip(chunks, [evaluate for *_, evaluate in entries], strict=True)

    def advance(self, chunk) -> None:
        started = time.perf_counter()
        self.state, self.sums = self.compiled.advance(self.state, self.sums, self.hyper, chunk)
        jax.block_until_ready(self.sums)
        self.step += chunk.length
        self.clock.steps += time.perf_counter() - started

    def evaluate(self) -> None:
        """Adds a record to every run's history."""
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
        lanes = len(self.seeds)
        state = jax.device_get(self.state)
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
            images = (self.step - self.first_step) * self.spec.batch_size
            outcomes.append(
                Outcome(
                    metrics=final,
                    history=self.history[lane],
                    diverged_step=diverged if diverged >= 0 else None,
                    parameters_digest=tree.digest((params, model_state)),
                    seconds=(self.clock.steps + self.clock.evaluation + self.clock.features) / lanes,
                    compile_seconds=self.clock.compile / lanes,
                    images_per_second=images * lanes / max(self.clock.steps, 1e-9),
                    accesses=self.accesses,
                    outputs=outputs[lane],
                    variables=merge({"params": params, **model_state}) if self.spec.keep_weights else None,
                    arrays=arrays[lane],
                )
            )
        return outcomes

    def _probed(self) -> list[dict[str, Any]]:
        """What the Spec's probes find on the test split, for each run; part of its one evaluation."""
        if not self.spec.probes:
            return [{} for _ in self.seeds]
        return self._means([self.compiled.probe(self.state, chunk) for chunk in self.feed.split("test")])

    def _outputs(self) -> list[dict[str, np.ndarray]]:
        """The class probabilities of the test split, for each run."""
        chunks = [self.compiled.outputs(self.state, chunk) for chunk in self.feed.split("test")]
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
        parts = [jax.device_get(part) for part in sums]
        total = {name: sum(part[name].astype(np.float64) for part in parts) for name in parts[0]}
        summarize = self.compiled.task.summarize
        return [summarize({k: v[lane] for k, v in total.items()}) for lane in range(len(self.seeds))]
