"""Against torchvision and timm; see ``tests.parity.reference``. ``tests/golden`` holds torchvision's ``vgg11_bn``."""

import pytest

NAMES = [f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")]


def test_evaluation(check_evaluation):
    check_evaluation("vgg13")


def test_training(check_training):
    check_training("vgg11_bn")


def test_timms_dense_layers_are_convolutions(check_evaluation, check_training):
    check_evaluation("vgg16", reference={"library": "timm"})
    check_training("vgg11_bn", reference={"library": "timm"})


@pytest.mark.parametrize("library", ["torchvision", "timm"])
@pytest.mark.parametrize("name", NAMES)
def test_keys_and_shapes(name, library, check_shapes):
    check_shapes(name, library)
