import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnjax.data.feed import Feed, subset
from cnnjax.train import checkpoint, run
from cnnjax.train.program import Driver, program, stack_hyper
from cnnjax.train.run import Interrupted, evaluation_steps, schedule, train
from cnnjax.train.spec import Hyper, Spec
from cnnjax.typing import UsageError

ONE = Driver("scan", 1)
TWO = Driver("scan", 2)


def timeless(outcome):
    """What a run left behind, without its times; NaN equals NaN."""
    found = dataclasses.asdict(outcome)
    kept = ("metrics", "history", "diverged_step", "parameters_digest")
    return json.dumps({name: found[name] for name in kept})


# What happens when


@given(
    st.integers(1, 60).flatmap(lambda steps: st.tuples(st.just(steps), st.integers(0, steps), st.integers(0, steps))),
    st.integers(1, 70),
)
def test_chunks_cover_the_steps_and_end_at_evaluations(numbers, chunk_steps):
    steps, period, first = numbers
    spec = Spec(steps=steps, evaluate_every=period)
    wanted = evaluation_steps(spec)
    assert wanted == sorted({*range(period, steps, period), steps} if period else {steps})
    entries = schedule(spec, first, chunk_steps)
    covered = [step for start, length, _ in entries for step in range(start, start + length)]
    assert covered == list(range(first, steps))
    assert all(1 <= length <= chunk_steps for _, length, _ in entries)
    assert [start + length for start, length, evaluated in entries if evaluated] == [w for w in wanted if w > first]


# What a run leaves behind


def test_metrics_are_means_over_the_splits(digits, mlp, advance, everything):
    (outcome,) = train(mlp, [everything], [0], digits, ONE)
    _, state = advance(mlp, [everything], ONE, mlp.steps)
    params = {layer: {k: np.asarray(v[0]) for k, v in leaves.items()} for layer, leaves in state.params.items()}
    images = (digits.images.reshape(-1, 64).astype(np.float32) / 255 - digits.mean) / digits.std
    hidden = np.maximum(images @ params["dense1"]["kernel"] + params["dense1"]["bias"], 0)
    logits = hidden @ params["head"]["kernel"] + params["head"]["bias"]
    loss = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(logits)), digits.labels]
    wrong = logits.argmax(1) != digits.labels
    for split in ("valid", "test"):
        part = slice(*digits.ranges[split])
        assert outcome.metrics[f"{split}_loss"] == pytest.approx(loss[part].mean(), rel=1e-4)
        assert outcome.metrics[f"{split}_error"] == pytest.approx(wrong[part].mean())
    for name in ("loss", "error"):
        gap = outcome.metrics[f"valid_{name}"] - outcome.metrics[f"train_{name}"]
        assert outcome.metrics[f"gap_{name}"] == pytest.approx(gap)
    assert outcome.metrics["parameters"] == 64 * 8 + 8 + 8 * 10 + 10
    # The labels of the 300 training examples that the run sees are noisy, at 0.3.
    clean = wrong[subset(0, 300, 1024)].mean()
    assert outcome.metrics["train_error"] == pytest.approx(clean + 0.3 * (1 - clean), abs=0.12)
    assert abs(outcome.metrics["train_error"] - clean) > 1e-3


def test_the_history_holds_every_evaluation(digits, mlp):
    (outcome,) = train(mlp, [Hyper()], [0], digits, ONE)
    assert [(record["step"], record["images"]) for record in outcome.history] == [(6, 96), (12, 192)]
    names = {"step", "images", *(f"{a}_{b}" for a in ("batch", "train", "valid") for b in ("loss", "error"))}
    assert all(set(record) == names for record in outcome.history)
    assert outcome.history[-1].items() >= {k: outcome.metrics[k] for k in ("train_loss", "valid_error")}.items()
    assert outcome.history[1]["train_loss"] < outcome.history[0]["train_loss"]
    assert outcome.history[1]["batch_loss"] < outcome.history[0]["batch_loss"]
    assert outcome.diverged_step is None
    assert min(outcome.seconds, outcome.compile_seconds, outcome.images_per_second) > 0


def test_batch_means_are_of_the_steps_since_the_last_evaluation(digits, mlp, advance):
    (outcome,) = train(mlp, [Hyper()], [0], digits, ONE)
    compiled, hyper = program(mlp, digits.info, ONE), stack_hyper([Hyper()])
    state = advance(mlp, [Hyper()], ONE, 6)[1]
    (chunk,) = Feed(digits, "resident", [0], [0], mlp.batch_size, 50).chunks([(6, 6)])
    _, sums = compiled.advance(state, compiled.zeros(), hyper, chunk)
    assert sums["count"] == 6 * mlp.batch_size
    for name in ("loss", "error"):
        assert outcome.history[1][f"batch_{name}"] == pytest.approx(float(sums[name][0]) / 96, rel=1e-6)


