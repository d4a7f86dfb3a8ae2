"""What a file says it is, and what of a network its arrays do not show.

Networks of the same keys and shapes may compute different things: padding, where a stride sits, blurred pooling, the
number of a normalisation's groups and standardised kernels have no arrays. So files are also held to the name of their
architecture. They say it

  in a ``config.json`` beside them, in the header of safetensors, or in a training script's checkpoint (``KEYS``, also
  among its arguments);
  in their own name, or that of their folder or repository where their own is the hub's ``model.safetensors``.

A name counts where it *begins* with a known architecture's, and neither a letter nor a digit follows:
``resnet50_gn_a1h2-8fe6c4d0.pth`` says resnet50_gn; ``my_blur_experiment_resnet50.pth`` says nothing, and passes.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn

from cnnjax.models.efficientnet import EfficientNet
from cnnjax.models.imagenet_resnet import ResNet
from cnnjax.models.mobilenet import MobileNetV1, MobileNetV2
from cnnjax.models.resnet import CifarResNet
from cnnjax.models.vgg import VGG
from cnnjax.typing import UsageError
from cnnjax.weights import fit, hub, safetensors_file, timm_config, torch_file
from cnnjax.weights.archive import LOCAL, mapped
from cnnjax.weights.npz_file import is_npz
from cnnjax.weights.shards import is_index

KEYS = ("architecture", "arch", "model_arch", "model_name", "model", "net", "network")
Fields = dict[str, Any]

HALF: Fields = {"padding": "half", "epsilon": 1e-5}
SAME: Fields = {"padding": "SAME", "epsilon": 1e-3}
TORCH: Fields = {"stride_in": "3x3", "epsilon": 1e-5}
RESNET = r"(?:tv_|ssl_|swsl_|ig_|gluon_|wide_)*res(?:net|next)\d+"
WIDTHS = r"(?:_\d+(?:x\d+d)?)?"


class Known(NamedTuple):
    """Architectures that ours compute.

    Attributes:
      pattern: that their names begin with.
      networks: classes of ours that have their arrays; for others the name says nothing.
      fields: that ours must have, those of them that a class has.
      sources: of the files that the name is for; empty is any.
    """

    pattern: str
    networks: tuple[type[nn.Module], ...]
    fields: Fields
    sources: tuple[str, ...] = ()


# The first that a name begins with counts.
KNOWN = (
    Known(rf"{RESNET}{WIDTHS}_gn", (ResNet,), {**TORCH, "norm": "group", "norm_groups": 32}),
    Known(rf"{RESNET}{WIDTHS}_caffe", (ResNet,), {**TORCH, "stride_in": "1x1"}),
    Known(rf"{RESNET}(?:_v1b)?", (ResNet,), TORCH, ("torchvision", "timm")),
    Known(r"(?:cifar100?_)?resnet\d+", (CifarResNet,), {"shortcut": ("A", "B")}),
    Known(r"(?:cifar100?_)?plain\d+", (CifarResNet, ResNet), {"shortcut": "none"}),
    Known(r"vgg\d+(?:_bn)?", (VGG,), {"lrn": False, "pool": "max"}),
    Known(r"tf_mobilenet_?v[12]", (MobileNetV1, MobileNetV2), SAME, ("torchvision", "timm")),
    Known(r"mobilenet_?v[12]", (MobileNetV1, MobileNetV2), HALF, ("torchvision", "timm")),
    Known(r"tf_efficientnet_b\d", (EfficientNet,), SAME, ("timm",)),
    Known(r"efficientnet_b\d", (EfficientNet,), HALF, ("timm",)),
    Known(r"efficientnet_b[0-4]", (EfficientNet,), HALF, ("torchvision",)),
    Known(r"efficientnet_b[5-7]", (EfficientNet,), {**HALF, "epsilon": 1e-3}, ("torchvision",)),
)

# What names begin with -> how those networks differ from the ones whose keys they share.
FOREIGN = {
    r"resnetblur\d+|resnetaa\d+|efficientnet_blur": "blurs or averages where ours takes strides",
    r"seresnextaa\d+|ecaresnext?aa\d+": "weighs channels, and averages where ours takes strides",
    rf"(?:{RESNET}{WIDTHS}|vgg\d+(?:_bn)?|mobilenet_?v[12]|efficientnet_b\d)_(?:blur|lpf\d*|antialiased)": (
        "blurs where ours takes strides"
    ),
    rf"(?:{RESNET}{WIDTHS}|resnetv2_\d+(?:x\d+)?|vgg\d+|mobilenet_?v[12]|efficientnet_b\d)"
    r"(?:_g?bn|_gn)?_(?:ws|bit|bitm?|weight_?std)": "standardises its kernels",
    r"resnetv2_\d+|pre_?act_?resnet\d+|preresnet\d+|resnet\d+v2|resnet_v2_\d+": "normalises before its convolutions",
    r"nf_(?:se|eca)?resnet\d+|nf_regnet": "has scaled, standardised kernels and no normalisation",
    r"(?:legacy_|gluon_)?(?:se|eca|ese|sk|gc|ge)_?resne[xt]t?\d+(?:[dts]|ts|tn)?": "weighs channels",
    r"resnest\d+|res2ne[xt]t?\d+|cspresne[xt]t?\d+|tresnet_[a-z]|resnetrs\d+": "has other blocks",
    r"(?:gluon_)?(?:wide_)?res(?:net|next)\d+(?:[cdstq]|ts|vd|_v1[cds]|_vd)": "has another stem or other shortcuts",
    rf"{RESNET}_(?:clip|evos|evob|evonorm|frn|iabn|inplace_abn|ibn[ab]?|mish|se|eca|cbam)": "computes something else",
    r"(?:tf_)?mobilenet_?v[34]|mobilenet_?v1_\d+h": "has other blocks or another head",
    r"efficientnet_b\d_(?:gn|g\d+|evos|evob|pruned)": "has another normalisation or other channels",
    r"(?:tf_)?efficientnet_(?:lite|es|em|el|cc|h|x)\d*|(?:tf_|gc_)?efficientnet_?v2": "has other blocks",
    r"inception_v4|inception_resnet|inception_next": "has other blocks",
    r"repvgg": "has other blocks",
}

PAST = "If it is not, pass over its name: check_architecture=False."


class Statement(NamedTuple):
    """An architecture's name, as far as it is known, and where the file says it."""

    name: str
    where: str


