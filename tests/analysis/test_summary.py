import pytest
from flax import linen as nn

from cnnjax import models
from cnnjax.analysis import multiply_adds, summary


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize(
    "name", ["lenet5", "lenet5_classic", "resnet20_cifar", "mlp", "vgg_small", "connectivity_local"]
)
def test_layers_add_up_to_the_network(name, depth):
    shape = models.MODELS[name].image_shape
    layers = summary(models.create(name), shape, depth)
    assert sum(layer.parameters for layer in layers) == models.count_parameters(name)
    assert sum(layer.multiply_adds for layer in layers) == multiply_adds(models.create(name), shape)


def test_lenet5_layer_by_layer():
    layers = summary(models.create("lenet5"), (32, 32, 1))
    assert [(layer.name, layer.kind, layer.output, layer.parameters, layer.multiply_adds) for layer in layers] == [
        ("conv1", "Conv", (28, 28, 6), 156, 117_600),
        ("conv2", "Conv", (10, 10, 16), 2_416, 240_000),
        ("dense1", "Dense", (1, 1, 120), 48_120, 48_000),
        ("dense2", "Dense", (1, 1, 84), 10_164, 10_080),
        ("head", "Dense", (1, 1, 10), 850, 840),
    ]


def test_scanned_blocks_count_as_often_as_they_stand():
    layers = {layer.name: layer for layer in summary(models.create("resnet20_cifar"), (32, 32, 3))}
    assert layers["stage1/conv1"].multiply_adds == 3 * 32 * 32 * 9 * 16 * 16
    assert layers["stage1/conv1"].parameters == 3 * 9 * 16 * 16
    assert layers["stage1/conv1"].output == (32, 32, 16)
    blocks = {layer.name: layer for layer in summary(models.create("resnet20_cifar"), (32, 32, 3), depth=1)}
    assert blocks["stage3_rest"].output == (8, 8, 64)


def test_parameters_of_the_network_itself_are_its_own_line():
    class Scaled(nn.Module):
        @nn.compact
        def __call__(self, images):
            scale = self.param("scale", nn.initializers.ones, (3,))
            return nn.Dense(5)((images * scale).mean((1, 2)))

    rows = [(layer.name, layer.parameters, layer.multiply_adds) for layer in summary(Scaled(), (4, 4, 3))]
    assert rows == [("(network)", 3, 0), ("Dense_0", 20, 15)]