def test_a_run_sees_its_subset_and_chooses_nothing_on_other_splits(digits, mlp):
    (expected,) = train(mlp, [Hyper(train_size=300)], [3], digits, ONE)
    unseen = np.setdiff1d(np.arange(len(digits.labels)), subset(3, 300, 1024))
    images = digits.images.copy()
    images[unseen] = images[unseen[::-1]]
    changed = dataclasses.replace(digits, images=images, fingerprint="another")
    (outcome,) = train(mlp, [Hyper(train_size=300)], [3], changed, ONE)
    assert outcome.parameters_digest == expected.parameters_digest
    assert outcome.metrics["train_loss"] == expected.metrics["train_loss"]
    assert outcome.metrics["test_error"] != expected.metrics["test_error"]
    (other,) = train(mlp, [Hyper(train_size=301)], [3], digits, ONE)
    assert other.parameters_digest != expected.parameters_digest


def test_a_run_whose_last_step_breaks_it_has_diverged(digits, mlp):
    spec = dataclasses.replace(mlp, steps=1, evaluate_every=0)
    broken, whole = train(spec, [Hyper(learning_rate=1e30), Hyper()], [0, 0], digits, TWO)
    assert np.isfinite(broken.history[0]["batch_loss"])
    assert broken.diverged_step == 1
    assert whole.diverged_step is None


def test_every_lane_needs_a_run(digits, mlp):
    with pytest.raises(ValueError, match="2 runs need as many hypers and seeds, not 2 and 1"):
        train(mlp, [Hyper()] * 2, [0], digits, TWO)


# Interrupted and resumed


def stopping_at(step):
    """Asks to stop after a step, or as soon after it as a run asks."""
    seen = [0]
    return {"on_progress": seen.append, "should_stop": lambda: seen[-1] >= step}


@pytest.fixture
def resumed(digits, mlp, everything, tmp_path):
    """``resumed(**options)``: the MLP's run in chunks of three steps, with its checkpoints in ``tmp_path``."""

    def run(**options):
        chosen = {"checkpoints": tmp_path / "bundle", "chunk_steps": 3, **options}
        (outcome,) = train(mlp, [everything], [chosen.pop("seed", 0)], digits, ONE, **chosen)
        return timeless(outcome)

    return run


@pytest.fixture(scope="module")
def expected(digits, mlp, everything):
    """By seed, the same run uninterrupted."""
    return {seed: timeless(train(mlp, [everything], [seed], digits, ONE, chunk_steps=3)[0]) for seed in (0, 1)}


@pytest.mark.parametrize("chunks", [1, 2, 3, 4])
@pytest.mark.slow
def test_a_run_resumed_after_any_chunk_is_the_uninterrupted_one(resumed, expected, tmp_path, chunks):
    with pytest.raises(Interrupted, match=f"stopped at step {3 * chunks} of 12"):
        resumed(**stopping_at(3 * chunks))
    assert checkpoint.steps(tmp_path / "bundle") == [3 * chunks]
    seen = []
    assert resumed(on_progress=seen.append) == expected[0]
    assert seen == list(range(3 * chunks + 3, 13, 3))
    assert list(tmp_path.iterdir()) == []


def test_a_run_stopped_after_every_chunk_is_the_uninterrupted_one(resumed, expected, digits, mlp):
    stops = 0
    compiled = program(mlp, digits.info, ONE)
    before = compiled.compilations()
    while True:
        try:
            found = resumed(should_stop=lambda: True)
            break
        except Interrupted:
            stops += 1
    assert (stops, found) == (4, expected[0])
    assert compiled.compilations() == before


def test_a_crash_loses_what_came_after_the_last_checkpoint(resumed, expected, tmp_path):
    def crash(step):
        if step == 9:
            raise MemoryError

    with pytest.raises(MemoryError):
        resumed(checkpoint_seconds=0.0, on_progress=crash)
    assert checkpoint.steps(tmp_path / "bundle") == [3, 6]
    seen = []
    assert resumed(checkpoint_seconds=0.0, on_progress=seen.append) == expected[0]
    assert seen == [9, 12]
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_checkpoint_costs_steps_but_no_bit(resumed, expected, tmp_path, caplog):
    with pytest.raises(Interrupted):
        resumed(checkpoint_seconds=0.0, **stopping_at(9))
    assert checkpoint.steps(tmp_path / "bundle") == [6, 9]
    for path in (tmp_path / "bundle" / "9").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    seen = []
    assert resumed(on_progress=seen.append) == expected[0]
    assert seen == [9, 12]
    assert "bundle/9 passed over" in caplog.text


