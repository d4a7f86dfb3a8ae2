"""Against timm; see ``tests.parity.reference``. ``tests/golden`` holds torchvision's B0 in evaluation."""


def test_training_with_the_authors_padding_and_epsilon(check_training):
    """At 50 pixels padding differs by layer: some sides are even, others odd. The last map has four pixels."""
    reference = {"library": "timm", "called": "tf_efficientnet_b0", "size": 50}
    check_training("efficientnet_b0", reference=reference, padding="SAME", epsilon=1e-3)
