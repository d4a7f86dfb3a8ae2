"""Published files of the networks for CIFAR, in the forms that they have; see ``layouts.resnet``."""

import numpy as np
import pytest

from cnnjax import models, tree, weights
from cnnjax.typing import UsageError
from cnnjax.weights import Preprocessing, preprocessing_of
from cnnjax.weights.detect import detect
from tests.fixtures.networks import filled
from tests.fixtures.torch_files import state, zipped


def network(name="resnet14_cifar", source="akamaster", **fields):
    """A narrow one, its variables and its state dict."""
    model = models.create(name, width=4, **fields)
    variables = filled(model, (32, 32, 3))
    return model, variables, weights.export(variables, model, source)


@pytest.mark.parametrize("source", ["akamaster", "chenyaofo"])
@pytest.mark.parametrize(
    ("name", "shortcut"), [("resnet14_cifar", "A"), ("resnet14_cifar", "B"), ("plain14_cifar", "none")]
)
@pytest.mark.slow
def test_keys_blocks_and_the_way_back(tmp_path, name, shortcut, source):
    model, variables, tensors = network(name, source, shortcut=shortcut)
    projection, head = {"akamaster": ("shortcut", "linear"), "chenyaofo": ("downsample", "fc")}[source]
    assert {f"{head}.weight", f"{head}.bias", "bn1.running_mean", "layer3.1.conv2.weight"} < set(tensors)
    projections = {f"layer{stage}.0.{projection}.{part}.weight" for stage in (2, 3) for part in (0, 1)}
    assert projections <= set(tensors) if shortcut == "B" else not any(projection in key for key in tensors)
    kernel = variables["params"]["stage2_rest"]["conv1"]["kernel"][0]
    np.testing.assert_array_equal(tensors["layer2.1.conv1.weight"], kernel.transpose(3, 2, 0, 1))
    wrapped = {f"module.{key}": array for key, array in tensors.items()}
    wrapped["module.bn1.num_batches_tracked"] = np.array(7)
    path = zipped(tmp_path / "a.th", {"state_dict": state(wrapped), "best_prec1": 91.2})
    assert detect(tensors, model) == source
    assert tree.digest(weights.load(path, model)) == tree.digest(variables)


def test_option_a_and_the_plain_network_have_the_same_keys_and_the_files_name_tells(tmp_path):
    """Idelbayev's files are called resnet20-12fca82f.th and so on."""
    model, variables, tensors = network()
    path = zipped(tmp_path / "resnet14-12fca82f.th", {"state_dict": state(tensors)})
    assert tree.digest(weights.load(path, model)) == tree.digest(variables)
    with pytest.raises(
        UsageError, match=r"is of resnet14, as its name says, which has shortcut='A' or 'B'\. This .*'none'"
    ):
        weights.load(path, "plain14_cifar", width=4)


@pytest.mark.slow
def test_a_file_with_projections_asks_for_option_b(tmp_path):
    _, _, tensors = network(shortcut="B")
    path = zipped(tmp_path / "a.th", state(tensors))
    with pytest.raises(UsageError, match=r"Not expected: layer2\.0\.shortcut\.1"):
        weights.load(path, "resnet14_cifar", width=4)
    weights.load(path, "resnet14_cifar", width=4, shortcut="B")


@pytest.mark.slow
def test_the_networks_of_four_stages(tmp_path):
    model = models.create("resnet18", stem="cifar", width=4, num_classes=10)
    variables = filled(model, (32, 32, 3))
    tensors = weights.export(variables, model, "kuangliu")
    assert {"linear.weight", "layer2.0.shortcut.0.weight", "layer4.1.bn2.running_var"} < set(tensors)
    path = zipped(
        tmp_path / "ckpt.pth", {"net": state({f"module.{key}": array for key, array in tensors.items()}), "acc": 95.1}
    )
    assert tree.digest(weights.load(path, model)) == tree.digest(variables)
    with pytest.raises(UsageError, match=r"is of kuangliu, whose network of these keys has stem='cifar'"):
        weights.load(path, "resnet18", width=4, num_classes=10)


@pytest.mark.slow
def test_preprocessing(tmp_path):
    _, _, tensors = network()
    path = zipped(tmp_path / "a.th", state(tensors))
    assert preprocessing_of("resnet14_cifar", path=path) == Preprocessing(32, 32)
    for classes, mean in ((10, 0.4914), (100, 0.507)):
        _, _, tensors = network(source="chenyaofo", num_classes=classes)
        path = zipped(tmp_path / "a.pt", state(tensors))
        assert preprocessing_of("resnet14_cifar", path=path).mean[0] == mean
    assert preprocessing_of("resnet18", "kuangliu").crop == 32
    with pytest.raises(UsageError, match="akamaster has no resnet18"):
        preprocessing_of("resnet18", "akamaster")
