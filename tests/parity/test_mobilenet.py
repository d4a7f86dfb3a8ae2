"""Against torchvision and timm; see ``tests.parity.reference``. ``tests/golden`` holds the published widths."""

import pytest


def test_version_1_of_another_width(check_evaluation):
    reference = {"library": "timm", "called": "mobilenetv1_125"}
    check_evaluation("mobilenet_v1", reference=reference, width_multiplier=1.25)


def test_training_of_version_2_of_another_width(check_training):
    reference = {"library": "timm", "called": "mobilenetv2_050", "size": 45}  # odd, and four pixels in the last map
    check_training("mobilenet_v2", reference=reference, width_multiplier=0.5)


def as_in_tensorflow(torch, module):
    """Pads its convolutions as TensorFlow does, and normalises with its epsilon."""

    def pad(layer, inputs):
        margins = []
        for pixels, side, stride in zip(inputs[0].shape[:1:-1], layer.kernel_size, layer.stride, strict=True):
            total = max((-(-pixels // stride) - 1) * stride + side - pixels, 0)
            margins += [total // 2, total - total // 2]
        return torch.nn.functional.pad(inputs[0], margins)

    for layer in module.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.padding = (0, 0)
            layer.register_forward_pre_hook(pad)
        elif isinstance(layer, torch.nn.BatchNorm2d):
            layer.eps = 1e-3
    return module


TENSORFLOW = {"padding": "SAME", "epsilon": 1e-3}


def test_version_2_with_the_authors_padding_and_epsilon(torch, reference, check_training):
    """At 50 pixels padding differs by layer: some sides are even, others odd. The last map has four pixels."""
    module = as_in_tensorflow(torch, reference("mobilenet_v2"))
    check_training("mobilenet_v2", reference={"called": module, "size": 50}, **TENSORFLOW)


@pytest.mark.parametrize("fields", [{}, TENSORFLOW])
def test_version_1(fields, torch, check_evaluation):
    """The paper's table 1 in torch, with timm's keys."""
    nn = torch.nn

    class Separable(nn.Module):
        def __init__(self, reads, channels, stride):
            super().__init__()
            self.conv_dw = nn.Conv2d(reads, reads, 3, stride, padding=1, groups=reads, bias=False)
            self.bn1 = nn.BatchNorm2d(reads)
            self.conv_pw = nn.Conv2d(reads, channels, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(channels)

        def forward(self, x):
            x = self.bn1(self.conv_dw(x)).clamp(0, 6)
            return self.bn2(self.conv_pw(x)).clamp(0, 6)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv_stem, self.bn1 = nn.Conv2d(3, 32, 3, 2, padding=1, bias=False), nn.BatchNorm2d(32)
            stages, reads = [], 32
            for channels, strides in ((64, [1]), (128, [2, 1]), (256, [2, 1]), (512, [2, *[1] * 5]), (1024, [2, 1])):
                layers = [Separable(reads if at == 0 else channels, channels, s) for at, s in enumerate(strides)]
                stages, reads = [*stages, nn.Sequential(*layers)], channels
            self.blocks, self.classifier = nn.Sequential(*stages), nn.Linear(1024, 10)

        def forward(self, x):
            return self.classifier(self.blocks(self.bn1(self.conv_stem(x)).clamp(0, 6)).mean((2, 3)))

    module = as_in_tensorflow(torch, Network()) if fields else Network()
    check_evaluation("mobilenet_v1", reference={"called": module, "library": "timm", "size": 64}, **fields)
