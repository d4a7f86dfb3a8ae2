import pytest

from cnnjax import models, tree

# The parameters of every network at its published image shape and number of classes. Exact.
PARAMETERS = {
    "mlp": 32 * 32 * 3 * 100 + 100 + 100 * 10 + 10,
    "lenet5": 61_706,  # S4:368-374
    "lenet5_classic": 60_000,
    "connectivity_conv": 8 * 10 + 16 * 73 + 10 * 257,
    "connectivity_local": 512 * 10 + 256 * 73 + 10 * 257,
    "connectivity_dense": 512 * 257 + 256 * 513 + 10 * 257,
    "neocognitron": 30_322,
    "whole_cnn": 1_590,
    "alexnet": 60_965_224,
    "alexnet_one_column": 61_100_840,
    "vgg_small": 550_570,
    "vgg11": 132_863_336,
    "vgg11_lrn": 132_863_336,
    "vgg13": 133_047_848,
    "vgg16_1x1": 133_638_952,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "vgg11_bn": 132_868_840,
    "vgg13_bn": 133_053_736,
    "vgg16_bn": 138_365_992,
    "vgg19_bn": 143_678_248,
    "network_in_network": 966_986,
    "dilated_cnn": 16 * 28 + 3 * 16 * 145 + 170,
    **{
        f"{form}{depth}_cifar": count
        for form in ("plain", "resnet")
        for depth, count in {
            8: 75_290, 14: 172_506, 20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962, 1202: 19_421_274
        }.items()
    },
    "plain18": 11_515_688,
    "plain34": 21_623_848,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnext50_32x4d": 25_028_904,
    "googlenet": 6_998_552,
    "googlenet_bn": 6_624_904,
    "inception_v3": 23_834_568,
    "mobilenet_v1": 4_231_976,
    "mobilenet_v2": 3_504_872,
    "efficientnet_b0": 5_288_548,  # torchvision's, which the paper's table 2 has rounded
    "efficientnet_b1": 7_794_184,
    "efficientnet_b2": 9_109_994,
    "efficientnet_b3": 12_233_232,
    "efficientnet_b4": 19_341_616,
    "efficientnet_b5": 30_389_784,
    "efficientnet_b6": 43_040_704,
    "efficientnet_b7": 66_347_960,
}  # fmt: skip


def test_every_name_has_a_count():
    assert set(models.MODELS) == set(PARAMETERS)


LARGE = [f"efficientnet_b{size}" for size in range(1, 7)]  # as the smallest and the largest, but slow to trace


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in LARGE else ()) for name in PARAMETERS]
)
def test_parameters_and_their_stages(name):
    model = models.create(name)
    params = models.parameter_shapes(model, models.MODELS[name].image_shape)["params"]
    assert tree.count(params) == PARAMETERS[name]
    if name == "lenet5_classic":  # its last layer is fixed
        return
    stages = model.parameter_stages
    for layer in params:
        assert sum(layer.startswith(prefixes) for prefixes in stages.values()) == 1, layer
    assert list(stages)[-1] == "head"
    assert stages["head"] == ("head",)
    assert params["head"]["bias"].shape == params["head"]["kernel"].shape[1:] == (model.num_classes,)


def test_the_lectures_fully_connected_net():  # S1:1004
    variables = models.parameter_shapes(models.create("mlp", num_classes=26), (16, 16, 1))
    assert tree.count(variables) == 28_326


def test_fields_change_the_count():
    assert models.count_parameters("mlp", norm="batch") == PARAMETERS["mlp"] - 100 + 2 * 100
