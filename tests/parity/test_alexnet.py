"""Against torchvision; see ``tests.parity.reference``. ``tests/golden`` holds its logits in evaluation."""

import pytest

from cnnjax import models

# k, alpha as PyTorch and Caffe have it, which divide it by the window, and ceil_mode: the paper's, and Caffe's
NETWORKS = {
    (2.0, 5e-4, False): {},
    (1.0, 1e-4, True): {"lrn_k": 1.0, "lrn_alpha": 2e-5, "ceil_pool": True},
}


def test_training(check_training):
    check_training("alexnet_one_column")


def test_larger_images_are_averaged(check_evaluation):
    """159 pixels leave a map of 4x4, whose windows overlap in six."""
    check_evaluation("alexnet_one_column", reference={"size": 159})


def test_keys_and_shapes(check_shapes):
    check_shapes("alexnet_one_column", "torchvision", called="alexnet")


@pytest.mark.parametrize("constants", NETWORKS)
def test_the_network_of_2012(constants, torch, reference, check_evaluation):
    """Torchvision's network with the paper's channels, groups and local response normalisation."""
    nn, module, reads = torch.nn, reference("alexnet_one_column"), 3
    convolutions = zip(
        (0, 3, 6, 8, 10), models.create("alexnet").features, (11, 5, 3, 3, 3), (1, 2, 1, 2, 2), strict=True
    )
    for at, features, side, groups in convolutions:
        stride, padding = (4, 0) if at == 0 else (1, side // 2)
        module.features[at] = nn.Conv2d(reads, features, side, stride, padding, groups=groups)
        reads = features
    k, alpha, ceil = constants
    for at in (2, 5, 12):
        module.features[at] = nn.MaxPool2d(3, 2, ceil_mode=ceil)
    for at in (1, 4):  # after the activation
        module.features[at] = nn.Sequential(nn.ReLU(), nn.LocalResponseNorm(5, alpha=alpha, beta=0.75, k=k))
    # Sides of 24, 12, 6, 3 where windows may hang over the edge, and 24, 11, 5, 2 where not.
    check_evaluation("alexnet", reference={"called": module, "size": 103, "dense": (48, 40)}, **NETWORKS[constants])
