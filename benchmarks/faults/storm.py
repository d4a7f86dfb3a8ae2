"""A small net with everything on that draws random numbers or carries state, for sweeps that are killed.

python -m benchmarks.faults.storm --preset=smoke

Batch normalisation, dropout, augmentation, label noise, warm-up and a schedule. ``STORM_*`` in the environment makes
the process end itself at a chosen place; see ``hooks``.
"""

from benchmarks.faults import hooks
from cnnjax import claims, cli
from cnnjax.data import DataConfig
from cnnjax.sweep import Grid, product
from cnnjax.train import Hyper, Spec

TITLE = "A sweep that is killed"
STEPS = {"smoke": 60, "quick": 150, "paper": 300}
SEEDS = {"smoke": 4, "quick": 8, "paper": 8}  # with three points: 12 or 24 runs
CLAIMS = (claims.Claim("penalty-raises-loss", "The penalty raises the training loss.", "none", "greater"),)
METRICS = ("train_loss", "test_error")
FIGURES = ()


def spec(preset: str, data: DataConfig) -> Spec:
    """A residual net of eight layers, two channels wide."""
    steps = STEPS[preset]
    return Spec(
        model="resnet8_cifar",
        model_fields=(("width", 2),),
        data=data,
        steps=steps,
        batch_size=16,
        evaluate_every=steps // 3,
        train_examples=256,
        augment=("flip", "crop"),
        schedule="step",
    )


def hyper(preset: str, data: DataConfig) -> Hyper:
    """Everything that draws random numbers."""
    return Hyper(learning_rate=0.05, dropout=0.1, label_noise=0.1, warmup=0.1, weight_decay=1e-3)


def grid(preset: str, data: DataConfig) -> Grid:
    """Three penalties."""
    return product(l2=(0.0, 1e-4, 1e-3))


def verdict(rows: list[dict]) -> list[claims.Verdict]:
    """With the penalty less without it."""
    largest = max(row["assignment"]["l2"] for row in rows)
    return claims.judge(
        CLAIMS, {"penalty-raises-loss": claims.paired(rows, "train_loss", {"l2": largest}, {"l2": 0.0})}
    )


hooks.install()  # also in worker processes, which import this module as the program's

if __name__ == "__main__":
    raise SystemExit(cli.main(__name__))