def test_the_checkpoint_of_another_run_is_refused(resumed, expected):
    with pytest.raises(Interrupted):
        resumed(**stopping_at(6))
    with pytest.raises(UsageError, match="is a checkpoint of other runs") as error:
        resumed(seed=1)
    assert {'  there: "seeds/0": 0', '  asked: "seeds/0": 1'} <= set(str(error.value).splitlines())
    assert resumed() == expected[0]  # it is still there


@pytest.fixture
def every_step(monkeypatch):
    """Looks after every single step, whatever the chunks."""
    monkeypatch.setattr(run, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(run, "part_steps", lambda remaining, seconds: 1)


@pytest.mark.slow
def test_three_epochs_stopped_after_every_step_are_the_uninterrupted_ones(
    digits, net, everything, every_step, monkeypatch, tmp_path
):
    sizes = 16, 15  # two steps an epoch, and an epoch that ends within a batch
    spec = dataclasses.replace(net, schedule="cosine")
    hypers = [dataclasses.replace(everything, train_size=size) for size in sizes]
    runs = (spec, hypers, [0, 1], digits, TWO)
    whole = [timeless(outcome) for outcome in train(*runs)]
    compiled = program(spec, digits.info, TWO)
    before, seen, advance = compiled.compilations(), [], compiled.advance

    def recording(state, sums, hyper, chunk):
        seen.extend(np.asarray(chunk.indices)[: chunk.length])
        return advance(state, sums, hyper, chunk)

    monkeypatch.setattr(compiled, "advance", recording)
    stops, evaluations, asked = [], [], [False]
    for evaluated in (False, True):  # between evaluation and save, too

        def should_stop(evaluated=evaluated):
            return asked[-1] if evaluated else True

        def on_evaluation(step, records):
            evaluations.append((step, records))
            asked.append(True)

        seen.clear()
        outcomes = None
        while outcomes is None:
            asked.append(False)
            try:
                outcomes = train(
                    *runs, checkpoints=tmp_path / "bundle", should_stop=should_stop, on_evaluation=on_evaluation
                )
            except Interrupted as stopped:
                stops.append(int(str(stopped).split()[3]))
        assert [timeless(outcome) for outcome in outcomes] == whole
        assert all(outcome.accesses == {"train": 2, "valid": 2, "test": 1} for outcome in outcomes)
        assert len(seen) == 6
        for lane, (seed, size) in enumerate(zip([0, 1], sizes, strict=True)):
            examples = np.concatenate([batch[lane] for batch in seen])
            for epoch in range(3):
                ledger = examples[epoch * size : (epoch + 1) * size]
                assert sorted(ledger) == sorted(subset(seed, size, digits.info.sizes["train"]))
    assert stops == [1, 2, 3, 4, 5, 6, 3, 6]
    assert [step for step, _ in evaluations] == [3, 6] * 2
    for step, records in evaluations:
        assert records == [outcome.history[step // 3 - 1] for outcome in outcomes]
    assert compiled.compilations() == before


def test_a_run_stopped_before_an_evaluation_begins_with_it(resumed, expected, every_step):
    asked = []

    def second():  # at step 6 it is asked before the evaluation, and after
        asked.append(None)
        return len(asked) == 6

    evaluated, seen = [], []
    with pytest.raises(Interrupted, match="stopped at step 6 of 12"):
        resumed(should_stop=second, on_evaluation=lambda step, records: evaluated.append(step))
    assert evaluated == []
    again = {"on_evaluation": lambda step, records: evaluated.append(step), "on_progress": seen.append}
    assert resumed(**again) == expected[0]
    assert evaluated == [6, 12]
    assert seen == list(range(7, 13))


# Kept, or not


def test_a_kept_checkpoint_gives_the_same_results_at_once(resumed, expected, tmp_path):
    there = []
    for _ in range(2):
        seen = []
        outcomes = []
        assert resumed(keep_checkpoint=True, on_progress=seen.append, on_outcomes=outcomes.extend) == expected[0]
        there.append((seen, checkpoint.steps(tmp_path / "bundle"), timeless(outcomes[0]) == expected[0]))
    assert there == [([3, 6, 9, 12], [12], True), ([], [12], True)]


def test_checkpoints_stay_until_the_results_are_written(resumed, tmp_path):
    there = []
    resumed(checkpoint_seconds=0.0, on_outcomes=lambda outcomes: there.extend(checkpoint.steps(tmp_path / "bundle")))
    assert there
    assert set(there) <= {3, 6, 9}
    assert not (tmp_path / "bundle").exists()


@pytest.fixture
def without_room(tmp_path):
    """In the place of the directory for checkpoints there is a file, as good as a full disk."""
    (tmp_path / "bundle").write_text("")


def test_a_run_that_cannot_save_goes_on_and_says_so(resumed, expected, without_room, caplog):
    assert resumed(checkpoint_seconds=0.0) == expected[0]
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3
    for step, record in zip((3, 6, 9), caplog.records, strict=True):
        assert record.message.startswith(f"The checkpoint of step {step} could not be written to ")
        assert "Make room" in record.message
        assert "\n" not in record.message


def test_a_run_that_stops_and_cannot_save_does_not_claim_that_it_has(resumed, without_room):
    with pytest.raises(Interrupted, match=r"stopped at step 6 of 12, which is not saved: The checkpoint of") as stopped:
        resumed(**stopping_at(6))
    assert not stopped.value.saved
    with pytest.raises(Interrupted) as stopped:
        resumed(checkpoints=None, **stopping_at(6))
    assert not stopped.value.saved


# How long until the next look


@pytest.mark.parametrize(
    ("remaining", "seconds", "steps"),
    [
        (50, None, 1),
        (50, 0.0, 50),
        (50, 0.02, 50),
        (50, 0.06, 25),
        (49, 0.06, 25),
        (50, 7.0, 1),
        (1, 7.0, 1),
        (3, 1.0, 2),
    ],
)
def test_the_steps_between_looks_follow_from_how_long_one_takes(remaining, seconds, steps):
    assert run.part_steps(remaining, seconds) == steps


def test_a_slow_chunk_is_left_in_time(resumed, expected, monkeypatch):
    monkeypatch.setattr(run, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(run, "PART_SECONDS", 1e-9)  # as if every step were slow
    seen = []
    assert resumed(on_progress=seen.append, chunk_steps=3) == expected[0]
    assert seen == list(range(1, 13))


def test_a_run_may_change_its_feed_when_it_resumes(digits, mlp, everything, tmp_path):
    run = (mlp, [everything], [0], digits, ONE)
    (whole,) = train(*run)
    with pytest.raises(Interrupted, match="stopped at step 6 of 12"):
        train(*run, checkpoints=tmp_path / "bundle", feed_mode="stream", should_stop=lambda: True)
    (outcome,) = train(*run, checkpoints=tmp_path / "bundle", feed_mode="resident")
    assert timeless(outcome) == timeless(whole)


def test_without_a_place_for_checkpoints_nothing_is_kept(resumed, tmp_path):
    with pytest.raises(Interrupted):
        resumed(checkpoints=None, should_stop=lambda: True)
    assert list(tmp_path.iterdir()) == []


# What else is measured at the end


def test_probes_and_outputs_belong_to_the_one_evaluation_of_the_test_split(digits, mlp):
    spec = dataclasses.replace(mlp, probes=("shifts", "one_vs_rest"), keep_outputs=True)
    plain = train(mlp, [Hyper()], [0], digits, ONE)[0]
    (outcome,) = train(spec, [Hyper()], [0], digits, ONE)
    assert outcome.metrics.items() >= plain.metrics.items()
    assert outcome.parameters_digest == plain.parameters_digest
    assert outcome.accesses == plain.accesses == {"train": 2, "valid": 2, "test": 1}
    added = set(outcome.metrics) - set(plain.metrics)
    assert added == {f"test_{w}_shift{d}" for w in ("error", "changed") for d in (1, 2, 3, 4)} | {
        "test_positive", "test_true_positive"
    }  # fmt: skip
    assert plain.outputs is None
    probabilities, labels = outcome.outputs["probabilities"], outcome.outputs["labels"]
    assert probabilities.shape == (517, 10)
    assert (labels == digits.labels[slice(*digits.ranges["test"])]).all()
    np.testing.assert_allclose(probabilities.astype(np.float32).sum(1), 1, atol=2e-3)
    assert (probabilities.argmax(1) != labels).mean() == pytest.approx(outcome.metrics["test_error"], abs=4 / 517)


def test_probes_and_outputs_of_each_lane_are_its_own(digits, mlp):
    spec = dataclasses.replace(mlp, probes=("one_vs_rest",), keep_outputs=True)
    hypers = [Hyper(), Hyper(learning_rate=0.01)]
    first, second = train(spec, hypers, [0, 1], digits, TWO)
    swapped = train(spec, hypers[::-1], [1, 0], digits, TWO)
    assert swapped[1].metrics == first.metrics
    assert swapped[0].metrics == second.metrics
    assert (swapped[1].outputs["probabilities"] == first.outputs["probabilities"]).all()
    assert (first.outputs["probabilities"] != second.outputs["probabilities"]).any()


def test_accesses_are_counted_across_an_interruption(digits, mlp, tmp_path):
    kept = {"checkpoints": tmp_path / "kept", "chunk_steps": 6}
    with pytest.raises(Interrupted):
        train(mlp, [Hyper()], [0], digits, ONE, **kept, should_stop=lambda: True)
    (outcome,) = train(mlp, [Hyper()], [0], digits, ONE, **kept)
    assert outcome.accesses == {"train": 2, "valid": 2, "test": 1}
