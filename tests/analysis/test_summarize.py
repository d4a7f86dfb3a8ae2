import itertools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models
from cnnjax.analysis import multiply_adds, summarize
from cnnjax.nn import ConvTranspose
from cnnjax.ops.conv import traced_as_convolutions
from cnnjax.typing import UsageError


class Net(nn.Module):
    """Layers of Flax one after the other; only an array comes out."""

    layers: tuple

    @nn.compact
    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def conv(side=3, features=4, **options):
    return lambda x: nn.Conv(features, (side, side), **options)(x)


def flat(x):
    return x.reshape(len(x), -1)


def pooled(x):
    return x.mean((1, 2))


def said(layers, shape, **options):
    return [(w.layer, w.what) for w in summarize(Net(tuple(layers)), shape, units=False, **options).warnings]


# Layers


@pytest.mark.parametrize(
    ("name", "depth"),
    [("lenet5_classic", 0), ("lenet5_classic", 1), ("resnet14_cifar", 1), ("resnet14_cifar", 2), ("mlp", 2),
     ("connectivity_local", 0)],
)  # fmt: skip
@pytest.mark.slow
def test_layers_add_up_to_the_network(name, depth):
    shape = models.MODELS[name].image_shape
    found = summarize(models.create(name), shape, depth, units=False)
    assert found.parameters == sum(layer.parameters for layer in found.layers) == models.count_parameters(name)
    assert found.multiply_adds == sum(layer.multiply_adds for layer in found.layers)
    assert found.multiply_adds == multiply_adds(models.create(name), shape)


def test_lenet5_layer_by_layer():
    found = summarize(models.create("lenet5"), (32, 32, 1), units=False)
    assert [
        (layer.name, layer.kind, layer.output, layer.parameters, layer.multiply_adds) for layer in found.layers
    ] == [
        ("conv1", "Conv", (28, 28, 6), 156, 117_600),
        ("conv2", "Conv", (10, 10, 16), 2_416, 240_000),
        ("dense1", "Dense", (1, 1, 120), 48_120, 48_000),
        ("dense2", "Dense", (1, 1, 84), 10_164, 10_080),
        ("head", "Dense", (1, 1, 10), 850, 840),
    ]
    fields = [layer.field for layer in found.layers[:3]]
    assert [(f.size[0], f.stride[0], f.start[0], f.whole_image) for f in fields] == [
        (5, 1, 0, False), (14, 2, 0, False), (32, 0, 0, True),
    ]  # fmt: skip
    assert found.warnings == ()
    assert found.coverage.sides == (5, 5)
    assert found.coverage.rows[::4] == (1, 2, 3, 4, 4, 3, 2, 1)  # windows of 16 every 4 pixels, on 32


@pytest.mark.parametrize("name", ["lenet5", "vgg16"])
@pytest.mark.slow
def test_shapes_shrink_while_channels_grow(name):
    """S4:374, S4:401."""
    found = summarize(models.create(name), models.MODELS[name].image_shape, units=False)
    maps = [layer.output for layer in found.layers if layer.kind == "Conv"]
    assert all(a[0] >= b[0] and a[1] >= b[1] and a[2] <= b[2] for a, b in itertools.pairwise(maps))
    assert maps[0][0] > maps[-1][0]
    assert maps[0][2] < maps[-1][2]


@pytest.mark.slow
def test_scanned_blocks_count_as_often_as_they_stand():
    found = summarize(models.create("resnet20_cifar"), (32, 32, 3), units=False)
    layer = {layer.name: layer for layer in found.layers}["stage1/conv1"]
    assert (layer.multiply_adds, layer.parameters) == (3 * 32 * 32 * 9 * 16 * 16, 3 * 9 * 16 * 16)
    assert (layer.output, layer.repeats, layer.output_bytes) == ((32, 32, 16), 3, 3 * 4 * 32 * 32 * 16)
    assert layer.field.size == (3 + 2 * 5, 3 + 2 * 5)  # of the third block's first convolution
    blocks = {b.name: b for b in summarize(models.create("resnet20_cifar"), (32, 32, 3), 1, units=False).layers}
    assert blocks["stage3_rest"].output == (8, 8, 64)


