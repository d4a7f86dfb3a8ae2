"""Deeper plain nets train worse; residual nets do not.

He et al. 2015 (arXiv:1512.03385), in the lectures at S2:205-211, S3:589 and S4:406-436: a plain net
of 56 layers has a higher *training* error than one of 20, so it is optimisation that fails, and not
generalisation; with shortcuts the deeper net is no worse.

    python -m experiments.degradation                                       quick, embedded digits
    python -m experiments.degradation --data=folder:DIR                     quick, for example CIFAR-10
    python -m experiments.degradation --preset=paper --data=tfds:cifar10    the published recipe

Quick trains nets of 8, 20 and 44 layers and width 8 with 5 seeds: on digits (8x8) 200 steps each,
about 2 minutes on two CPU cores; on other data 5,120 images at 16x16 for 300 steps, about 15 minutes.
Expect on digits a training error of 0 for all but the plain net of 44 layers, which stalls between 0.1
and 0.8; on CIFAR-10 about 0.4 for 20 layers, 0.75 for 44 plain and 0.5 for 44 residual ones, which is too
early to say whether the deeper residual net ends worse.

Paper is section 4.2: 20 to 110 layers of width 16, batches of 128, 64,000 steps, learning rate 0.1
divided by 10 at 32,000 and 48,000, momentum 0.9, weight decay 1e-4 (in the loss, as lambda / 2, on all
parameters: l2 = 5e-5), crops and flips, 10 % of the training split for validation, and for 110 layers
a tenth of the rate for the first 400 steps. It needs an accelerator.
"""

from collections.abc import Mapping
from typing import Any

from cnnjax import claims, cli, models
from cnnjax.data import DataConfig
from cnnjax.report.figures import Curves, Finals
from cnnjax.sweep import Grid, explicit
from cnnjax.train import Hyper, Spec

TITLE = "Degradation: plain against residual nets as depth grows"
DEPTHS = {"smoke": (8, 14), "quick": (8, 20, 44), "paper": (20, 32, 44, 56, 110)}
SEEDS = {"smoke": 2, "quick": 5, "paper": 5}
FITTED = 0.05


def layers(assignment: Mapping[str, Any]) -> int:
    """The depth of a condition's net."""
    return models.fields(assignment["model"])["depth"]


def family(assignment: Mapping[str, Any]) -> str:
    """Plain or residual."""
    return "plain" if models.fields(assignment["model"])["shortcut"] == "none" else "residual"


CLAIMS = (
    claims.Claim(
        "deeper-plain",
        "The deeper plain net has the higher training error.",
        "S2:205-211; S3:589; S4:429-436",
        "greater",
        unit="training error, fraction",
    ),
    claims.Claim(
        "shortcuts-close-the-gap",
        "From shallow to deep, training error rises less for the residual net than for the plain one.",
        "S2:205-211; S3:589",
        "greater",
        unit="training error, fraction",
    ),
    claims.Claim(
        "deeper-residual",
        "The deeper residual net does not have the higher training error.",
        "S3:589-615; S4:429-436",
        "not_greater",
        margin=0.01,
        unit="training error, fraction",
        condition=f"the shallower residual net has fitted its training set (mean error at most {FITTED:g}): before "
        "that, a deeper net may merely be slower",
    ),
)
METRICS = ("train_error", "test_error", "train_loss")
FIGURES = (
    Curves("train_error", title="Training error", panels=family, hue=layers),
    Finals(("train_error", "test_error")),
)


def spec(preset: str, data: DataConfig) -> Spec:
    """What all runs share; ``data`` other than digits is made small for ``quick``."""
    if preset == "paper":
        augment = ("crop",) if data.name == "digits" else ("flip", "crop")  # a mirrored digit is another
        return Spec(
            data=data, steps=64_000, batch_size=128, evaluate_every=2_000, schedule="step", milestones=(0.5, 0.75),
            warmup_form="constant", augment=augment, decayed="all",
        )  # fmt: skip
    width = (("width", 4 if preset == "smoke" else 8),)
    if preset == "smoke":
        return Spec(model_fields=width, data=data, steps=3, batch_size=16, train_examples=256)
    if data.name == "digits":
        return Spec(model_fields=width, data=data, steps=200, evaluate_every=20)
    small = DataConfig(**{**vars(data), "image_size": data.image_size or 16})
    return Spec(model_fields=width, data=small, steps=300, evaluate_every=50)


def hyper(preset: str, data: DataConfig) -> Hyper:
    """The numbers that all runs share."""
    if preset == "paper":
        return Hyper(learning_rate=0.1, momentum=0.9, l2=5e-5)
    if preset == "smoke" or data.name == "digits":
        return Hyper(learning_rate=0.1, momentum=0.9, warmup=0.05)
    real = data.name.startswith(("folder:", "tfds:"))
    return Hyper(learning_rate=0.05, momentum=0.9, warmup=0.2, train_size=5_120 if real else 0)


def grid(preset: str, data: DataConfig) -> Grid:
    """Plain and residual nets at every depth of the preset."""
    names = [f"{kind}{depth}_cifar" for kind in ("plain", "resnet") for depth in DEPTHS[preset]]
    if preset != "paper":
        return explicit(*({"model": name} for name in names))
    warm = {"plain110_cifar": 400 / 64_000, "resnet110_cifar": 400 / 64_000}
    return explicit(*({"model": n, "warmup": warm.get(n, 0.0), "warmup_factor": 0.1} for n in names))


def verdict(rows: list[dict]) -> list[claims.Verdict]:
    """Deep against shallow: 56 against 20 layers where both ran, else the deepest against 20 or the shallowest."""
    depths = sorted({layers(row["assignment"]) for row in rows})
    deep = 56 if 56 in depths else depths[-1]
    shallow = 20 if 20 in depths and deep > 20 else depths[0]

    def error(kind: str, depth: int) -> dict[int, float]:
        chance = 1 - 1 / 10  # what a diverged run is worth
        return claims.by_seed(rows, "train_error", {"model": f"{kind}{depth}_cifar"}, diverged=chance)

    plain_deep, plain_shallow = error("plain", deep), error("plain", shallow)
    residual_deep, residual_shallow = error("resnet", deep), error("resnet", shallow)
    verdicts = claims.judge(
        CLAIMS,
        {
            "deeper-plain": claims.contrast([plain_deep], [plain_shallow]),
            "shortcuts-close-the-gap": claims.contrast([plain_deep, residual_shallow], [plain_shallow, residual_deep]),
            "deeper-residual": claims.contrast([residual_deep], [residual_shallow]),
        },
    )
    reached = sum(residual_shallow.values()) / len(residual_shallow) if residual_shallow else float("nan")
    if reached <= FITTED:
        return verdicts
    reason = f"the shallower residual net is still at a training error of {reached:.2f}: the budget does not decide"
    return claims.withhold(verdicts, "deeper-residual", reason)


if __name__ == "__main__":
    raise SystemExit(cli.main(__name__))
