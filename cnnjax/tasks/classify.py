"""Image classification: cross-entropy and error rate."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import losses, metrics
from cnnjax.tasks import probes
from cnnjax.tasks.task import Task, arguments, first, output_shape
from cnnjax.tasks.task import endpoints as endpoints_of
from cnnjax.typing import UsageError


def classify(
    model: nn.Module, loss_name: str = "softmax", probe_names: tuple[str, ...] = (), batch_size: int = 128
) -> Task:
    """The task of naming each image's class with ``model``.

    ``loss_name`` is one of ``losses.LOSSES``; ``probe_names`` are of ``probes.PROBES``, and ``batch_size`` is
    that of training, for them.

    The model is called with ``(images, train=..., dropout_rate=...)``, as far as it takes these, and
    returns logits (N, classes), alone or as ``(logits, endpoints)``.

    Endpoints called ``auxiliary1``, ``auxiliary2`` and so on are the logits of auxiliary heads (Szegedy et al. 2014,
    section 5; S4:521-522). In training each one's loss, times ``hyper.auxiliary_weight``, is added to what the
    gradient is of; the metric ``loss`` stays that of the logits, and evaluation ignores these heads.

    Raises:
      UsageError: the model's ``__call__`` needs arguments other than these.
    """
    arguments(model, False, 0.0)  # refuses the model here, not at its first use
    loss_of = losses.LOSSES[loss_name]

    def outputs_of(variables, images, train, dropout_rate, **options):
        return model.apply(variables, images, **arguments(model, train, dropout_rate), **options)

    def logits_of(variables, images, train, dropout_rate, **options):
        out = outputs_of(variables, images, train, dropout_rate, **options)
        if not options:
            return first(out).astype(jnp.float32)
        return first(out[0]).astype(jnp.float32), out[1]

    def measure(logits, batch, *label_smoothing):
        logits = logits.astype(jnp.float32)
        each = loss_of(logits, batch["labels"], *label_smoothing)
        return metrics.classification(logits, batch["labels"], each, batch["weights"])

    def init(key, batch):
        return model.init(key, batch["images"], **arguments(model, False, 0.0))

    def loss(variables, batch, key, hyper):
        state = [name for name in variables if name != "params"]
        out, new_state = outputs_of(
            variables, batch["images"], True, hyper.dropout, mutable=state, rngs={"dropout": key}
        )
        heads = (first(out), *_auxiliary(out).values())
        measured = [measure(logits, batch, hyper.label_smoothing) for logits in heads]
        sums, *auxiliary = measured
        total = sums["loss"] / sums["count"]
        for other in auxiliary:
            total += hyper.auxiliary_weight * other["loss"] / other["count"]
        return total, (dict(new_state), sums)

    def evaluate(variables, batch):
        return measure(logits_of(variables, batch["images"], False, 0.0), batch)

    def probe(variables, batch, normalize):
        def forward(images, train=False, collections=()):
            mutable = [*collections, *(name for name in variables if train and name != "params")]
            out = logits_of(variables, normalize(images), train, 0.0, **({"mutable": mutable} if mutable else {}))
            return out if mutable else (out, {})

        sums: metrics.Sums = {"count": jnp.sum(batch["weights"])}

        def auxiliary(images):
            return _auxiliary(outputs_of(variables, normalize(images), False, 0.0))

        def endpoints(images):
            return endpoints_of(outputs_of(variables, normalize(images), False, 0.0))

        subject = probes.Subject(model, forward, batch_size, auxiliary, endpoints, variables)
        for name in probe_names:
            sums.update(probes.PROBES[name](subject, batch))
        return sums

    def outputs(variables, batch):
        logits = logits_of(variables, batch["images"], False, 0.0)
        return jax.nn.sigmoid(logits) if loss_name == "sigmoid" else jax.nn.softmax(logits)

    return Task(init, loss, evaluate, metrics.means, probe, outputs)


def check_outputs(model: nn.Module, image_shape: tuple[int, int, int], num_classes: int) -> None:
    """Traces the model, computing nothing, and refuses logits that do not fit the dataset.

    Raises:
      UsageError: the model fails on such images, or its number of classes is another.
    """
    shape = output_shape(model, image_shape)
    if shape != (2, num_classes):
        raise UsageError(
            f"{type(model).__name__} gives logits of shape (N, {', '.join(map(str, shape[1:]))}), but the dataset has "
            f"{num_classes} classes. Use --model.num_classes={num_classes}."
        )


def _auxiliary(output):
    """Name -> logits of the auxiliary heads, where the model has such heads."""
    endpoints = endpoints_of(output)
    return {name: endpoints[name] for name in sorted(endpoints) if re.fullmatch(r"auxiliary\d+", name)}
