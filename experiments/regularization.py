"""Weight regularisation: the loss L + c * sum(w^2) against c.

The lectures (S0:892-902) add c times the sum of the squared weights to the loss against overfitting.
Here c is one traced axis: every c and every seed run in the same compiled program. With few training
examples the gap between validation and training loss shrinks as c grows, the test loss has a minimum,
and far beyond it the net underfits.

    python -m experiments.regularization                            quick, embedded digits
    python -m experiments.regularization --data=folder:DIR          quick, for example CIFAR-10
    python -m experiments.regularization --sweep l2=0,1e-4,1e-3     other values of c

Quick trains LeNet-5 on 128 digits for 600 steps with 10 seeds: about a minute on two CPU cores. Expect
a test loss near 0.7 without the penalty, near 0.5 at c = 3e-3 and above 1 at c = 3e-2. On other data it
is a small VGG-style net on 2,048 images at 16x16. Paper uses ResNet-20 on the whole training split for
20,000 steps and needs an accelerator.

The c that is compared with 0 is the one of the smallest mean validation loss; the comparison itself
reads the test split.
"""

from collections.abc import Sequence

import numpy as np

from cnnjax import claims, cli
from cnnjax.data import DataConfig
from cnnjax.report.figures import Response
from cnnjax.sweep import Grid, product
from cnnjax.train import Hyper, Spec

TITLE = "Weight regularisation: training and validation against the weight c of the squared weights"
PENALTIES = {
    "smoke": (0.0, 1e-3),
    "quick": (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    "paper": (0.0, 1e-5, 5e-5, 2e-4, 1e-3, 5e-3),
}
SEEDS = {"smoke": 2, "quick": 10, "paper": 5}

CLAIMS = (
    claims.Claim(
        "penalty-shrinks-gap",
        "At the c chosen on validation, the loss on the test split exceeds that on the training split by less "
        "than without the penalty.",
        "S0:892-902",
        "less",
        unit="test loss - training loss, per example",
    ),
    claims.Claim(
        "penalty-improves-test",
        "At the c chosen on validation, the test loss is lower than without the penalty.",
        "S0:892-902",
        "less",
        unit="test loss, per example",
    ),
    claims.Claim(
        "too-much-underfits",
        "At the largest c the training loss is higher than without the penalty.",
        "S0:892-902",
        "greater",
        unit="training loss, per example",
    ),
)
METRICS = ("train_loss", "valid_loss", "gap_loss", "test_loss")
FIGURES = (
    Response("l2", ("train_loss", "valid_loss"), title="Training and validation loss against c"),
    Response("l2", ("train_error", "valid_error"), title="Training and validation error against c"),
    Response("l2", ("gap_loss",), title="Validation loss less training loss, against c"),
)


def spec(preset: str, data: DataConfig) -> Spec:
    """What all runs share; ``data`` other than digits gets a larger net and is made small for ``quick``."""
    if preset == "paper":
        augment = ("crop",) if data.name == "digits" else ("flip", "crop")  # a mirrored digit is another
        return Spec(data=data, steps=20_000, evaluate_every=1_000, augment=augment)
    steps = {"smoke": 3, "quick": 600}[preset]
    if data.name == "digits":
        return Spec(
            model="lenet5", model_fields=(("padding", "SAME"),), data=data, steps=steps, batch_size=64,
            evaluate_every=0 if preset == "smoke" else 100,
        )  # fmt: skip
    small = DataConfig(**{**vars(data), "image_size": data.image_size or 16})
    fields = (("stages", ((16, 1), (32, 1), (64, 1))),)
    return Spec(model="vgg_small", model_fields=fields, data=small, steps=steps, batch_size=64)


def hyper(preset: str, data: DataConfig) -> Hyper:
    """The numbers that all runs share."""
    if preset == "paper":
        return Hyper(learning_rate=0.1, warmup=0.02)
    if data.name == "digits":
        return Hyper(learning_rate=0.1, warmup=0.05, train_size=128)
    return Hyper(learning_rate=0.05, warmup=0.05, train_size=2_048 if preset == "quick" else 0)


def grid(preset: str, data: DataConfig) -> Grid:
    """Values of c."""
    return product(l2=PENALTIES[preset])


def verdict(rows: list[dict]) -> list[claims.Verdict]:
    """Compares the c of the smallest mean validation loss, and the largest c, with 0, seed by seed."""
    penalties = sorted({row["assignment"]["l2"] for row in rows})
    chosen = chosen_penalty(rows, penalties)

    def loss(split: str, penalty: float) -> dict[int, float]:
        return claims.by_seed(rows, f"{split}_loss", {"l2": penalty})

    return claims.judge(
        CLAIMS,
        {
            "penalty-shrinks-gap": claims.contrast(
                [loss("test", chosen), loss("train", 0.0)], [loss("train", chosen), loss("test", 0.0)]
            ),
            "penalty-improves-test": claims.contrast([loss("test", chosen)], [loss("test", 0.0)]),
            "too-much-underfits": claims.contrast([loss("train", penalties[-1])], [loss("train", 0.0)]),
        },
    )


def chosen_penalty(rows: list[dict], penalties: Sequence[float]) -> float:
    """The c with the smallest validation loss, averaged over seeds; runs that diverged rule theirs out."""

    def mean(penalty: float) -> float:
        losses = claims.by_seed(rows, "valid_loss", {"l2": penalty}, diverged=1e9)
        return float(np.mean(list(losses.values()))) if losses else float("inf")

    return min(penalties, key=mean)


if __name__ == "__main__":
    raise SystemExit(cli.main(__name__))
