import jax
import numpy as np
import pytest

from cnnjax import models, tree, weights
from cnnjax.typing import UsageError
from cnnjax.weights.detect import fitting
from tests.fixtures.networks import filled, images
from tests.fixtures.toy import Toy, state_dict

PLACES = {
    "params/stem/conv/kernel": ("features.conv.weight", (2, 3, 1, 0)),
    "params/dense1/bias": ("classifier.0.bias", None),
    "params/head/kernel": ("classifier.2.weight", (1, 0)),
    "params/stem/norm/scale": ("features.bn.weight", None),
    "params/stem/norm/bias": ("features.bn.bias", None),
    "batch_stats/stem/norm/mean": ("features.bn.running_mean", None),
    "batch_stats/stem/norm/var": ("features.bn.running_var", None),
}


def flat(variables):
    return dict(zip(tree.names(variables), jax.tree.leaves(variables), strict=True))


def test_every_kind_of_array_finds_its_place(toy):
    tensors = state_dict()
    variables = weights.convert(tensors, toy)
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, models.parameter_shapes(toy, (8, 8, 3)))
    ours = flat(variables)
    assert all(leaf.dtype == np.float32 and leaf.flags.c_contiguous for leaf in ours.values())
    for path, (key, axes) in PLACES.items():
        np.testing.assert_array_equal(ours[path], tensors[key].transpose(axes), err_msg=path)
    blocks = [tensors[f"layers.{index}.conv.weight"].transpose(2, 3, 1, 0) for index in range(2)]
    np.testing.assert_array_equal(ours["params/stage1/conv1/conv/kernel"], blocks)
    np.testing.assert_array_equal(ours["batch_stats/stage1/conv1/norm/var"][1], tensors["layers.1.bn.running_var"])


def test_a_dense_layer_on_a_flattened_map_reads_the_same_pixels(toy):
    tensors = state_dict()
    kernel = weights.convert(tensors, toy)["params"]["dense1"]["kernel"]
    pixels = images(5, (2, 3, 4))
    expected = pixels.transpose(0, 3, 1, 2).reshape(5, -1) @ tensors["classifier.0.weight"].T
    np.testing.assert_allclose(pixels.reshape(5, -1) @ kernel, expected, rtol=1e-5)


def test_dense_layers_stand_for_convolutions_and_convolutions_for_dense_layers(toy):
    tensors = state_dict()
    expected = weights.convert(tensors, toy)
    tensors["classifier.0.weight"] = tensors["classifier.0.weight"].reshape(6, 4, 2, 3)
    tensors["classifier.2.weight"] = tensors["classifier.2.weight"][:, :, None, None]
    assert tree.digest(weights.convert(tensors, toy)) == tree.digest(expected)
    assert expected["params"]["squeeze"]["kernel"].shape == (1, 1, 6, 6)  # two axes in the file


@pytest.mark.parametrize("norm", ["batch", "none", "group"])
@pytest.mark.parametrize("source", ["torchvision", "timm"])
@pytest.mark.parametrize("channels", [1, 3])
def test_export_is_the_inverse_to_the_bit(toy, norm, source, channels):
    model = Toy(norm=norm)
    variables = filled(model, (8, 8, channels))
    tensors = weights.export(variables, model, source)
    assert tree.digest(weights.convert(tensors, model, source)) == tree.digest(variables)
    assert tree.digest(weights.convert(tensors, model)) == tree.digest(variables)  # the source found from the keys
    again = weights.export(weights.convert(tensors, model), model, source)
    assert {key: array.tobytes() for key, array in again.items()} == {
        k: array.tobytes() for k, array in tensors.items()
    }


def test_export_gives_the_files_shapes(toy):
    shapes = {key: array.shape for key, array in weights.export(filled(toy, (8, 8, 3)), toy, "torchvision").items()}
    expected = {key: array.shape for key, array in state_dict().items()}
    assert shapes == {**expected, "classifier.1.weight": (6, 6, 1, 1)}
    shapes = {key: array.shape for key, array in weights.export(filled(toy, (8, 8, 3)), toy, "timm").items()}
    assert shapes["body.dense1.weight"] == (6, 4, 2, 3)
    assert shapes["body.head.weight"] == (5, 6, 1, 1)


def test_half_precision_and_counts_of_batches(toy):
    tensors = {key: array.astype(np.float16) for key, array in state_dict().items()}
    tensors["features.bn.num_batches_tracked"] = np.array(7)
    tensors["extra.weight"] = np.zeros(3)  # what the layout calls optional
    variables = weights.convert(tensors, toy)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(variables["params"]["head"]["bias"], tensors["classifier.2.bias"])


def test_the_result_does_not_change_with_the_file(toy):
    tensors = state_dict()
    variables = weights.convert(tensors, toy)
    before = tree.digest(variables)
    for array in tensors.values():
        array += 1
    assert tree.digest(variables) == before


# Refusals


def test_missing_and_unexpected_keys_are_listed(toy):
    tensors = state_dict()
    tensors["features.surplus"] = np.zeros(1)
    for key in [key for key in tensors if key.startswith("layers.0")]:
        del tensors[key]
    with pytest.raises(UsageError) as caught:
        weights.convert(tensors, toy, label="x.pth")
    assert "x.pth does not fit this Toy." in str(caught.value)
    assert "Missing: layers.0.bn.running_mean; " in str(caught.value)
    assert "and 1 more." in str(caught.value)
    assert "Not expected: features.surplus." in str(caught.value)