def test_modules_of_flax_whatever_they_return():
    class Parts(nn.Module):
        def setup(self):
            self.encoder = nn.Sequential([conv_module(), nn.relu, conv_module()])
            self.decoder = nn.ConvTranspose(3, (4, 4), (2, 2))
            self.head = nn.Dense(2)

        def __call__(self, x):
            code = self.encoder(x)
            return {"picture": self.decoder(code), "more": (self.head(pooled(code)), {"code": code})}

    def conv_module():
        return nn.Conv(4, (3, 3), 2)

    found = summarize(Parts(), (16, 16, 3), units=False)
    rows = {layer.name: (layer.kind, layer.output, layer.parameters, layer.multiply_adds) for layer in found.layers}
    assert rows == {
        "encoder/layers_0": ("Conv", (8, 8, 4), 112, 8 * 8 * 27 * 4),
        "encoder/layers_2": ("Conv", (4, 4, 4), 148, 4 * 4 * 36 * 4),
        "decoder": ("ConvTranspose", (8, 8, 3), 195, 4 * 4 * 64 * 3),
        "head": ("Dense", (2,), 10, 8),
    }
    assert {name: (field.size, field.stride) for name, field in found.maps.items()} == {
        "more/1/code": ((7, 7), (4, 4)), "picture": ((11, 11), (2, 2)),
    }  # fmt: skip
    json.dumps(found.to_json())


def test_modules_without_maps_without_parameters_and_inside_transformations():
    dense = summarize(nn.Sequential([nn.Dense(5), nn.relu]), (7,), units=False)
    assert [(layer.parameters, layer.field) for layer in dense.layers] == [(40, None)]
    assert summarize(Net((lambda x: x.mean(),)), (4, 4, 3), units=False).parameters == 0
    remat = summarize(Net((lambda x: nn.remat(nn.Conv)(4, (3, 3))(x), flat)), (8, 8, 3), units=False)
    assert [(layer.multiply_adds, layer.field.size) for layer in remat.layers] == [(8 * 8 * 27 * 4, (3, 3))]


def test_parameters_of_the_network_itself_are_its_own_line():
    class Scaled(nn.Module):
        @nn.compact
        def __call__(self, images):
            scale = self.param("scale", nn.initializers.ones, (3,))
            return nn.Dense(5)((images * scale).mean((1, 2)))

    rows = [(layer.name, layer.parameters, layer.multiply_adds) for layer in summarize(Scaled(), (4, 4, 3)).layers]
    assert rows == [("(network)", 3, 0), ("Dense_0", 20, 15)]


# Work and memory


@pytest.mark.parametrize("name", ["lenet5", "vgg_small"])
def test_operations_are_those_of_xla(name):
    model, shape = models.create(name), models.MODELS[name].image_shape
    variables, images = models.parameter_shapes(model, shape), jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    with traced_as_convolutions():
        lowered = jax.jit(lambda v, x: model.apply(v, x)[0]).lower(variables, images)
    whole = lowered.cost_analysis()["flops"]
    assert summarize(model, shape, units=False).operations == pytest.approx(
        whole, rel=1e-6
    )  # which it keeps as float32


def test_memory_by_hand():
    layers = (conv(features=5), lambda x: x + 1, conv(features=2), flat, lambda x: nn.Dense(3)(x))
    found = summarize(Net(layers), (8, 8, 3), units=False)
    # The convolution's output and what the addition of its bias makes are alive at once: 5 channels each.
    assert found.inference_bytes == 4 * 64 * (5 + 5)
    # Each product keeps what it multiplies: the image, the first map (plus one) and the flattened second.
    assert found.training_bytes == 4 * 64 * (3 + 5 + 2)


def test_what_sigmoids_keep_is_kept_in_addition():
    plain = summarize(Net((conv(), flat, lambda x: nn.Dense(3)(x))), (8, 8, 3), units=False)
    bent = summarize(Net((conv(), nn.sigmoid, flat, lambda x: nn.Dense(3)(x))), (8, 8, 3), units=False)
    assert bent.training_bytes > plain.training_bytes


def test_valid_padding_reads_the_border_least():
    """S4:164-165: as many units of the last map depend on a pixel as have a gradient there."""
    model = Net((conv(3, 1, padding="VALID"), conv(2, 1, strides=2, padding="VALID"), conv(3, 1, padding="VALID")))
    cover = summarize(model, (14, 12, 1), units=False).coverage
    ones = jax.tree_util.tree_map(lambda leaf: jnp.ones(leaf.shape), models.parameter_shapes(model, (14, 12, 1)))
    units = jax.jit(jax.jacrev(lambda images: model.apply(ones, images)[0, :, :, 0]))(jnp.ones((1, 14, 12, 1)))
    assert cover.sides == units.shape[:2]
    assert np.array_equal((units[:, :, 0, :, :, 0] > 0).sum((0, 1)), np.outer(cover.rows, cover.columns))
    assert cover.rows[0] == min(cover.rows) < max(cover.rows)


def test_shapes_without_padding_shrink_and_with_it_stay():
    """S1:797-799: n - L (k - 1) after L layers."""
    for padding, side in (("VALID", 20 - 4 * 2), ("SAME", 20)):
        layers = summarize(Net((conv(3, padding=padding),) * 4), (20, 20, 3), units=False).layers
        assert layers[-1].output == (side, side, 4)


