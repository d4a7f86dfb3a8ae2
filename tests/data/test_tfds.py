import contextlib
import importlib.util
import io
import json
import shutil
import socket
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets
from PIL import Image

from cnnjax.data import tfds
from cnnjax.data.catalog import DataConfig, describe, load, pictures
from cnnjax.data.without_tensorflow import stand_in
from cnnjax.typing import UsageError

HAS_TENSORFLOW = importlib.util.find_spec("tensorflow") is not None


def pixels(split: int, number: int) -> np.ndarray:
    """Images that tell what they are: red is the split, green the number."""
    return np.broadcast_to(np.array([split, number, 7], np.uint8), (4, 5, 3))


def builder_class(
    class_name: str,
    splits: dict[str, int],
    encode: bool = True,
    label_of=lambda number: number % 2,
    bad=lambda split, number: False,
    **features,
) -> type:
    """A builder of tiny images, which yields them as PNG unless ``encode`` is False."""
    own = {
        "image": tensorflow_datasets.features.Image(shape=(None, None, 3)),
        "label": tensorflow_datasets.features.ClassLabel(names=["even", "odd"]),
        "note": tensorflow_datasets.features.Text(),
        **features,
    }

    def _info(self):
        kept = {key: feature for key, feature in own.items() if feature is not None}
        return tensorflow_datasets.core.DatasetInfo(
            builder=self, features=tensorflow_datasets.features.FeaturesDict(kept)
        )

    def _split_generators(self, download_manager):
        del download_manager
        return {name: self._generate_examples(red, count) for red, (name, count) in enumerate(splits.items())}

    def _generate_examples(self, red, count):
        for number in range(count):
            image = io.BytesIO()
            Image.fromarray(pixels(red, number)).save(image, "PNG")
            example = {
                "image": (b"no picture" if bad(red, number) else image.getvalue()) if encode else pixels(red, number),
                "label": label_of(number),
                "note": "x",
            }
            yield number, {key: example[key] for key in example if own[key] is not None}

    methods = {
        "VERSION": tensorflow_datasets.core.Version("1.0.0"),
        "_info": _info,
        "_split_generators": _split_generators,
        "_generate_examples": _generate_examples,
        "__module__": __name__,
    }
    return type(class_name, (tensorflow_datasets.core.GeneratorBasedBuilder,), methods)


def prepare(directory: Path, class_name: str, splits: dict[str, int], **features) -> Path:
    """Writes a dataset that only its files make known: the class is not registered."""
    with tensorflow_datasets.core.registered.skip_registration():
        cls = builder_class(class_name, splits, **features)
    builder = cls(data_dir=directory, file_format="array_record")
    builder.download_and_prepare()
    return Path(builder.data_dir)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("tensorflow_datasets")
    prepare(directory, "TinyPair", {"train": 40, "test": 6})
    prepare(directory, "TinyThree", {"train": 20, "validation": 4, "test": 6})
    prepare(directory, "TinyNoTest", {"train": 20, "validation": 4})
    prepare(directory, "TinyNoLabel", {"train": 4}, label=None)
    prepare(directory, "TinyNoTrain", {"test": 4})
    return directory


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch, prepared):
    monkeypatch.setenv("CNNJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))


def refused(name: str) -> str:
    with pytest.raises(UsageError) as caught:
        describe(DataConfig(name))
    return str(caught.value)


def test_prepared_data_is_read_without_tensorflow():
    config = DataConfig("tfds:tiny_pair")
    dataset = load(config)
    assert dataset.info == describe(config)
    assert dataset.info.sizes == {"train": 36, "valid": 4, "test": 6}
    assert dataset.info.class_names == ("even", "odd")
    assert dataset.images.shape == (46, 4, 5, 3)
    found = dataset.images[:, 0, 0].tolist()
    assert sorted(found[:40]) == [[0, number, 7] for number in range(40)]
    assert sorted(found[40:]) == [[1, number, 7] for number in range(6)]
    np.testing.assert_array_equal(dataset.labels, dataset.images[:, 0, 0, 1] % 2)
    assert isinstance(load(config).images, np.memmap)
    assert load(config).fingerprint == dataset.fingerprint
    assert "tensorflow" not in sys.modules or HAS_TENSORFLOW


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("tiny_three", {"train": 20, "valid": 4, "test": 6}),
        ("tiny_no_test", {"train": 18, "valid": 2, "test": 4}),
        ("tiny_pair:1.0.0", {"train": 36, "valid": 4, "test": 6}),
    ],
)
def test_splits_are_those_of_the_dataset(name, sizes):
    dataset = load(DataConfig(f"tfds:{name}"))
    assert dataset.info.sizes == sizes
    held_out = dataset.images[slice(*dataset.ranges["test"]), 0, 0, 0]
    assert set(held_out.tolist()) == {2 if name == "tiny_three" else 1}


