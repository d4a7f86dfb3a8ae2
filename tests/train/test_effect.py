"""What changes nothing cannot be swept: the traced step says what it reads."""

import dataclasses

import flax.linen as nn
import pytest

from cnnjax import sweep
from cnnjax.data import describe
from cnnjax.models.encoder_decoder import EncoderDecoder
from cnnjax.nn import Dropout
from cnnjax.sweep import plan, points
from cnnjax.train import Hyper, Spec
from cnnjax.train.effect import BY_FEED, READ, REASONS, read_numbers
from cnnjax.typing import UsageError


class Plain(nn.Module):
    """One dense layer whose weights have a name of their own; ``drop`` makes it drop units."""

    drop: bool = False
    decays: bool = True
    scale: float = 1.0
    note: int = 0

    @nn.compact
    def __call__(self, images, train=False, dropout_rate=0.0):
        x = images.reshape(len(images), -1)
        if self.drop:
            x = Dropout()(x, dropout_rate, train)
        if not self.decays:
            return x[:, :10] * self.param("gain", nn.initializers.ones, (10,))
        return x @ self.param("weight", nn.initializers.lecun_normal(), (x.shape[-1], 10)) * self.scale


SPEC = Spec(model=Plain(), steps=10, batch_size=8)
SPECS = {
    "plain": SPEC,
    "slow": SPEC,
    "drop": dataclasses.replace(SPEC, model=Plain(drop=True)),
    "vector": dataclasses.replace(SPEC, model=Plain(decays=False)),
    "flip": dataclasses.replace(SPEC, augment=("flip",)),
    "step": dataclasses.replace(SPEC, schedule="step"),
    "plateau": dataclasses.replace(SPEC, schedule="plateau"),
    "adam": dataclasses.replace(SPEC, optimizer="adam"),
    "all": dataclasses.replace(SPEC, model=Plain(decays=False), decayed="all"),
    "reconstruct": dataclasses.replace(SPEC, task="reconstruct", model=EncoderDecoder()),
}
UNREAD = [  # spec, name, two values, what is said
    ("plain", "dropout", (0.0, 0.5), "the network drops nothing"),
    ("vector", "weight_decay", (0.0, 0.1), "no parameter is decayed"),
    ("vector", "l2", (0.0, 0.1), "no parameter is penalised"),
    ("plain", "flip", (0.0, 1.0), "augment has no flip"),
    ("flip", "crop", (0.0, 1.0), "augment has no crop"),
    ("plain", "rate_drop", (0.1, 0.5), "Use schedule=step"),
    ("plain", "auxiliary_weight", (0.0, 0.3), "no auxiliary heads"),
    ("reconstruct", "label_smoothing", (0.0, 0.1), "no labels"),
    ("reconstruct", "label_noise", (0.0, 0.1), "no labels"),
    ("plain", "warmup", (0.0, 0.01), "0 steps of warm-up"),
    ("plain", "warmup_factor", (0.0, 0.1), "0 steps of warm-up"),
    ("plain", "train_size", (0, describe(SPEC.data).sizes["train"]), "examples"),
    ("plain", "milestones", ((0.5,), (0.6,)), "Use schedule=step"),
    ("step", "patience", (2, 5), "Use schedule=plateau"),
    ("slow", "nesterov", (False, True), "momentum is 0"),
    ("plain", "warmup_form", ("linear", "constant"), "Use warmup=0.1"),
    ("plain", "decayed", ("kernels", "all"), "nothing decays"),
    ("plain", "model.note", (0, 1), "model.note=0 and model.note=1 make the same program"),
]
READS = [
    ("drop", "dropout", (0.0, 0.5)),
    ("plain", "weight_decay", (0.0, 0.1)),
    ("plain", "l2", (0.0, 0.1)),
    ("all", "l2", (0.0, 0.1)),
    ("flip", "flip", (0.0, 1.0)),
    ("step", "rate_drop", (0.1, 0.5)),
    ("plateau", "rate_drop", (0.1, 0.5)),
    ("plain", "label_smoothing", (0.0, 0.1)),
    ("plain", "label_noise", (0.0, 0.1)),
    ("plain", "warmup", (0.0, 0.1)),
    ("plain", "train_size", (0, 100)),
    ("step", "milestones", ((0.5,), (0.6,))),
    ("plateau", "patience", (2, 5)),
    ("plain", "nesterov", (False, True)),
    ("plain", "model.scale", (1.0, 2.0)),
    ("plain", "model.drop", (False, True)),
]


def planned(spec, name, values):
    hyper = Hyper(momentum=0.0) if spec == "slow" else Hyper()
    return plan(points(SPECS[spec], hyper, sweep.product(**{name: values}), [0]), "cpu")


@pytest.mark.parametrize(("spec", "name", "values", "says"), UNREAD)
@pytest.mark.slow
def test_a_number_without_effect_is_refused_with_the_reason(spec, name, values, says):
    with pytest.raises(UsageError, match=name) as refused:
        planned(spec, name, values)
    assert says in str(refused.value)


@pytest.mark.parametrize(("spec", "name", "values"), READS)
def test_a_number_with_an_effect_is_taken(spec, name, values):
    assert len(planned(spec, name, values).points) == 2


@pytest.mark.parametrize("spec", ["plain", "adam", "step", "plateau", "reconstruct"])
def test_what_is_taken_to_be_read_always_is(spec):
    assert read_numbers(SPECS[spec], describe(SPEC.data)) >= READ


def test_every_number_that_may_go_unread_has_a_reason():
    assert {field.name for field in dataclasses.fields(Hyper)} - READ - BY_FEED == set(REASONS)


def test_a_refused_axis_gave_the_same_weights_in_fact():
    """Without the check: two runs that differ in what the step does not read."""
    spec, hypers = SPECS["vector"], (Hyper(), Hyper(weight_decay=0.1))
    digests = set()
    for hyper in hypers:
        (row,) = sweep.run(spec, seeds=[0], hyper=hyper)
        digests.add(row["parameters_digest"])
    assert len(digests) == 1
