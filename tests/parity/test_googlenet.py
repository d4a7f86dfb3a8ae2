"""Against torchvision; see ``tests.parity.reference``. ``tests/golden`` holds the logits in evaluation."""

import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models, weights
from cnnjax.models.googlenet import AuxiliaryHead
from cnnjax.models.parts import parts
from cnnjax.nn import initializer
from tests.fixtures.networks import jit
from tests.parity import seeded
from tests.parity.reference import TOLERANCE, state_dict

# k, and alpha as PyTorch and Caffe have it, which divide it by the window: the paper's, and Caffe's
RESPONSE_NORMS = {(2.0, 5e-4): {}, (1.0, 1e-4): {"lrn_k": 1.0, "lrn_alpha": 2e-5}}
AUXILIARY = {"init_weights": False, "aux_logits": True, "transform_input": False}


def test_training(check_training):
    """The statistics in the auxiliary heads show that they read the right maps."""
    check_training("googlenet_bn", reference={"size": 65, "options": AUXILIARY}, auxiliary=True)


def test_auxiliary_logits(reference, torch):
    """A head alone, on a map of 7x7, whose average pooling to 4x4 has windows that overlap."""
    module = reference("googlenet_bn", options=AUXILIARY)
    model = models.create("googlenet_bn", auxiliary=True, num_classes=10)
    variables = weights.convert(state_dict(module), model)
    own = {collection: values["auxiliary2"] for collection, values in variables.items()}
    head = AuxiliaryHead(10, parts(model, epsilon=1e-3), "adaptive", 1.0, initializer("he"), jnp.float32)
    x = seeded.images(2, 7, 528)
    with torch.no_grad():
        expected = module.aux2(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    actual = jit(lambda variables, x: head.apply(variables, x, False, 0.0))(own, x)
    np.testing.assert_allclose(actual, expected, atol=TOLERANCE * np.abs(expected).max())


def test_a_file_with_auxiliary_heads_fits_a_network_without(reference):
    tensors = state_dict(reference("googlenet_bn", options=AUXILIARY))
    without = models.create("googlenet_bn", num_classes=10)
    variables = weights.convert(tensors, without, "torchvision")
    with_heads = weights.convert(tensors, without.clone(auxiliary=True), "torchvision")
    assert set(with_heads["params"]) - set(variables["params"]) == {"auxiliary1", "auxiliary2"}


@pytest.mark.parametrize("constants", RESPONSE_NORMS)
def test_the_papers_network(constants, torch, check_evaluation):
    """Table 1 from torchvision's network: other blocks, and local response normalisation where the paper has it."""
    from torchvision.models import GoogLeNet

    nn = torch.nn

    class Conv(nn.Module):
        def __init__(self, reads, channels, **options):
            super().__init__()
            self.conv = nn.Conv2d(reads, channels, **options)

        def forward(self, x):
            return self.conv(x).relu()

    class Inception(nn.Module):
        def __init__(self, reads, ones, reduce3, threes, reduce5, fives, project):
            super().__init__()
            self.branch1 = Conv(reads, ones, kernel_size=1)
            three, five = (
                Conv(reduce3, threes, kernel_size=3, padding=1),
                Conv(reduce5, fives, kernel_size=5, padding=2),
            )
            self.branch2 = nn.Sequential(Conv(reads, reduce3, kernel_size=1), three)
            self.branch3 = nn.Sequential(Conv(reads, reduce5, kernel_size=1), five)
            self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), Conv(reads, project, kernel_size=1))

        def forward(self, x):
            return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)

    module = GoogLeNet(10, False, init_weights=False, blocks=[Conv, Inception, nn.Identity])
    k, alpha = constants
    normalize = nn.LocalResponseNorm(5, alpha=alpha, beta=0.75, k=k)
    for layer in (module.maxpool1, module.conv3):
        layer.register_forward_hook(lambda _, __, out: normalize(out))
    module.maxpool4 = nn.MaxPool2d(3, 2, ceil_mode=True)
    check_evaluation("googlenet", reference={"called": module, "size": 63}, **RESPONSE_NORMS[constants])
