"""The programs of a Spec as digests: what a network's code computes, whatever its file looks like.

A digest is of the StableHLO that JAX makes of the functions in ``train.program``, without names of files and lines,
with every constant whole, and with gradients in place of the rules they came from. It depends on the versions of JAX
and Flax, which an execution signature holds besides, and not on the process, its hash seed or what was traced before.

To trace a program takes seconds (``benchmarks/results/startup.json``), so it is done only where nothing cheaper proves
that the code is the same: for a network that is not cnnjax's own. What is cnnjax's own is proven by the digest of its
sources (``provenance.source_digest``), and made no longer by it: the README's main job has six programs, whose tracing
would take a tenth of its time.
"""

import dataclasses
import functools
import hashlib
import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

import jax
import numpy as np

from cnnjax import models, provenance
from cnnjax.data.catalog import Info
from cnnjax.data.feed import EVALUATION_BATCH, EVALUATION_CHUNK, Chunk
from cnnjax.train.program import Driver, Program, program
from cnnjax.train.run import CHUNK_STEPS
from cnnjax.train.spec import Spec, build_model

PROVEN = {"cnnjax", "jax", "jaxlib", "flax", "optax", "numpy", "builtins"}  # by their versions and sources
SETTINGS = (  # of JAX's that decide what a function is traced to, and so the bits
    *("jax_enable_x64", "jax_default_matmul_precision", "jax_default_dtype_bits", "jax_numpy_dtype_promotion"),
    *("jax_default_prng_impl", "jax_threefry_partitionable", "jax_random_seed_offset", "jax_disable_jit"),
)


def settings() -> str:
    """The settings of JAX that change what is computed, as text for an execution signature."""
    values = {name.removeprefix("jax_"): getattr(jax.config, name, None) for name in SETTINGS}
    return ", ".join(f"{name}={value}" for name, value in values.items() if value is not None)


def digests(spec: Spec, info: Info, driver: Driver) -> dict[str, str]:
    """16 hexadecimal digits for each part of a Spec's program; empty where the network is cnnjax's own.

    Args:
      spec, info: as for ``program``.
      driver: its form and lanes; devices that share the work run the same program.

    Returns:
      ``initial_state``, ``step`` and ``evaluation``, and, where the Spec asks for these, ``probes`` and ``outputs``.
      ``host``, where the program calls back into Python: of the file of each class and function of the network, for
      what those compute is in no program.
    """
    model = build_model(spec, info.num_classes)
    named = models.MODELS[spec.model] if isinstance(spec.model, str) else None
    if not _others([named, model]):
        return {}
    sizes, alone = tuple(sorted(info.sizes.items())), Driver(driver.form, driver.lanes)
    return dict(_digests(spec, (info.name, info.image_shape, info.num_classes, sizes, info.class_names), alone))


@cache
def _digests(spec: Spec, key: tuple, driver: Driver) -> Mapping[str, str]:
    name, image_shape, num_classes, sizes, class_names = key
    info = Info(name, image_shape, num_classes, dict(sizes), class_names)
    texts = {name: lowered.as_text() for name, lowered in _lowered(program(spec, info, driver)).items()}
    found = {name: _digest(text) for name, text in texts.items()}
    if any("callback" in text for text in texts.values()):
        homes = {inspect.getmodule(each) for each in _others(build_model(spec, num_classes))}
        files = sorted({file for home in homes if (file := getattr(home, "__file__", None))})
        found["host"] = _digest("".join(map(provenance.bare_text, files)))
    return found


def _lowered(compiled: Program) -> dict[str, Any]:
    """The functions that a run passes through, for the shapes that they have with a resident dataset."""
    spec, info, lanes = compiled.spec, compiled.info, compiled.driver.lanes
    channels, total = info.image_shape[-1], sum(info.sizes.values())
    shape = jax.ShapeDtypeStruct
    pool = {
        "images": shape((total, *info.image_shape), np.uint8),
        "labels": shape((total,), np.int32),
        "mean": shape((channels,), np.float32),
        "std": shape((channels,), np.float32),
        "colour_basis": shape((channels, channels), np.float32),
    }

    def chunk(length: int, batch: int) -> Chunk:
        indices, noise = shape((length, lanes, batch), np.int32), shape((length, lanes, batch, 2), np.uint32)
        return Chunk(pool, indices, noise, shape((length, lanes), np.int32), length)

    return compiled.lowered(chunk(CHUNK_STEPS, spec.batch_size), chunk(EVALUATION_CHUNK, EVALUATION_BATCH))


def _others(value: Any) -> set[Any]:
    """The classes and functions in a network and its fields that are neither cnnjax's nor of what it is built on."""
    if isinstance(value, functools.partial):
        return _others(value.func) | _others([*value.args, *value.keywords.values()])
    if isinstance(value, dict | tuple | list | set | frozenset):
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        return set().union(*map(_others, parts))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [getattr(value, field.name, None) for field in dataclasses.fields(value) if field.name != "parent"]
        return _others(type(value)) | _others(fields)
    home = getattr(value, "__module__", None)
    return {value} if callable(value) and str(home).partition(".")[0] not in PROVEN else set()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
