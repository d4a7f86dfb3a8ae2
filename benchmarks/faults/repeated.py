"""The same runs in another order, from every step on, and as identical arms of a comparison."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.faults import storm
from benchmarks.faults.finding import Finding, Place
from benchmarks.faults.processes import TIMES
from cnnjax import claims
from cnnjax.data import DataConfig, load
from cnnjax.data.feed import Chunk
from cnnjax.sweep import Execution, explicit, run
from cnnjax.train import Hyper, Spec
from cnnjax.train.program import Driver
from cnnjax.train.run import Interrupted, Outcome, train


def order(place: Place) -> Finding:
    """200 runs; shuffled, with other partners in their bundles, and one of them diverging."""
    count = 24 if place.quick else 200
    data = DataConfig()
    spec = dataclasses.replace(storm.spec("smoke", data), steps=30, evaluate_every=15)
    hyper, execution = storm.hyper("smoke", data), Execution(driver=Driver("scan", 8))
    usual = [{"l2": float(k) * 1e-5} for k in range(count)]
    shuffled = [usual[k] for k in np.random.default_rng(0).permutation(count)]
    broken = next(k for k, point in enumerate(shuffled) if point == usual[count // 3])
    changed: list[dict[str, Any]] = [dict(point) for point in shuffled]
    changed[broken]["learning_rate"] = 1e30
    first = run(spec, explicit(*usual), [0], hyper, execution=execution)
    second = run(spec, explicit(*changed), [0], hyper, execution=execution)
    by_penalty = {row["assignment"]["l2"]: _timeless(row) for row in first}
    equal, problems = 0, []
    for row in second:
        expected = by_penalty[row["assignment"]["l2"]]
        if "learning_rate" not in row["assignment"]:
            same = repr(_timeless(row)) == repr(expected)  # as text, for NaN is no NaN's equal
            equal += same
            problems += [] if same else [f"the run of {row['assignment']} has other bits"]
    (diverged,) = (row for row in second if "learning_rate" in row["assignment"])
    said = {name: diverged[name] for name in ("status", "diverged_step", "diverged_parameter")}
    if said["status"] != "diverged" or said["diverged_step"] is None or not said["diverged_parameter"]:
        problems.append(f"the diverging run is marked {said}")
    return Finding.of(problems, runs=len(second), equal_to_the_bit=equal, diverged=said)


def _timeless(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in TIMES}


def every_step(place: Place) -> Finding:
    """A run of three epochs, stopped after every step, before and after evaluations, and resumed."""
    data = DataConfig()
    digits, size = load(data), 200  # examples: the last batch of an epoch holds some of the next
    epoch = math.ceil(size / 16)
    steps = 3 * epoch
    spec = dataclasses.replace(
        storm.spec("smoke", data), steps=steps, evaluate_every=epoch // 2, model="mlp", model_fields=(("hidden", (8,)),)
    )
    hyper, driver = dataclasses.replace(storm.hyper("smoke", data), train_size=size), Driver("scan", 1)

    def go(directory: Path | None, stop_after: int | None) -> Outcome | None:
        looks = iter(range(10**6))
        try:
            (outcome,) = train(
                spec,
                [hyper],
                [0],
                digits,
                driver,
                checkpoints=directory,
                checkpoint_seconds=math.inf,
                chunk_steps=1,
                should_stop=lambda: stop_after is not None and next(looks) >= stop_after,
            )
        except Interrupted:
            return None
        return outcome

    with _ledger() as whole:
        expected = go(None, None)
    assert expected is not None
    problems = _repeats(whole, size)
    stops, same = 0, 0
    for number in range(0, 10**6, 5 if place.quick else 1):
        directory = place.fresh(f"stop-{number}")
        with _ledger() as seen:
            outcome = go(directory, number)
            if outcome is not None:  # there are no more looks
                break
            stops += 1
            outcome = go(directory, None)
        assert outcome is not None
        equal = (outcome.parameters_digest, outcome.history) == (expected.parameters_digest, expected.history)
        same += equal
        problems += [] if equal else [f"stopped at look {number}: other parameters or another history"]
        problems += [] if seen == whole else [f"stopped at look {number}: other examples were seen"]
    return Finding.of(problems, steps=steps, epochs=3, stops=stops, identical=same, examples_seen=len(whole))


class _ledger:
    """The numbers of the examples that training steps see within this context, in order."""

    def __enter__(self) -> list[int]:
        seen: list[int] = []
        from cnnjax.train.run import _Bundle

        self.real = _Bundle.advance

        def advance(bundle: Any, chunk: Chunk) -> None:
            assert bundle.feed._resident is not None  # so that indices are numbers of examples
            seen.extend(np.asarray(chunk.indices[: chunk.length]).ravel().tolist())
            self.real(bundle, chunk)

        _Bundle.advance = advance  # type: ignore[method-assign, assignment]
        return seen

    def __exit__(self, *_: object) -> None:
        from cnnjax.train.run import _Bundle

        _Bundle.advance = self.real  # type: ignore[method-assign]


def _repeats(seen: list[int], size: int) -> list[str]:
    """Epochs in which an example is missing or comes twice."""
    epochs = [seen[start : start + size] for start in range(0, len(seen) - size + 1, size)]
    return [f"epoch {k} does not show each example once" for k, epoch in enumerate(epochs) if len(set(epoch)) < size]


def identical_arms(place: Place) -> Finding:
    """Comparisons of an arm with itself on other seeds: whatever is claimed is false."""
    from scipy.stats import binom

    sweeps, seeds = (20, 4) if place.quick else (200, 5)
    spec = Spec(model="mlp", model_fields=(("hidden", (8,)),), steps=40, batch_size=16, train_examples=256)
    rows = run(
        spec,
        seeds=range(2 * sweeps * seeds),
        hyper=Hyper(learning_rate=0.05),
        execution=Execution(driver=Driver("scan", 40)),
    )
    tested = [
        claims.Claim("greater", "A is above A.", "none", "greater"),
        claims.Claim("less", "A is below A.", "none", "less"),
    ]
    false = {"reproduced": 0, "refuted": 0, "interval_without_0": 0}
    with_two = 0
    for sweep in range(sweeps):
        own = [row["metrics"]["test_loss"] for row in rows[2 * sweep * seeds : 2 * (sweep + 1) * seeds]]
        sample = [a - b for a, b in zip(own[:seeds], own[seeds:], strict=True)]
        for claim in tested:
            (verdict,) = claims.judge([claim], {claim.id: sample})
            if claim.test == "greater":
                false["reproduced"] += verdict.verdict == "reproduced"
                false["refuted"] += verdict.verdict == "refuted"
                false["interval_without_0"] += not verdict.interval[0] <= 0 <= verdict.interval[1]
            (two,) = claims.judge([claim], {claim.id: sample[: claims.MIN_SEEDS - 1]})
            with_two += two.verdict != "inconclusive"
    bound = int(binom.isf(0.001, sweeps, claims.ALPHA))
    problems = [f"{count} of {sweeps} are {what}" for what, count in false.items() if count > bound]
    problems += [f"{with_two} verdicts from fewer than {claims.MIN_SEEDS} seeds"] if with_two else []
    return Finding.of(problems, sweeps=sweeps, seeds=seeds, **false, bound=bound, verdicts_under_3_seeds=with_two)