@pytest.mark.slow
def test_every_single_missing_key_is_named(toy):
    for key in state_dict():
        tensors = state_dict()
        del tensors[key]
        with pytest.raises(UsageError, match=f"Missing: {key}\\."):
            weights.convert(tensors, toy, "torchvision")


def test_other_shapes_name_both_sides_and_the_network_that_fits(toy):
    with pytest.raises(UsageError) as caught:
        weights.convert(state_dict(width=7), toy)
    message = str(caught.value)
    assert "params/dense1/kernel (24, 6) <- classifier.0.weight (7, 24)" in message
    assert message.startswith("the state dict does not fit this Toy; it fits toy_wide. ")


def test_a_transposed_square_kernel_is_not_noticed_but_a_rectangular_one_is(toy):
    tensors = state_dict()
    tensors["classifier.0.weight"] = tensors["classifier.0.weight"].T
    with pytest.raises(UsageError, match=r"params/dense1/kernel \(24, 6\) <- classifier.0.weight \(24, 6\)"):
        weights.convert(tensors, toy)


def test_a_file_of_nothing_known(toy):
    tensors = {"a.weight": np.zeros((2, 3)), "b.bias": np.zeros(2)}
    with pytest.raises(UsageError, match=r"the state dict has no tensor of Toy; it starts with a\.weight, b\.bias\."):
        weights.convert(tensors, toy)


def test_a_file_of_another_family_says_which(toy):
    model = models.create("mobilenet_v2", num_classes=5)
    with pytest.raises(UsageError, match="does not fit this MobileNetV2; it fits toy"):
        weights.convert(state_dict(), model)


def test_a_file_with_nothing_in_common_says_what_it_fits(toy):
    with pytest.raises(UsageError, match=r"has no tensor of MobileNetV1; it fits toy\."):
        weights.convert(state_dict(), models.create("mobilenet_v1"))


def test_networks_and_sources_without_a_layout(toy):
    with pytest.raises(UsageError, match=r"LeNet5 has no layout of other libraries' files. Those with one: .*Toy"):
        weights.convert(state_dict(), models.create("lenet5"))
    with pytest.raises(UsageError, match=r"Unknown source of weights for Toy 'torchvison'. Did you mean 'torchvision'"):
        weights.convert(state_dict(), toy, "torchvison")


def test_fitting_looks_at_every_key_and_shape(toy):
    assert fitting(state_dict()) == ["toy"]
    assert fitting(state_dict(classes=9)) == ["toy"]  # the number of classes may differ
    assert fitting(state_dict(width=7)) == ["toy_wide"]
    assert fitting(state_dict(width=8)) == []
    assert fitting({**state_dict(), "more.weight": np.zeros(1)}) == []


def test_another_number_of_classes(toy):
    message = r"x.pth has 9 classes and this network 5: .*Use num_classes=9, or head='new' to leave the head out"
    with pytest.raises(UsageError, match=message):
        weights.convert(state_dict(classes=9), toy, label="x.pth")
    variables = weights.convert(state_dict(classes=9), toy, head="new")
    whole = weights.convert(state_dict(), toy)
    assert set(flat(whole)) - set(flat(variables)) == {"params/head/kernel", "params/head/bias"}
    assert set(flat(weights.convert(state_dict(), toy, head="new"))) == set(flat(whole))
    with pytest.raises(UsageError, match="Unknown value of head 'newer'"):
        weights.convert(state_dict(), toy, head="newer")


def test_a_file_without_a_head(toy):
    tensors = {key: array for key, array in state_dict().items() if not key.startswith("classifier.2")}
    with pytest.raises(UsageError, match=r"x.pth has no head. Missing: classifier.2.bias; .* or head='new'"):
        weights.convert(tensors, toy, label="x.pth")
    variables = weights.convert(tensors, toy, head="new")
    whole = weights.convert(state_dict(), toy)
    assert set(flat(whole)) - set(flat(variables)) == {"params/head/kernel", "params/head/bias"}
    tensors["classifier.2.bias"] = state_dict()["classifier.2.bias"]  # half a head is damage
    with pytest.raises(UsageError, match=r"does not fit this Toy.* Missing: classifier.2.weight\."):
        weights.convert(tensors, toy, head="new")


def test_a_new_head_does_not_hide_other_differences(toy):
    with pytest.raises(UsageError, match="does not fit this Toy"):
        weights.convert(state_dict(classes=9, width=7), toy, head="new")


def test_variables_of_another_network_are_not_exported(toy):
    variables = filled(Toy(width=7), (8, 8, 3))
    with pytest.raises(UsageError, match=r"the tree of variables does not fit this Toy.* params/dense1/kernel"):
        weights.export(variables, toy, "torchvision")
    del variables["params"]["head"]
    with pytest.raises(UsageError, match="Missing: params/head/bias; params/head/kernel"):
        weights.export(variables, Toy(width=7), "torchvision")
