"""Running one bundle, in whatever process or on whatever device: from points to rows."""

import importlib.metadata
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax

from cnnjax import __version__
from cnnjax.data.catalog import DataConfig, Dataset, load
from cnnjax.provenance import code_differences, source_digest
from cnnjax.sweep.execution import Execution
from cnnjax.sweep.kept import encoded, encoded_arrays
from cnnjax.sweep.plan import Bundle, Point
from cnnjax.sweep.store import Row, Store
from cnnjax.train import checkpoint, lowered, peers
from cnnjax.train.pretrained import sha256
from cnnjax.train.program import compiler_options
from cnnjax.train.run import Outcome, train
from cnnjax.train.spec import Spec, digest, normalization, to_json
from cnnjax.typing import UsageError
from cnnjax.weights.preprocessing import Preprocessing
from cnnjax.weights.saved import save


def signature(bundle: Bundle, threads: int, platform: str, device_kind: str) -> dict[str, Any]:
    """What a row's bits depend on beside its spec, numbers and seed.

    Args:
      bundle: its spec and driver.
      threads: cores that a process computes on; on an accelerator always 0, for it does not matter there.
      platform: "cpu", "gpu" or "tpu".
      device_kind: as JAX calls it.
    """
    driver, flags = bundle.driver, os.environ.get("XLA_FLAGS", "")
    sharing = {"data": driver.data, "processes": peers.count(), "batch_norm": driver.batch_norm}
    return {
        "spec": digest(bundle.spec),
        "driver": driver.form,
        "lanes": driver.lanes,
        "platform": platform,
        "device_kind": device_kind,
        "device_count": driver.data,  # those that only share the members change no bit
        **(sharing if driver.data > 1 else {}),
        "threads": threads if platform == "cpu" else 0,
        **({"deterministic": deterministic_operations(flags)} if platform == "gpu" else {}),
        **({"flags": told} if (told := compiler_flags(flags)) else {}),
        "compiler": ", ".join(f"{name}={value}" for name, value in (compiler_options() or {}).items()),
        **{name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax")},
        **_weights(bundle),
        **code_of(bundle),
    }


def code_of(bundle: Bundle) -> dict[str, Any]:
    """The part of the signature that says which code a process runs; it is another one after any change of it.

    ``cnnjax`` and ``source`` are its version and the digest of its sources, ``jax_settings`` those of JAX's that change
    what is traced, and ``program`` digests of what the network's own code makes, where it is not cnnjax's: see
    ``train.lowered``. The same program from other sources is another signature too: the order of examples, for one, is
    made on the host, and nobody but the author of a change knows whether it is the same.
    """
    program = lowered.digests(bundle.spec, bundle.info, bundle.driver)
    return {
        "cnnjax": __version__,
        "source": source_digest(),
        "jax_settings": lowered.settings(),
        **({"program": program} if program else {}),
    }


def _weights(bundle: Bundle) -> dict[str, Any]:
    """Which weights the runs start from, and how images are normalised for them; empty where they start from none."""
    if not bundle.spec.weights:
        return {}
    asked = normalization(bundle.spec, bundle.info)
    return {"weights": sha256(bundle.spec.weights), **({} if asked is None else to_json(asked._asdict()))}


def compiler_flags(flags: str) -> str:
    """Those flags of XLA's that may change bits, in order."""
    harmless = ("--xla_force_host_platform_device_count", "--xla_dump")
    return " ".join(sorted(flag for flag in flags.split() if not flag.startswith(harmless)))


def deterministic_operations(flags: str) -> bool:
    """Whether XLA, told these flags, gives the same bits each time on a GPU; the last word on each flag counts."""
    told: dict[str, bool] = {}
    for flag in flags.split():
        name, _, value = flag.partition("=")
        told[name.lstrip("-")] = value.lower() in ("", "true", "1", "yes")
    return any(told.get(f"xla_gpu_{name}") for name in ("deterministic_ops", "exclude_nondeterministic_ops"))


def threads_here() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=4)
def dataset_of(config: DataConfig) -> Dataset:
    """The dataset of a configuration, loaded once in a process."""
    return load(config)


class LeaseLost(Exception):
    """Another worker has taken the bundle over, so this one may not write its rows."""