# Warnings: each where it is true, and not where it is nearly so


def test_sigmoid_after_relu():
    score = (pooled, lambda x: nn.Dense(1)(x))
    ((layer, what),) = said([conv(11), *score, nn.relu, nn.sigmoid], (4, 4, 3))
    assert layer == "(network)"
    assert "after Dense_0" in what
    assert said([conv(11), nn.relu, *score, nn.sigmoid], (4, 4, 3)) == []
    assert len(said([conv(11), nn.relu, pooled, nn.sigmoid], (4, 4, 3))) == 1
    assert said([conv(11), nn.swish, *score], (4, 4, 3)) == []


@pytest.mark.parametrize(
    ("layer", "where"),
    [
        (conv(4), "Conv_0"), (conv(2), "Conv_0"), (conv(3), None), (conv(4, strides=2), None),
        (conv(4, padding="VALID"), None), (lambda x: nn.max_pool(x, (2, 2), (1, 1), "SAME"), "(network)"),
    ],
)  # fmt: skip
def test_even_kernels_shift_the_map(layer, where):
    found = [place for place, what in said([layer, flat], (8, 8, 3)) if "half a pixel" in what]
    assert found == ([where] if where else [])


@pytest.mark.parametrize(
    ("layer", "size", "what"),
    [
        (
            conv(3, strides=2, padding="VALID"),
            8,
            "1 of 8 rows are read by nothing: n + 2p - f = 8 + 0 - 3 = 5 leaves 1",
        ),
        (conv(3, strides=2, padding="VALID"), 9, ""),
        (conv(3, strides=2, padding=1), 8, ""),  # one row of padding is left
        (conv(1, strides=2), 8, "4 of 8 rows are read by nothing: windows of 1 every 2 leave gaps"),
        (lambda x: nn.Conv(4, (1, 1), 2)(x) + nn.Conv(4, (3, 3), 2, 1)(x), 8, ""),  # a projection beside a block
        (lambda x: nn.avg_pool(x, (2, 2), (2, 2)), 5, "1 of 5 rows"),
        (lambda x: nn.max_pool(nn.relu(conv(3)(x)), (2, 2), (2, 2)), 5, "1 of 5 rows"),
        (lambda x: nn.ConvTranspose(4, (4, 4), (2, 2))(x), 5, ""),
    ],
)
@pytest.mark.slow
def test_pixels_that_no_window_reads(layer, size, what):
    found = [text for _, text in said([layer, flat], (size, size, 3)) if "read by nothing" in text]
    assert [what in text for text in found] == ([True] if what else [])


def test_our_own_pooling_is_followed_too():
    model = models.create("whole_cnn")
    (warning,) = summarize(model, (16, 16, 1), units=False).warnings
    assert warning.layer == "stage1"  # 7 after pooling, 5 after its convolution, and 2 windows of 2
    assert "1 of 5 rows are read by nothing" in warning.what
    assert summarize(model, (18, 18, 1), units=False).warnings == ()


def test_batches_of_one():
    norm = lambda x: nn.BatchNorm(use_running_average=True)(x)  # noqa: E731
    layers = [conv(15), norm, flat, lambda x: nn.Dense(3)(x), norm]
    assert said(layers, (4, 5, 3)) == said(layers, (4, 5, 3), batch_size=2) == []
    texts = dict(said(layers, (4, 5, 3), batch_size=1))
    assert "one image's pixels, 4x5 per channel" in texts["BatchNorm_0"]
    assert "one value per channel" in texts["BatchNorm_1"]


def test_a_receptive_field_smaller_than_the_image():
    ((_, what),) = said([conv(3), conv(3), pooled], (8, 8, 3))
    assert "reads 5x5 of 8x8 pixels, and only an average" in what
    assert said([conv(3), conv(3), pooled], (5, 5, 3)) == []
    assert said([conv(3), conv(3), flat, lambda x: nn.Dense(3)(x)], (8, 8, 3)) == []  # S3:170-174: dense layers see all
    ((_, what),) = said([conv(3)], (8, 8, 3))
    assert "puts out a map" in what


def test_gridding():
    dilated = [conv(3, kernel_dilation=2)] * 2
    found = dict(said([*dilated, flat], (16, 16, 3)))
    assert "dilations 2, 2 leave 4 of the 9 pixels" in found["Conv_1"]
    assert said([conv(3), conv(3, kernel_dilation=2), conv(3, kernel_dilation=4), flat], (16, 16, 3)) == []
    assert said([*dilated, conv(3), flat], (16, 16, 3)) == []