def test_skipping_may_not_empty_a_class(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    prepare(
        tmp_path / "tfds", "TinyHalf", {"train": 40, "test": 6}, bad=lambda split, number: split == 1 and number % 2
    )
    prepare(tmp_path / "tfds", "TinyFew", {"train": 40, "test": 6}, bad=lambda split, number: number == 1)
    with pytest.raises(
        UsageError, match=r"class 'odd' in the test split can be read, such as test\[\d\] \(it is empty"
    ):
        describe(DataConfig("tfds:tiny_half", on_bad_image="skip"))
    skipped = load(DataConfig("tfds:tiny_few", on_bad_image="skip")).skipped
    assert [name.partition("[")[0] for name, _ in skipped] == ["train", "test"]


def test_pictures_of_a_split_are_those_of_the_dataset():
    for name, splits in (("tiny_three", ("train", "valid", "test")), ("tiny_no_test", ("train", "test"))):
        config = DataConfig(f"tfds:{name}")
        dataset = load(config)
        for split in splits:
            found = pictures(config, split)
            read = [found.read(number) for number in range(found.count)]
            np.testing.assert_array_equal(
                [np.asarray(image) for image, _ in read], dataset.images[slice(*dataset.ranges[split])]
            )
            assert [label for _, label in read] == dataset.labels[slice(*dataset.ranges[split])].tolist()
    with pytest.raises(UsageError, match="tfds:tiny_no_test has no test split, so its validation split serves as one"):
        pictures(config, "valid")


def test_resized_and_made_grey_like_a_folder(tmp_path):
    for split in (0, 1):
        for number in range(40 if split == 0 else 6):
            path = tmp_path / "data" / ("train", "test")[split] / ("even", "odd")[number % 2] / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels(split, number)).save(path)
    fields = {"image_size": 3, "channels": 1}
    one = load(DataConfig("tfds:tiny_pair", **fields))
    other = load(DataConfig(f"folder:{tmp_path / 'data'}", **fields))
    assert one.info.image_shape == other.info.image_shape == (3, 3, 1)
    flat = [np.sort(each.images.reshape(46, 9)[40:], axis=0) for each in (one, other)]
    np.testing.assert_array_equal(*flat)


def test_datasets_of_another_kind_are_refused():
    assert "it has image (Image), note (Text)" in refused("tfds:tiny_no_label")
    assert "no train split, only test" in refused("tfds:tiny_no_train")


def test_unknown_names_suggest_the_nearest():
    assert "Did you mean 'mnist'" in refused("tfds:mnst")
    assert "1.2.3" in refused("tfds:mnist:1.2.3")
    assert "of the following format" in refused("tfds:a/b/c")


def test_another_file_format_is_refused(tmp_path, prepared, monkeypatch):
    copy = shutil.copytree(prepared / "tiny_pair", tmp_path / "tiny_pair")
    info = copy / "1.0.0" / "dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"fileFormat": "tfrecord"}))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert "Only array_record can be read: set TFDS_DATA_DIR" in refused("tfds:tiny_pair")


