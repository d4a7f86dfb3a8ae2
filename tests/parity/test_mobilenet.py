"""Against torchvision and timm; see ``tests.parity.reference``. ``tests/golden`` holds the published widths."""


def test_version_1_of_another_width(check_evaluation):
    reference = {"library": "timm", "called": "mobilenetv1_125"}
    check_evaluation("mobilenet_v1", reference=reference, width_multiplier=1.25)


def test_training_of_version_2_of_another_width(check_training):
    reference = {"library": "timm", "called": "mobilenetv2_050", "size": 45}  # odd, and four pixels in the last map
    check_training("mobilenet_v2", reference=reference, width_multiplier=0.5)
