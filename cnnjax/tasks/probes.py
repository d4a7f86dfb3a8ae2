"""Probes: what else is measured of a classifier on the test split, in the same pass at the end of a run.

``Spec.probes`` names them. Each adds sums over examples, named as the metrics that they become
(``test_<name>``), and costs a few forward passes.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnnjax.analysis import gabor, layers
from cnnjax.analysis.support import effective_side, gradient_energy
from cnnjax.analysis.support import roughness as roughness_of
from cnnjax.losses import cross_entropy
from cnnjax.metrics import Sums, predicted, weighted_sum
from cnnjax.ops.resize import bilinear
from cnnjax.typing import Images, UsageError

SHIFTS = (1, 2, 3, 4)  # pixels
SIZES = (125, 150, 200)  # per cent of the pictures' sides


class Subject(NamedTuple):
    """What is probed.

    Attributes:
      model: the network.
      forward: (images in [0, 1], train, names of collections to return) -> (logits, these collections).
      batch_size: of training.
      auxiliary: images in [0, 1] -> the logits of the network's auxiliary heads, by name.
      endpoints: images in [0, 1] -> the network's endpoints, by name and in the order of its layers.
      variables: of the network.
    """

    model: nn.Module | None
    forward: Callable[..., tuple[Float[Array, "n classes"], Mapping[str, Any]]]
    batch_size: int
    auxiliary: Callable[[Images], Mapping[str, Float[Array, "n classes"]]] = lambda images: {}
    endpoints: Callable[[Images], Mapping[str, Any]] = lambda images: {}
    variables: Mapping[str, Any] | None = None


def shifts(subject: Subject, batch: dict[str, Any]) -> Sums:
    """Stability to small shifts (S3:211-236; S1:1055): images moved by 1 to 4 pixels to the left and to the right.

    ``error_shift<d>``: error of the moved images. ``changed_shift<d>``: share of them whose predicted class
    differs from that of the unmoved image, or is none (``metrics.predicted``). What moves in repeats the image's edge.
    """
    images = batch["images"]
    width = images.shape[2]

    def class_of(offset):
        columns = jnp.clip(jnp.arange(width) - offset, 0, width - 1)
        return predicted(subject.forward(images[:, :, columns])[0])

    offsets = [0, *(sign * shift for shift in SHIFTS for sign in (-1, 1))]
    classes = jax.lax.map(class_of, jnp.asarray(offsets))
    found = {}
    for place, shift in enumerate(SHIFTS):
        moved = classes[1 + 2 * place : 3 + 2 * place]
        found[f"error_shift{shift}"] = _share(moved != batch["labels"], batch)
        found[f"changed_shift{shift}"] = _share((moved != classes[0]) | (moved < 0), batch)
    return found


def sizes(subject: Subject, batch: dict[str, Any]) -> Sums:
    """Pictures of other sizes than those of training (S2:671): enlarged bilinearly to 125, 150 and 200 % of the sides.

    ``error_size<s>``: error of the enlarged images.

    Raises:
      Exception: of many types, where the network takes images of one size only.
    """
    images = batch["images"]

    def wrong(percent):
        sides = (round(images.shape[1] * percent / 100), round(images.shape[2] * percent / 100))
        return predicted(subject.forward(bilinear(images, sides))[0]) != batch["labels"]

    return {f"error_size{percent}": _share(wrong(percent), batch) for percent in SIZES}


def batch_statistics(subject: Subject, batch: dict[str, Any]) -> Sums:
    """Error and loss with normalisation as in training: by each batch's own statistics (S3:666-677).

    Batches are of the training batch size, the last one filled up with examples that count nothing.
    """
    count = batch["images"].shape[0]
    size = min(subject.batch_size, count)
    groups = -(-count // size)
    places = jnp.resize(jnp.arange(count), (groups, size))
    logits = jax.lax.map(lambda at: subject.forward(batch["images"][at], train=True)[0], places)
    logits = logits.reshape(groups * size, -1)[:count]
    return {
        "error_batch_statistics": _share(predicted(logits) != batch["labels"], batch),
        "loss_batch_statistics": _sum(cross_entropy(logits, batch["labels"]), batch),
    }


def crops(subject: Subject, batch: dict[str, Any]) -> Sums:
    """Multi-crop at test time (S4:652-654): the mean probability over the centre and four corner shifts.

    The shifts are an eighth of the side, as in cropping after padding by that much; what moves in is 0, as
    in training. Gives ``error_crops5`` and ``loss_crops5``.
    """
    return _over_views(subject, batch, _corner_views(batch["images"]), "crops5")


def mirrored_crops(subject: Subject, batch: dict[str, Any]) -> Sums:
    """The five shifts of ``crops`` and their mirror images: Krizhevsky et al. 2012's ten crops (S4:652-654).

    Gives ``error_crops10`` and ``loss_crops10``. Not for images whose mirror image is of another class.
    """
    views = _corner_views(batch["images"])
    return _over_views(subject, batch, jnp.concatenate([views, views[:, :, :, ::-1]]), "crops10")


def one_vs_rest(subject: Subject, batch: dict[str, Any]) -> Sums:
    """Each class as a yes or no, yes where sigmoid(logit) >= 1/2 (S1:1270-1278).

    ``positive``: share of (example, class) pairs answered yes; ``true_positive``: share answered yes, and
    rightly. Precision is the second over the first.
    """
    logits = subject.forward(batch["images"])[0]
    yes = logits >= 0
    right = yes & (jnp.arange(logits.shape[-1]) == batch["labels"][:, None])
    return {"positive": _share(yes.T, batch), "true_positive": _share(right.T, batch)}


def responses(subject: Subject, batch: dict[str, Any]) -> Sums:
    """Standard deviations of the layers' responses (He et al. 2015, figure 7; S3:614), after normalisation.

    ``response_layer01``, ... in order of depth, and ``response``, their mean; of each batch of examples,
    averaged over batches.

    Raises:
      UsageError: the network stores no collection ``responses``, as ``CifarResNet`` does.
    """
    _, stored = subject.forward(batch["images"], collections=("responses",))
    deviations = layers(subject.model, stored.get("responses", {}), "response").values()
    if not deviations:
        name = type(subject.model).__name__
        raise UsageError(f"{name} stores no responses to probe. Use a network such as resnet20_cifar.")
    weight = jnp.sum(batch["weights"])
    found = {f"response_layer{place:02d}": each * weight for place, each in enumerate(deviations, 1)}
    return {**found, "response": sum(found.values()) / len(found)}


def auxiliary(subject: Subject, batch: dict[str, Any]) -> Sums:
    """Error of every auxiliary head (S4:521-522): ``error_auxiliary1`` and so on.

    Raises:
      UsageError: the network has no auxiliary heads, as ``googlenet`` has with ``auxiliary``.
    """
    heads = subject.auxiliary(batch["images"])
    if not heads:
        name = type(subject.model).__name__
        raise UsageError(f"{name} has no auxiliary heads to probe. Use googlenet with --model.auxiliary.")
    return {f"error_{name}": _share(predicted(logits) != batch["labels"], batch) for name, logits in heads.items()}


def effective_field(subject: Subject, batch: dict[str, Any]) -> Sums:
    """The effective receptive field of the unit in the middle of the last map, in pixels (Luo et al. 2016).

    ``effective_field``: see ``analysis.support.effective_side``; of the gradients' energy, averaged over each batch of
    examples.

    Raises:
      UsageError: the network has no map among its endpoints.
    """
    energy = gradient_energy(lambda images: _last_map(subject, images), batch["images"])
    side = effective_side(jnp.einsum("nhw,n->hw", energy, batch["weights"])[None])[0]
    return {"effective_field": side * jnp.sum(batch["weights"])}


def roughness(subject: Subject, batch: dict[str, Any]) -> Sums:
    """How little neighbouring units of the last map have in common: see ``analysis.support.roughness``.

    ``roughness``: of the map. ``roughness_of_noise``: of what noise of standard deviation 0.1 on every pixel changes in
    it, the same noise for every batch; neighbours that read no common pixel answer independently.

    Raises:
      UsageError: the network has no map among its endpoints.
    """
    images = batch["images"]
    noise = 0.1 * jax.random.normal(jax.random.key(0), images.shape, images.dtype)
    clean, noisy = _last_map(subject, images), _last_map(subject, images + noise)
    return {
        "roughness": _sum(roughness_of(clean), batch),
        "roughness_of_noise": _sum(roughness_of(noisy - clean), batch),
    }


def first_layer(subject: Subject, batch: dict[str, Any]) -> Sums:
    """What the filters of the first convolution are like (S4:603; S3:415-436), see ``analysis.gabor``.

    Means over the filters: ``gabor_r2``, ``orientation_selectivity`` and ``colour_share``. ``kernel`` (kh, kw, C, O) is
    an array: it is kept in the row, not among the metrics. No image is read.

    Raises:
      UsageError: the network has no convolution, or one of fewer than 3x3 pixels.
    """
    assert subject.model is not None
    kernel = gabor.first_kernel(subject.model, dict(subject.variables or {})).astype(jnp.float32)
    found = {
        "gabor_r2": gabor.fit(kernel).r2.mean(),
        "orientation_selectivity": gabor.orientation_selectivity(kernel).mean(),
        "colour_share": gabor.colour_share(kernel).mean(),
        "kernel": kernel,
    }
    weight = jnp.sum(batch["weights"])
    return {name: value * weight for name, value in found.items()}


Probe = Callable[[Subject, dict[str, Any]], Sums]
PROBES: dict[str, Probe] = {
    function.__name__: function
    for function in (
        shifts,
        sizes,
        batch_statistics,
        crops,
        mirrored_crops,
        one_vs_rest,
        responses,
        auxiliary,
        effective_field,
        roughness,
        first_layer,
    )
}


def _last_map(subject, images):
    endpoints = subject.endpoints(images)
    maps = [value for name, value in endpoints.items() if value.ndim == 4 and name != "logits_map"]
    if not maps:
        name = type(subject.model).__name__
        raise UsageError(f"{name} has no map among its endpoints to probe. Use a network such as dilated_cnn.")
    return maps[-1]


def _corner_views(images: Images) -> Float[Array, "views n h w c"]:
    height, width = images.shape[1:3]
    reach = max(1, min(height, width) // 8)
    pad = (reach, reach)
    padded = jnp.pad(images, ((0, 0), pad, pad, (0, 0)))
    corners = [(reach, reach), *itertools.product((0, 2 * reach), repeat=2)]
    return jnp.stack([padded[:, top : top + height, left : left + width] for top, left in corners])


def _over_views(subject, batch, views, name):
    probabilities = jax.lax.map(lambda images: jax.nn.softmax(subject.forward(images)[0]), views).mean(0)
    logits = jnp.log(jnp.maximum(probabilities, jnp.finfo(jnp.float32).tiny))
    return {
        f"error_{name}": _share(predicted(probabilities) != batch["labels"], batch),
        f"loss_{name}": _sum(cross_entropy(logits, batch["labels"]), batch),
    }


def _share(is_so, batch):
    """The sum over examples (the last axis) of the mean over what comes before."""
    each = is_so.astype(jnp.float32)
    return _sum(each.reshape(-1, each.shape[-1]).mean(0), batch)


def _sum(each, batch):
    return weighted_sum(each, batch["weights"])
