"""TensorFlow Datasets without TensorFlow: ``tfds:NAME``.

NAME is as TFDS writes it: ``cifar10``, ``imagenette/160px-v2``, ``mnist:3.0.1``. Data is read from
(and prepared into) ``$TFDS_DATA_DIR``, by default ``~/tensorflow_datasets``, in ArrayRecord form:
the one format that needs no TensorFlow and keeps every row.
"""

import difflib
import os
import socket
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from cnnjax.data import encoded
from cnnjax.data.dataset import SPLITS, DataConfig, Dataset, Info, Progress
from cnnjax.data.without_tensorflow import stand_in
from cnnjax.typing import UsageError

FILE_FORMAT = "array_record"
SPLIT_NAMES = {"train": ("train",), "valid": ("validation", "valid", "val"), "test": ("test",)}
PATIENCE = 2.0  # seconds to wait for a host
PORTS = {"http": 80, "https": 443, "ftp": 21}


def describe(config: DataConfig) -> Info:
    """Reads the metadata and at most one image; downloads and prepares on the first use.

    Raises:
      UsageError: TFDS is not installed or knows no such dataset, it is not prepared and its host
        is out of reach, it is prepared in another format, or it is not for classification.
    """
    return encoded.describe(source(config), config)


def load(config: DataConfig, progress: Progress | None = None) -> Dataset:
    """Decodes all images, or maps them from the cache.

    Raises:
      UsageError: as ``describe``, or images cannot be read.
    """
    return encoded.load(source(config), config, progress)


def source(config: DataConfig) -> encoded.Encoded:
    """The images as they lie in TFDS's files.

    Raises:
      UsageError: as ``describe``.
    """
    builder = _prepared(config.argument)
    features = _features(config.argument, builder)
    sources = _sources(config.argument, builder)
    counts = {split: len(source) for split, source in sources.items()}

    def locate(example: int) -> tuple[str, int]:
        for split, count in counts.items():
            if example < count:
                return split, example
            example -= count
        raise IndexError(example)

    def read(example: int) -> tuple[bytes, int]:
        split, index = locate(example)
        record = sources[split][index]
        label = int(record["label"])
        if not 0 <= label < features["label"].num_classes:
            raise UsageError(
                f"Split {split!r} of tfds:{config.argument} has a label that is no class: {label} at {split}[{index}]; "
                f"classes are 0 to {features['label'].num_classes - 1}. Use another dataset, or mend this one."
            )
        return record["image"], label

    return encoded.Encoded(
        counts=counts,
        class_names=tuple(features["label"].names),
        read=read,
        label=lambda example: read(example)[1],
        where=lambda example: "{}[{}]".format(*locate(example)),
        samples=(0,),
        channels={1: 1, 3: 3}.get(features["image"].shape[-1]),
        identity=lambda: _identity(builder),
    )


def _prepared(name: str) -> Any:
    """The builder of a dataset that lies on disk, after preparing it if need be."""
    builder = _builder(name)
    if builder.is_prepared():
        return builder
    missing = next(_missing_downloads(builder), None)
    if missing and not reachable(missing):
        raise UsageError(
            f"tfds:{name} is not prepared in {_data_dir()}, and {urlsplit(missing).hostname}, from where "
            "it comes, is out of reach. Without a network use --data=digits, --data=shapes or "
            "--data=folder:DIR, or set TFDS_DATA_DIR to a folder that has it in array_record form."
        )
    try:
        with stand_in():
            builder.download_and_prepare(file_format=FILE_FORMAT)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"tfds:{name} can only be prepared with TensorFlow ({error}). Where that is installed, run "
            f"`tfds build {name} --file_format={FILE_FORMAT}` once; reading it needs no TensorFlow."
        ) from error
    except Exception as error:  # the many ways in which downloads fail
        raise UsageError(f"tfds:{name} could not be prepared: {error}") from error
    return builder


def _builder(name: str) -> Any:
    try:
        import array_record.python.array_record_data_source  # noqa: F401
        import tensorflow_datasets
    except ImportError as error:
        raise UsageError(
            f"--data=tfds:{name} needs {error.name}: pip install tensorflow-datasets importlib_resources array_record."
        ) from error
    try:
        return tensorflow_datasets.builder(name, data_dir=_data_dir(), file_format=FILE_FORMAT)
    except tensorflow_datasets.core.registered.DatasetNotFoundError:
        raise _unknown(name) from None
    except Exception as error:  # of many types, for a bad config, version or file format
        message = f"--data=tfds:{name} cannot be opened in {_data_dir()}: {str(error).strip()}"
        if "file format" in message.lower():
            message += f" Only {FILE_FORMAT} can be read: set TFDS_DATA_DIR to a folder for it."
        raise UsageError(message) from error


def _unknown(name: str) -> UsageError:
    import tensorflow_datasets

    names = tensorflow_datasets.list_builders(with_community_datasets=False)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return UsageError(
        f"Unknown dataset tfds:{name}.{hint} It is neither in {_data_dir()} nor one of the {len(names)} that "
        "https://www.tensorflow.org/datasets/catalog describes."
    )


def _data_dir() -> str:
    return os.path.expanduser(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def _features(name: str, builder: Any) -> dict[str, Any]:
    features = dict(builder.info.features.items())
    image, label = features.get("image"), features.get("label")
    if not hasattr(label, "num_classes") or getattr(image, "np_dtype", None) != np.uint8:
        found = ", ".join(f"{key} ({type(feature).__name__})" for key, feature in sorted(features.items()))
        raise UsageError(
            f"tfds:{name} is not for image classification: that needs the features image (Image of uint8) "
            f"and label (ClassLabel); it has {found}."
        )
    return features


def _sources(name: str, builder: Any) -> dict[str, Any]:
    """Random access to the records of each split; images stay encoded."""
    import tensorflow_datasets

    decoders = {"image": tensorflow_datasets.decode.SkipDecoding()}
    sources = {
        split: builder.as_data_source(own_name, decoders=decoders)
        for split in SPLITS
        for own_name in SPLIT_NAMES[split]
        if own_name in builder.info.splits
    }
    if "train" not in sources:
        raise UsageError(f"tfds:{name} has no train split, only {', '.join(builder.info.splits)}.")
    return sources


def _identity(builder: Any) -> str:
    names = sorted(path.name for path in Path(builder.data_dir).iterdir())
    return f"{builder.info.full_name} {encoded.identity_of_files(builder.data_dir, names)}"


def _missing_downloads(builder: Any) -> Iterator[str]:
    """Registered addresses whose file the user has not put into ``downloads/manual``."""
    manual = Path(_data_dir(), "downloads", "manual")
    for url, file in (builder.url_infos or {}).items():
        if not (manual / (file.filename or Path(urlsplit(url).path).name)).exists():
            yield url


def reachable(url: str) -> bool:
    """Whether the host of an address, or the proxy that leads to it, accepts a connection.

    TFDS itself tries for minutes before it gives up.
    """
    address = urlsplit(url)
    proxy = urllib.request.getproxies().get(address.scheme)
    if proxy and not urllib.request.proxy_bypass(address.hostname or ""):
        address = urlsplit(proxy if "//" in proxy else f"//{proxy}", scheme="http")
    port = address.port or PORTS.get(address.scheme, 443)
    answers: list[bool] = []

    def connect() -> None:
        try:
            socket.create_connection((address.hostname, port), timeout=PATIENCE).close()
            answers.append(True)
        except OSError:
            answers.append(False)

    # In a thread, because looking up a name takes no timeout.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return answers == [True]
