"""The keys of Keras's variables in one form, ``LAYER/VARIABLE``: ``block1_conv1/kernel``, ``conv1_bn/moving_mean``.

A variable's ``path`` in Keras 3 is of this form. Also read are Keras 2's ``block1_conv1/kernel:0`` and its files'
``block1_conv1/block1_conv1/kernel:0``, either behind the name of a model, ``vgg16/block1_conv1/kernel``; and a
``depthwise_kernel``. Layers that Keras itself named are counted through all models of a program, ``conv2d_94``; here
each kind of them is counted from 0, ``conv2d_0``, in their order.
"""

import re
from collections.abc import Mapping
from typing import TypeVar

from cnnjax.typing import UsageError

Value = TypeVar("Value")
RENAMED = {"depthwise_kernel": "kernel"}
COUNTED = re.compile(r"(conv2d|batch_normalization|normalization)(?:_(\d+))?")


def canonical(tensors: Mapping[str, Value]) -> dict[str, Value]:
    """The tensors, or whatever stands for them, by the keys of this form; the last two parts of theirs.

    Raises:
      UsageError: two keys would be one.
    """
    keys = {key: _last_parts(key) for key in tensors}
    numbers: dict[str, set[int]] = {}
    for layer, _ in keys.values():
        if found := COUNTED.fullmatch(layer):
            numbers.setdefault(found[1], set()).add(int(found[2] or 0))
    ranks = {kind: {number: rank for rank, number in enumerate(sorted(of))} for kind, of in numbers.items()}
    renamed: dict[str, Value] = {}
    for key, (layer, variable) in keys.items():
        if found := COUNTED.fullmatch(layer):
            layer = f"{found[1]}_{ranks[found[1]][int(found[2] or 0)]}"
        name = f"{layer}/{variable}" if layer else variable
        if name in renamed:
            raise UsageError(f"Two variables are called {name} where names of models are left out, one of them {key}.")
        renamed[name] = tensors[key]
    return renamed


def _last_parts(key: str) -> tuple[str, str]:
    *layers, variable = key.split("/")
    variable = re.sub(r":\d+$", "", variable)
    return layers[-1] if layers else "", RENAMED.get(variable, variable)
