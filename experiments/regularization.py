"""Weight regularisation: the loss L + c * sum(w^2) against c, with and without batch normalisation.

The lectures (S0:892-902) add c times the sum of the squared weights to the loss against overfitting.
With few training examples the gap between test and training loss shrinks as c grows, the test loss has
a minimum, and far beyond it the net underfits. Rows 129 and 288 of lectures.csv.

The penalty's gradient is 2 c w, so a step of plain gradient descent on it shrinks every weight by the same
share. One may as well shrink the weights beside the step, which is called decoupled decay: under plain
gradient descent 2 c of it is the same computation. With momentum m a gradient acts 1 / (1 - m) times over, so
2 c / (1 - m) is about the same. Under Adam, which divides gradients by their own size, the two are different
things (Loshchilov and Hutter 2019). After batch normalisation the size of a layer's weights does not matter
at all; a penalty still does something there, because the gradient grows as the weights shrink, so that steps
get larger (van Laarhoven 2017). The three statements that are identities are computed exactly, without training.

    python -m experiments.regularization                            quick, embedded digits
    python -m experiments.regularization --data=folder:DIR --seeds=5          quick, for example CIFAR-10
    python -m experiments.regularization --weight_decay=0 --sweep l2=0,1e-4,1e-3     other values of c, in the loss

Quick trains LeNet-5 on 128 digits for 600 steps with 8 seeds: about a minute and a half on two CPU cores. Expect a
test loss near 0.6 without the penalty, near 0.4 at c = 3e-3 and above 1 at c = 3e-2; with batch normalisation near 0.45
without and 0.3 at c = 1e-3; and decoupled decay that differs from the penalty in the third decimal. On other data it
is a small VGG-style net on 2,048 images at 16x16, about 5 minutes with 5 seeds; expect on CIFAR-10 a test loss of 2.7
without the penalty and 1.6 at c = 1e-2, with batch normalisation 2.2 without and 1.4 at c = 3e-2. Paper uses a
VGG-style net of 8 layers on the whole training split for 20,000 steps and needs an accelerator.

c is one traced axis: every c, either form of decay and every seed run in the same compiled program. The c
that is compared with 0 is the one of the smallest mean validation loss; the comparison itself reads the test
split.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import claims, cli, losses, models, rng
from cnnjax.data import DataConfig, Info, load
from cnnjax.data.feed import Feed
from cnnjax.report import style
from cnnjax.report.figures import Drawing, Response
from cnnjax.sweep import Grid, explicit
from cnnjax.tasks.task import Task
from cnnjax.train import Hyper, Spec, optim
from cnnjax.train.spec import build_task
from cnnjax.train.step import initial_state, training_step

if TYPE_CHECKING:
    import matplotlib.figure

TITLE = "Weight regularisation: training and validation against the weight c of the squared weights"
PENALTIES = {
    "smoke": (0.0, 1e-3),
    "quick": (0.0, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    "paper": (0.0, 1e-5, 5e-5, 2e-4, 1e-3, 5e-3),
}
SEEDS = {"smoke": 2, "quick": 8, "paper": 5}
MOMENTUM = 0.9
NORMS = ("none", "batch")

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
    claims.Claim(
        "batch-norm-too",
        "With batch normalisation, too, the test loss is lower at the c chosen on validation than without the penalty.",
        "S0:892-902",
        "less",
        unit="test loss, per example",
    ),
    claims.Claim(
        "decay-with-momentum",
        "With momentum m, decoupled decay of 2 c / (1 - m) reaches the test loss of c in the loss, at the chosen c.",
        "S0:892-902",
        "equivalent",
        margin=0.05,
        unit="test loss, per example",
    ),
    claims.Claim(
        "decay-is-the-penalty",
        "Under plain gradient descent, c in the loss and decoupled decay of 2 c lead to the same weights.",
        "S0:892-902",
        claims.EXACT,
        margin=1e-5,
        unit="largest difference of a weight after 20 steps",
    ),
    claims.Claim(
        "adam-is-no-decay",
        "Under Adam, the first step on a penalty alone moves every weight by the learning rate, whatever the weight "
        "and whatever c.",
        "S0:892-902",
        claims.EXACT,
        margin=1e-4,
        unit="difference from the learning rate, relative",
    ),
    claims.Claim(
        "batch-norm-forgets-size",
        "With batch normalisation, k times the weights of the convolutions leave the outputs as they are and divide "
        "the gradient by k.",
        "S0:892-902; S3:621",
        claims.EXACT,
        margin=1e-4,
        unit="largest difference, relative to the largest value",
    ),
)
METRICS = ("train_loss", "valid_loss", "gap_loss", "test_loss")


def spec(preset: str, data: DataConfig) -> Spec:
    """What all runs share; ``data`` other than digits gets a larger net and is made small for ``quick``."""
    if preset == "paper":
        augment = ("crop",) if data.name == "digits" else ("flip", "crop")  # a mirrored digit is another
        return Spec(model="vgg_small", data=data, steps=20_000, evaluate_every=1_000, augment=augment)
    steps = {"smoke": 3, "quick": 600}[preset]
    if data.name == "digits":
        return Spec(
            model="lenet5", model_fields=(("padding", "SAME"),), data=data, steps=steps, batch_size=64,
            evaluate_every=0 if preset == "smoke" else 100,
        )  # fmt: skip
    small = data.at_size(16)
    fields = (("stages", ((16, 1), (32, 1), (64, 1))),)
    return Spec(model="vgg_small", model_fields=fields, data=small, steps=steps, batch_size=64)


def hyper(preset: str, data: DataConfig) -> Hyper:
    """The numbers that all runs share."""
    if preset == "paper":
        return Hyper(learning_rate=0.05, momentum=MOMENTUM, warmup=0.02)
    if data.name == "digits":
        return Hyper(learning_rate=0.1, momentum=MOMENTUM, warmup=0.05, train_size=128)
    return Hyper(learning_rate=0.05, momentum=MOMENTUM, warmup=0.05, train_size=2_048 if preset == "quick" else 0)


def grid(preset: str, data: DataConfig) -> Grid:
    """With and without batch normalisation: values of c, and decoupled decay of the same strength."""
    values = PENALTIES[preset]
    return explicit(
        *({"model.norm": norm, "l2": c} for norm in NORMS for c in values),
        *({"model.norm": norm, "weight_decay": equal_decay(c)} for norm in NORMS for c in values if c),
    )


def equal_decay(c: float) -> float:
    """The decoupled decay that is about as strong as c in the loss, at the momentum of these runs."""
    return round(2 * c / (1 - MOMENTUM), 12)


def verdict(rows: list[dict], measured: list[dict]) -> list[claims.Verdict]:
    """Compares the c of the smallest mean validation loss, and the largest c, with 0, seed by seed."""
    chosen = {norm: chosen_penalty(rows, norm) for norm in NORMS}
    largest = max(penalties(rows, "none"))

    def loss(split: str, norm: str, **strength: float) -> dict[int, float]:
        return claims.by_seed(rows, f"{split}_loss", {"model.norm": norm, **strength})

    c = chosen["none"]
    return claims.judge(
        CLAIMS,
        {
            "penalty-shrinks-gap": claims.contrast(
                [loss("test", "none", l2=c), loss("train", "none", l2=0.0)],
                [loss("train", "none", l2=c), loss("test", "none", l2=0.0)],
            ),
            "penalty-improves-test": claims.contrast([loss("test", "none", l2=c)], [loss("test", "none", l2=0.0)]),
            "too-much-underfits": claims.contrast([loss("train", "none", l2=largest)], [loss("train", "none", l2=0.0)]),
            "batch-norm-too": claims.contrast(
                [loss("test", "batch", l2=chosen["batch"])], [loss("test", "batch", l2=0.0)]
            ),
            "decay-with-momentum": claims.contrast([decoupled_loss(rows, "none", c)], [loss("test", "none", l2=c)]),
            **{claim.id: deviations(measured, claim.id) for claim in CLAIMS if claim.test == claims.EXACT},
        },
    )


def decoupled_loss(rows: Sequence[Mapping[str, Any]], norm: str, c: float) -> dict[int, float]:
    """The test loss with decoupled decay as strong as c; nothing where no run has any."""
    if not any("weight_decay" in row["assignment"] for row in rows):
        return {}
    where = {"weight_decay": equal_decay(c)} if c else {"l2": c}
    return claims.by_seed(rows, "test_loss", {"model.norm": norm, **where})


def penalties(rows: Sequence[Mapping[str, Any]], norm: str) -> list[float]:
    """The values of c in the loss that ran with this normalisation, in order."""
    assignments = [row["assignment"] for row in rows]
    return sorted({each["l2"] for each in assignments if each["model.norm"] == norm and "l2" in each})


def chosen_penalty(rows: list[dict], norm: str) -> float:
    """The c with the smallest validation loss, averaged over seeds; runs that diverged rule theirs out."""

    def mean(penalty: float) -> float:
        found = claims.by_seed(rows, "valid_loss", {"model.norm": norm, "l2": penalty}, diverged=1e9)
        return float(np.mean(list(found.values()))) if found else float("inf")

    return min(penalties(rows, norm), key=mean)


def deviations(measured: list[dict], claim: str) -> list[float]:
    """How far every computed case of an exact claim is from holding."""
    return [row["metrics"]["deviation"] for row in measured if row["assignment"]["identity"] == claim]


def measure(preset: str, data: DataConfig) -> list[dict]:
    """The identities, on the embedded digits, in seconds."""
    found = {
        "decay-is-the-penalty": descent_differences((1e-3, 1e-2, 1e-1)),
        "adam-is-no-decay": {c: adam_difference(c) for c in (1e-2, 1e-1, 1.0)},
        "batch-norm-forgets-size": size_differences((2.0, 10.0, 100.0)),
    }
    return [
        claims.measured({"identity": identity, "c or k": case}, 0, {"deviation": deviation})
        for identity, cases in found.items()
        for case, deviation in cases.items()
    ]


def descent_differences(strengths: Sequence[float], ratio: float = 2.0, steps: int = 20) -> dict[float, float]:
    """How far two equal nets drift apart, one with c in the loss, one with decoupled decay of ratio * c, for each c."""
    spec = Spec(model="mlp", model_fields=(("hidden", (16,)),), schedule="constant")
    task, pool, info = _digits(spec)
    step = jax.jit(partial(training_step, task, spec, info))

    def trained(hyper: Hyper) -> Any:
        numbers = jax.tree_util.tree_map(jnp.float32, hyper)
        state = initial_state(task, spec, numbers, jnp.uint32(0), pool)
        for _ in range(steps):
            state, _ = step(state, numbers, pool, jnp.arange(64), jnp.zeros((64, 2), jnp.uint32))
        return state.params

    pairs = {c: (Hyper(momentum=0.0, l2=c), Hyper(momentum=0.0, weight_decay=ratio * c)) for c in strengths}
    return {c: _distance(trained(penalised), trained(decayed)) for c, (penalised, decayed) in pairs.items()}


def adam_difference(c: float) -> float:
    """How far the first steps of Adam on c * sum(w^2) are from the sign of each weight; from 0.1 to 100."""
    weights = {"kernel": jnp.concatenate([sign * jnp.logspace(-1, 2, 16) for sign in (1, -1)])}
    transform = optim.directions(Spec(optimizer="adam"), Hyper())
    gradient = jax.tree_util.tree_map(lambda w: 2 * c * w, weights)
    direction, _ = transform.update(gradient, transform.init(weights), weights)
    return float(jnp.abs(direction["kernel"] - jnp.sign(weights["kernel"])).max())


def size_differences(factors: Sequence[float], norm: str = "batch") -> dict[float, float]:
    """How far each k times the convolutions' weights changes the outputs, and k times the gradient, of a VGG-style net.

    Relative to the largest output and to the largest entry of the gradient; the larger of the two.
    """
    net = models.create("vgg_small", stages=((8, 1), (8, 1)), dense=(), norm=norm)
    task, pool, _ = _digits(Spec(model=net))
    images, labels = (pool["images"][:64] / 255 - pool["mean"]) / pool["std"], pool["labels"][:64]
    variables = task.init(rng.key(0, "init"), {"images": images})
    kernels = {name: value for name, value in variables["params"].items() if name.startswith("conv")}

    def loss(kernels):
        scaled = {**variables, "params": {**variables["params"], **kernels}}
        (logits, _), _ = net.apply(scaled, images, train=True, mutable=["batch_stats"])
        return losses.cross_entropy(logits, labels).mean(), logits

    @jax.jit
    def both(k):
        (_, logits), gradient = jax.value_and_grad(loss, has_aux=True)(_times(k, kernels))
        return logits, _times(k, gradient)

    plain, plain_gradient = both(1.0)
    found = {k: both(k) for k in factors}
    return {
        k: max(
            _distance(logits, plain) / _distance(plain, _times(0.0, plain)),
            _distance(gradient, plain_gradient) / _distance(plain_gradient, _times(0.0, plain_gradient)),
        )
        for k, (logits, gradient) in found.items()
    }


def _digits(spec: Spec) -> tuple[Task, dict[str, Any], Info]:
    """The task of a Spec on the embedded digits, the digits on the device, and what they are."""
    dataset = load(DataConfig())
    pool = next(iter(Feed(dataset, "resident", [0], [0], 64, 1).chunks([(0, 1)]))).pool
    return build_task(spec, dataset.info), pool, dataset.info


def _times(factor: Any, values: Any) -> Any:
    """Every array of a tree times a number."""
    return jax.tree_util.tree_map(lambda value: factor * value, values)


def _distance(first: Any, second: Any) -> float:
    """The largest difference between equal places of two trees."""
    differences = jax.tree_util.tree_map(lambda a, b: jnp.abs(a - b).max(), first, second)
    return float(max(jax.tree_util.tree_leaves(differences)))


def draw_forms(
    figure: "matplotlib.figure.Figure", rows: Sequence[Mapping[str, Any]], measured: Sequence[Mapping[str, Any]]
) -> None:
    """Test loss against c, in the loss and as decoupled decay of the same strength."""
    looks = style.hues(("c in the loss", f"decoupled decay of 2 c / (1 - {MOMENTUM:g})"))
    panels = style.panels(figure, len(NORMS))
    done = [row for row in rows if row["status"] == "done"]
    for ax, norm in zip(panels, NORMS, strict=True):
        values = penalties(done, norm)
        penalised = [claims.by_seed(done, "test_loss", {"model.norm": norm, "l2": c}) for c in values]
        decayed = [decoupled_loss(done, norm, c) for c in values]
        forms: Sequence[Sequence[Mapping[int, float]]] = (penalised, decayed)
        for place, (found, look) in enumerate(zip(forms, looks.values(), strict=True)):
            means, lows, highs = style.intervals([list(each.values()) for each in found])
            at = np.arange(len(values)) + 0.12 * place  # apart, for they coincide
            ax.errorbar(at, means, yerr=[means - lows, highs - means], capsize=3.5, **look)
        ax.set_xticks(range(len(values)), [f"{c:g}" for c in values])
        ax.set_xlabel("c")
        ax.set_title("Without normalisation" if norm == "none" else "With batch normalisation")
    panels[0].set_ylabel("test loss (mean per example)")
    style.legend(figure, looks, "")


def in_the_loss(assignment: Mapping[str, Any]) -> bool:
    """Whether a condition has c in the loss, or neither form of decay."""
    return "l2" in assignment


FIGURES = (
    Response(
        "l2",
        ("train_loss", "valid_loss"),
        title="Training and validation loss against c (l2), without and with batch normalisation",
        only=in_the_loss,
    ),
    Response(
        "l2",
        ("gap_loss",),
        title="Validation loss less training loss against c (l2), without and with batch normalisation",
        only=in_the_loss,
    ),
    Drawing(
        "forms",
        "The penalty in the loss and decoupled decay of the same strength",
        draw_forms,
        "Test loss for each c, once with c in the loss and once with the weights shrunk beside the gradient step by "
        "as much. Where the two lines lie on each other, the two forms do the same.",
    ),
)


if __name__ == "__main__":
    raise SystemExit(cli.main(__name__))