def test_missing_labels_are_noticed(tmp_path, monkeypatch):
    prepare(tmp_path, "TinyHidden", {"train": 20, "test": 2}, label_of=lambda number: -1)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(UsageError, match=r"^Split 'train' of tfds:tiny_hidden has a label .*: -1 at train\[\d+\]"):
        load(DataConfig("tfds:tiny_hidden"))


def test_offline_fails_at_once_and_names_what_works(tmp_path, monkeypatch):
    asked: list[str] = []
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(tfds, "reachable", lambda url: bool(asked.append(url)))
    message = refused("tfds:mnist")
    assert asked[0].startswith("https://storage.googleapis.com/cvdf-datasets/mnist/")
    for name in (
        "storage.googleapis.com",
        "--data=digits",
        "--data=shapes",
        "--data=folder:DIR",
        "TFDS_DATA_DIR",
    ):
        assert name in message
    assert list(tmp_path.iterdir()) == []


def test_archives_handed_over_need_no_network(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(tfds, "reachable", lambda url: pytest.fail(f"asked for {url}"))
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    for split in ("train", "t10k"):
        for part in ("images-idx3", "labels-idx1"):
            (manual / f"{split}-{part}-ubyte.gz").write_bytes(b"not the archive")
    assert "wrong checksum" in refused("tfds:mnist")


def test_a_dataset_is_prepared_without_tensorflow_on_first_use(tmp_path, monkeypatch):
    """Images given as arrays are what TFDS needs TensorFlow for: CIFAR and MNIST do so."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    builder_class("TinyArrays", {"train": 20, "test": 2}, encode=False)
    dataset = load(DataConfig("tfds:tiny_arrays"))
    assert dataset.info.sizes == {"train": 18, "valid": 2, "test": 2}
    assert sorted(dataset.images[:20, 0, 0].tolist()) == [[0, number, 7] for number in range(20)]
    assert (tmp_path / "tiny_arrays" / "1.0.0" / "tiny_arrays-train.array_record-00000-of-00001").exists()


@pytest.mark.skipif(HAS_TENSORFLOW, reason="needs nothing to stand in for")
def test_the_stand_in_leaves_when_it_is_no_longer_needed():
    from tensorflow_datasets.core.utils.lazy_imports_utils import tensorflow

    with stand_in():
        assert tensorflow.executing_eagerly()
        grey = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
        encoded = tensorflow.image.encode_png(grey).numpy()
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(encoded))), grey[..., 0])
    with contextlib.suppress(ImportError):
        tensorflow.executing_eagerly()
        pytest.fail("TensorFlow is still there")


def test_a_builder_that_needs_more_of_tensorflow_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    cls = builder_class("TinyDemanding", {"train": 2}, encode=False)

    def _split_generators(self, download_manager):
        from tensorflow_datasets.core.utils.lazy_imports_utils import tensorflow

        return tensorflow.data.Dataset.range(3)

    cls._split_generators = _split_generators
    message = refused("tfds:tiny_demanding")
    assert "can only be prepared with TensorFlow" in message
    assert "tfds build tiny_demanding --file_format=array_record" in message


@pytest.mark.parametrize("module", ["tensorflow_datasets", "array_record.python.array_record_data_source"])
def test_a_missing_package_is_named(module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    assert f"needs {module}: pip install" in refused("tfds:mnist")


def test_reachable_asks_the_host_or_its_proxy(monkeypatch):
    for variable in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with socket.create_server(("127.0.0.1", 0)) as server:
        somebody = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert tfds.reachable(f"{somebody}/file")
        assert not tfds.reachable(f"{nobody}/file")
        monkeypatch.setenv("http_proxy", somebody)
        assert tfds.reachable("http://nowhere.invalid/file")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert not tfds.reachable(f"{nobody}/file")


def test_a_name_server_that_never_answers_is_not_waited_for(monkeypatch):
    answer = threading.Event()

    def connect(*args, **kwargs):
        answer.wait()
        raise OSError

    monkeypatch.setattr(tfds, "PATIENCE", 0.05)
    monkeypatch.setattr(socket, "create_connection", connect)
    assert not tfds.reachable("http://nowhere.invalid/file")
    answer.set()
