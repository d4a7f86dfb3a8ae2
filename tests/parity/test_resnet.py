"""Against torchvision; see ``tests.parity.reference``. ``tests/golden`` holds the logits in evaluation."""

from functools import partial

import pytest


def test_training_on_sides_that_the_strides_do_not_divide(check_training):
    check_training("resnet18", reference={"size": 75})


def test_the_published_number_of_groups(torch, check_evaluation):
    """Of Wu and He 2018, and of timm's resnet50_gn."""
    reference = {"options": {"norm_layer": partial(torch.nn.GroupNorm, 32)}, "size": 48}
    check_evaluation("resnet50", reference=reference, norm="group", norm_groups=32)


@pytest.mark.parametrize("library", ["torchvision", "timm"])
@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d"])
def test_keys_and_shapes(name, library, check_shapes):
    check_shapes(name, library)
