"""Against torchvision; see ``tests.parity.reference``. ``tests/golden`` holds its logits in evaluation."""

import pytest

from cnnjax import models

# k, and alpha as PyTorch and Caffe have it, which divide it by the window: the paper's, and CaffeNet's
RESPONSE_NORMS = {(2.0, 5e-4): {}, (1.0, 1e-4): {"lrn_k": 1.0, "lrn_alpha": 2e-5}}


def test_training(check_training):
    check_training("alexnet_one_column")


def test_larger_images_are_averaged(check_evaluation):
    """159 pixels leave a map of 4x4, whose windows overlap in six."""
    check_evaluation("alexnet_one_column", reference={"size": 159})


def test_keys_and_shapes(check_shapes):
    check_shapes("alexnet_one_column", "torchvision", called="alexnet")


@pytest.mark.parametrize("constants", RESPONSE_NORMS)
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
    k, alpha = constants
    for at in (1, 4):  # after the activation
        module.features[at] = nn.Sequential(nn.ReLU(), nn.LocalResponseNorm(5, alpha=alpha, beta=0.75, k=k))
    fields = RESPONSE_NORMS[constants]
    check_evaluation("alexnet", reference={"called": module, "size": 99, "dense": (48, 40)}, **fields)