def check(model: nn.Module, source: str, path: Path, label: str) -> None:
    """Refuses weights that say that they are of another network than the one they fit.

    Args:
      model: the network.
      source: the library that wrote the file.
      path: of the weights.
      label: what errors call the weights.

    Raises:
      UsageError: no network of ours computes what the file says; or fields of this one must differ.
    """
    statements = list(_statements(path))
    for name, where in statements:
        for pattern, reason in FOREIGN.items():
            if found := _begins(pattern, name):
                raise UsageError(
                    f"{label} is of {found}, as {where} says, which {reason}: no network here computes it. {PAST}"
                )
    known = False
    for name, where in statements:
        for entry in KNOWN:
            found = _begins(entry.pattern, name)
            if found and isinstance(model, entry.networks) and source in (entry.sources or (source,)):
                fit.check_fields(model, entry.fields, f"{label} is of {found}, as {where} says, which has", PAST)
                known = True
                break
    if source == "timm" and isinstance(model, EfficientNet) and not known:
        _refuse_neither(model, label)


def _refuse_neither(model: EfficientNet, label: str) -> None:
    """Refuses what is of none of timm's two kinds of EfficientNets, where nothing says of which the file is."""
    if not (fit.has_fields(model, SAME) or fit.has_fields(model, HALF)):
        half, same = fit.shown_fields(HALF), fit.shown_fields(SAME)
        ours = fit.shown_fields({field: getattr(model, field) for field in HALF})
        raise UsageError(
            f"{label} is of timm, where efficientnet_b* has {half} and tf_efficientnet_b* has {same}. "
            f"This network has {ours}. Give these fields."
        )


def _statements(path: Path) -> Iterator[Statement]:
    """The names that a file and its surroundings say, in lower case."""
    for text, where in _texts(path):
        name = text.lower().rpartition("/")[2]
        if name:
            yield Statement(name, where)


def _texts(path: Path) -> Iterator[tuple[str, str]]:
    try:
        config = timm_config.read(path) or {}
    except UsageError:  # it is for others to say that it is damaged
        config = {}
    for key in KEYS:
        if isinstance(config.get(key), str):
            yield config[key], hub.CONFIG
    if not is_index(path):
        said = _words_within(path)
        yield from ((text, f"its {key}") for key, text in said.items() if key.removeprefix("args.") in KEYS)
    if path.name not in hub.WEIGHTS:
        yield path.name, "its name"
        return
    yield path.absolute().parent.name, "its folder's name"
    for part in path.absolute().parts:  # of the hub's cache
        if part.startswith("models--"):
            yield part.rpartition("--")[2], "its repository's name"


def _words_within(path: Path) -> dict[str, str]:
    """What the file itself says beside its tensors."""
    if safetensors_file.is_safetensors(path):
        return safetensors_file.metadata(path)
    if mapped(path)[:4] == LOCAL and is_npz(path):
        return {}
    return torch_file.texts(path)


def _begins(pattern: str, name: str) -> str:
    """What of a name a pattern describes, or nothing where it does not begin so."""
    found = re.match(rf"(?:{pattern})(?![a-z0-9])", name)
    return found.group() if found else ""