@pytest.mark.parametrize(("side", "stride", "uneven"), [(3, 2, True), (4, 2, False), (2, 2, False), (4, 3, True)])
def test_checkerboards(side, stride, uneven):
    found = said([lambda x: nn.ConvTranspose(2, (side, side), (stride, stride))(x), flat], (4, 4, 3))
    assert [layer for layer, _ in found] == (["ConvTranspose_0"] if uneven else [])


@pytest.mark.parametrize("own", [False, True])
def test_transposed_convolutions(own):
    """Flax's and ours, from 5x6 to 10x12 pixels, but for a row and a column that nothing is written to."""
    if own:
        layer = lambda x: ConvTranspose(3, (3, 3), padding=1, output_padding=(1, 1), use_bias=False)(x)  # noqa: E731
    else:
        layer = lambda x: nn.ConvTranspose(3, (3, 3), strides=(2, 2), use_bias=False)(x)  # noqa: E731
    found = summarize(Net((layer,)), (5, 6, 2), units=False)
    (only,) = found.layers
    assert only.output == (10, 12, 3)
    assert only.multiply_adds == 5 * 6 * 9 * 2 * 3  # every input is multiplied by the whole kernel
    ((rows, columns),) = found.overlaps.values()
    assert rows == ((1, 2, 1, 2, 1, 2, 1, 2, 1, 1) if own else (1, 1, 2, 1, 2, 1, 2, 1, 2, 1))
    assert len(columns) == 12
    assert only.name in found.text()
    assert "written 1 to 4 times" in found.text("a name")
    assert found.text("a name").startswith("a name on 5x6x2")


@pytest.mark.slow
def test_dead_units_are_counted_where_asked():
    shut = conv(3, features=6, bias_init=lambda key, shape, dtype: jnp.asarray([-99.0] * 5 + [99.0], dtype))
    model = Net((shut, nn.relu, conv(3), nn.relu, pooled))
    found = summarize(model, (6, 6, 3), units=True)
    assert found.layers[0].dead == (5, 6)
    (warning,) = [w for w in found.warnings if "zero" in w.what]
    assert warning.layer == "Conv_0"
    skipped = summarize(model, (6, 6, 3), units=False)
    assert skipped.layers[0].dead is None
    assert skipped.units == "not counted"
    assert "forward pass of 15," in summarize(models.create("vgg16"), (224, 224, 3)).units


def test_dead_units_of_scanned_blocks_are_all_counted():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return nn.relu(nn.Conv(3, (3, 3), name="conv")(x)), None

    class Scanned(nn.Module):
        @nn.compact
        def __call__(self, x):
            scan = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=4)
            return scan(name="blocks")(x, None)[0].mean((1, 2))

    (layer,) = summarize(Scanned(), (6, 6, 3), units=True).layers
    assert (layer.name, layer.repeats, layer.field.size) == ("blocks/conv", 4, (9, 9))
    assert layer.dead[1] == 4 * 3


# Bad input


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x @ jnp.ones((5, 5))


class TwoInputs(nn.Module):
    @nn.compact
    def __call__(self, x, mask):
        return nn.Dense(3)(x * mask)


@pytest.mark.parametrize(
    ("model", "shape", "parts"),
    [
        (TwoInputs(), (4, 4, 3), ["2 inputs (x, mask)", "Wrap it"]),
        (
            Net((conv(), lambda x: Inner(name="inner")(x))),
            (4, 4, 3),
            ["inner (Inner) raised TypeError", "Net on 4x4x3"],
        ),
        (Net((conv(5, padding="VALID"), conv(5, padding="VALID"))), (8, 8, 3), ["Conv_1", "n + p >= f", "4x4x4"]),
        (Net((conv(3), lambda x: nn.max_pool(x, (9, 9)), flat, lambda x: nn.Dense(2)(x))), (8, 8, 3), ["Dense_0"]),
        (Net(()), (4, 0, 3), ["(4, 0, 3)", "positive whole numbers"]),
        (nn.Module(), (4, 4, 3), ["__call__"]),
        (models.create("lenet5"), (4, 4, 1), ["n + p = 4"]),
    ],
    ids=("inputs", "error", "kernel", "pooling", "shape", "no call", "own layers"),
)
def test_what_cannot_be_analysed_is_refused(model, shape, parts):
    with pytest.raises(UsageError) as refused:
        summarize(model, shape, units=False)
    assert all(part in str(refused.value) for part in parts), str(refused.value)


def test_other_arguments_may_be_given():
    found = summarize(TwoInputs(), (4, 4, 3), arguments={"mask": np.ones(3, np.float32)}, units=False)
    assert found.parameters == 12


def test_numbers_that_mean_nothing_are_refused():
    with pytest.raises(UsageError, match="batch_size=0"):
        summarize(Net(()), (4, 4, 3), batch_size=0)