def run_bundle(
    bundle: Bundle,
    signature: dict[str, Any],
    fingerprint: str,
    store: Store,
    execution: Execution,
    *,
    worker: int = 0,
    on_progress: Callable[[int], None] = lambda steps: None,
    on_evaluation: Callable[[int, list[dict[str, float]]], None] = lambda step, records: None,
    should_stop: Callable[[], bool] = lambda: False,
    may_write: Callable[[], bool] = lambda: True,
) -> list[Row]:
    """Trains the bundle and returns a row for each of its points, written to the store.

    Args:
      bundle: what to train; runs of it that have a row already keep that one.
      signature: what its bits depend on.
      fingerprint: of its data.
      store: of its rows.
      execution: what data feed, and which checkpoints. With ``mix_signatures``, where there is no checkpoint of this
        signature, go on from one of another, and say so in the rows.
      worker: goes into the rows.
      on_progress: called with the number of steps done.
      on_evaluation: called with the step and a record for each lane.
      should_stop: asked after every chunk of steps.
      may_write: asked before rows are written.

    Raises:
      Interrupted: asked to stop; see ``train``.
      LeaseLost: ``may_write`` said no.
      Unwritable: the store's directory was moved or removed.
      UsageError: the data, the weights or the code are not those that the sweep started with.
    """
    dataset = dataset_of(bundle.spec.data)
    if dataset.fingerprint != fingerprint:
        raise UsageError(
            f"{bundle.info.name} has changed since the sweep started. Restore the data, or use another --workdir."
        )
    _check_weights(bundle, signature)
    _check_code(bundle, signature)
    padded = bundle.padded()
    checkpoints = store.checkpoints(bundle.bundle_id, digest(signature))
    if execution.mix_signatures and peers.leads():
        _take_over(store, checkpoints)
    rows: list[Row] = []

    def write(outcomes: list[Outcome]) -> None:
        for point, outcome in zip(bundle.points, outcomes, strict=False):  # members beyond the points are padding
            found = asdict(replace(outcome, variables=None))
            if not outcome.earlier_signatures:
                del found["earlier_signatures"]
            row = {
                **_identity(point),
                **found,
                "outputs": encoded(outcome.outputs),
                "arrays": encoded_arrays(outcome.arrays),
                "classes": bundle.info.num_classes,
                **_circumstances(outcome, signature, worker, fingerprint),
            }
            rows.append(row)
            if not peers.leads():
                continue
            if not may_write():
                raise LeaseLost(bundle.bundle_id)
            if outcome.variables is not None:  # before the row, which is never without its file
                with store.writing("weights"):
                    row["weights"] = _keep_weights(bundle, dataset, outcome.variables, store, row["run_id"])
            store.write(row)

    def stops() -> bool:
        store.check_place()  # before the next checkpoint, which would go into a directory of the same name
        return should_stop()

    train(
        bundle.spec,
        [point.hyper for point in padded],
        [point.seed for point in padded],
        dataset,
        bundle.driver,
        feed_mode=execution.feed,
        checkpoints=checkpoints,
        checkpoint_seconds=execution.checkpoint_seconds,
        keep_checkpoint=execution.keep_checkpoints,
        signature=signature,
        mix_signatures=execution.mix_signatures,
        on_progress=on_progress,
        on_evaluation=on_evaluation,
        on_outcomes=write,
        should_stop=stops,
    )
    return rows


def _take_over(store: Store, checkpoints: Path) -> None:
    """Where the bundle has no checkpoint of this signature, moves one of another here; the checkpoint says of which."""
    if checkpoint.steps(checkpoints):
        return
    for other in store.other_checkpoints(checkpoints):
        if checkpoint.steps(other):
            checkpoint.remove(checkpoints)
            os.rename(other, checkpoints)
            return


def _check_weights(bundle: Bundle, signature: dict[str, Any]) -> None:
    """Refuses weights that are not, or ask for images that are not, those of the signature."""
    path = bundle.spec.weights
    for name in ("weights", "mean", "std") if path else ():
        now = sha256(path) if name == "weights" else _weights(bundle).get(name)  # read only if it is the same file
        if now != signature.get(name):
            raise UsageError(
                f"{path} has changed since the sweep started ({name}: {signature.get(name)} before, {now} now). "
                "Restore it, or use another --workdir."
            )


def _check_code(bundle: Bundle, signature: dict[str, Any]) -> None:
    """Refuses to run other code than that of the signature: a file may change while worker processes start."""
    now = code_of(bundle)
    if changed := code_differences(signature, now):
        raise UsageError(
            f"The code has changed since the sweep started ({'; '.join(changed)}). Start the command again."
        )


def _keep_weights(bundle: Bundle, dataset: Dataset, variables: Any, store: Store, run: str) -> dict[str, str]:
    """Writes a run's final variables, with what is needed to use them, and says which file holds them."""
    spec, info = bundle.spec, bundle.info
    assert isinstance(spec.model, str)
    path = store.weights(run)
    save(
        path,
        variables,
        spec.model,
        preprocessing=_preprocessing(spec, dataset),
        class_names=info.class_names,
        image_shape=info.image_shape,
        overwrite=True,  # a kill may have left one without a row
        **{"num_classes": info.num_classes, **dict(spec.model_fields)},
    )
    return {"file": str(path.relative_to(store.directory)), "content": sha256(str(path))}


def _preprocessing(spec: Spec, dataset: Dataset) -> Preprocessing:
    """What brings an image to the form that the runs saw."""
    height, width, _ = dataset.info.image_shape
    asked = normalization(spec, dataset.info) or (dataset.mean, dataset.std)
    mean, std = (tuple(map(float, values)) for values in asked)
    return Preprocessing(
        resize=min(height, width),
        crop=height if height == width else (height, width),
        mean=mean,
        std=std,
        permute_pixels=spec.data.permute_pixels,
    )


def _identity(point: Point) -> Row:
    return {
        "run_id": point.run_id,
        "assignment": to_json(dict(point.assignment)),
        "seed": point.seed,
        "spec": to_json(point.spec),
        "hyper": to_json(point.hyper),
    }


def _circumstances(outcome, signature, worker, fingerprint) -> Row:
    return {
        "status": "done" if outcome.diverged_step is None else "diverged",
        "error": None,
        "signature": signature,
        "signature_digest": digest(signature),
        "program": digest({key: signature[key] for key in ("spec", "driver", "lanes")}),
        "data": fingerprint,
        "worker": worker,
    }


def environment() -> dict[str, Any]:
    """Versions and machine, for the manifest."""
    names = ("cnnjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    device = jax.devices()[0]
    return {
        "versions": {"python": sys.version.split()[0], **{name: importlib.metadata.version(name) for name in names}},
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
    }
