"""A file that says which network it is of is not read as another one, though its arrays fit."""

import argparse
import json

import numpy as np
import pytest

from cnnjax import models, weights
from cnnjax.typing import UsageError
from cnnjax.weights import architecture, timm_config
from tests.fixtures.torch_files import legacy, safetensors, state, zipped
from tests.fixtures.toy import state_dict

TENSORS = {"w": np.zeros(2, np.float32)}
SAME = {"padding": "SAME", "epsilon": 1e-3}


@pytest.fixture
def check(tmp_path):
    """check(network, file, source, config, **fields): weights in a file of that name, beside that config.json."""

    def call(network, file="model.safetensors", source="timm", config=None, **fields):
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        safetensors(path, TENSORS)
        if config:
            content = config if isinstance(config, dict) else {"architecture": config, "pretrained_cfg": {}}
            (path.parent / "config.json").write_text(json.dumps(content))
        architecture.check(models.create(network, **fields), source, path, "hf:timm/x")

    return call


@pytest.mark.parametrize(
    ("network", "file", "fields"),
    [
        ("resnet50", "resnet50-11ad3fa6.pth", {}),
        ("resnet50", "resnet50_a1_0-14fe96d1.pth", {}),
        ("resnet50", "wide_resnet50_2-9ba9bcbe.pth", {"width_per_group": 128}),
        ("resnet50", "tv_resnet50.pth", {}),
        ("resnet50", "resnet50_caffe-788b5fa3.pth", {"stride_in": "1x1"}),
        ("resnext50_32x4d", "resnext50_32x4d_a1h-0146ab0a.pth", {}),
        ("resnet50", "my_blur_experiment_resnet50.pth", {"stride_in": "1x1"}),
        ("resnet50", "experiment-resnetblur50.pth", {}),
        ("resnet50", "gn.pth", {}),
        ("resnet50", "best.pth", {"stride_in": "1x1"}),
        ("resnet50", "resnet50best.pth", {}),
        ("resnet50", "resnet50dogs.pth", {}),
        ("vgg11_lrn", "mine.pth", {}),
        ("vgg16_bn", "vgg16_bn-6c64b313.pth", {}),
        ("vgg16", "senet-like.pth", {}),
        ("resnet20_cifar", "resnet20-12fca82f.th", {}),
        ("resnet20_cifar", "cifar10_resnet20-4118986f.pt", {"shortcut": "B"}),
        ("plain20_cifar", "plain20.pth", {}),
        ("efficientnet_b0", "efficientnet_b0_ra-3dd342df.pth", {}),
        ("efficientnet_b0", "tf_efficientnet_b0_aa-827b6e33.pth", SAME),
        ("efficientnet_b0", "mine.pth", SAME),  # nothing tells which
        ("mobilenet_v2", "mobilenetv2_100_ra-b33bc2c4.pth", {}),
        ("inception_v3", "tf_inception_v3-e0069de4.pth", {}),
    ],
)
def test_names_that_say_this_network_or_nothing_pass(check, network, file, fields):
    check(network, file, **fields)


@pytest.mark.parametrize(
    ("network", "name", "reason"),
    [
        ("resnet18", "resnetblur18", "resnetblur18, .* blurs or averages where ours takes strides"),
        ("resnet50", "resnetaa50_a1h-4cf422b3", "resnetaa50, .* blurs or averages"),
        ("resnet50", "resnet50_lpf4_finetune-cad66808", "resnet50_lpf4, .* blurs"),
        ("resnet50", "resnetv2_50_a1h-000cdf49", "resnetv2_50, .* normalises before its convolutions"),
        ("resnet50", "resnet50v2", "resnet50v2, .* normalises before"),
        ("resnet20_cifar", "preact_resnet20", "preact_resnet20, .* normalises before"),
        ("resnet50", "resnetv2_50x1_bit_goog", "resnetv2_50x1_bit, .* standardises its kernels"),
        ("resnet50", "resnet50_ws", "resnet50_ws, .* standardises its kernels"),
        ("resnet50", "resnet50_gn_ws.pth", "resnet50_gn_ws, .* standardises its kernels"),
        ("resnet50", "resnet50d_ra2-464e36ba", "resnet50d, .* another stem or other shortcuts"),
        ("resnet50", "resnet50c", "resnet50c, .* another stem"),
        ("resnet50", "gluon_resnet50_v1s", "gluon_resnet50_v1s, .* another stem"),
        ("resnet50", "seresnet50_ra_224-8efdb4bb", "seresnet50, .* weighs channels"),
        ("resnext50_32x4d", "seresnext50_32x4d", "seresnext50, .* weighs channels"),
        ("resnet50", "legacy_seresnet50", "legacy_seresnet50, .* weighs channels"),
        ("resnet50", "ecaresnet50d", "ecaresnet50d?, .* weighs channels"),
        ("resnet50", "skresnet50", "skresnet50"),
        ("resnet50", "nf_resnet50", "nf_resnet50"),
        ("efficientnet_b1", "efficientnet_b1_pruned_9ebb3fe6", "efficientnet_b1_pruned, .* another normalisation or"),
        ("efficientnet_b0", "efficientnet_b0_gn", "efficientnet_b0_gn"),
        ("efficientnet_b0", "tf_efficientnet_lite0-0aa007d2", "tf_efficientnet_lite0"),
        ("efficientnet_b0", "efficientnetv2_rw_s", "efficientnetv2"),
        ("mobilenet_v1", "mobilenetv1_100h", "mobilenetv1_100h"),
        ("vgg16_bn", "vgg16_bn_lpf4", "vgg16_bn_lpf4"),
    ],
)
@pytest.mark.parametrize("source", ["torchvision", "timm"])
def test_what_no_network_here_computes_is_refused_by_name(check, network, name, reason, source):
    message = rf"hf:timm/x is of {reason}.*: no network here computes it\. If it is not, .* check_architecture=False\."
    with pytest.raises(UsageError, match=message):
        check(network, f"{name}.pth", source)
    with pytest.raises(UsageError, match=r"as config\.json says"):
        check(network, "x/model.safetensors", source, f"{name}.a1_in1k")
    with pytest.raises(UsageError, match="as its folder's name says"):
        check(network, f"{name}.in1k/model.safetensors", source)


@pytest.mark.parametrize(
    ("network", "file", "source", "fields", "needed"),
    [
        (
            "resnet50",
            "resnet50_gn_a1h2-8fe6c4d0.pth",
            "timm",
            {"norm": "group", "norm_groups": 32},
            "norm='group', norm_gr",
        ),
        ("resnet50", "resnet50_caffe.pth", "torchvision", {"stride_in": "1x1"}, "stride_in='1x1'"),
        ("efficientnet_b0", "tf_efficientnet_b0_aa-827b6e33.pth", "timm", SAME, "padding='SAME', epsilon=0.001"),
        ("efficientnet_b5", "efficientnet_b5.pth", "timm", {"epsilon": 1e-5}, "padding='half', epsilon=1e-05"),
        ("mobilenet_v1", "tf_mobilenetv1_100.pth", "timm", SAME, "padding='SAME', epsilon=0.001"),
        ("mobilenet_v2", "tf_mobilenet_v2.pth", "torchvision", SAME, "padding='SAME', epsilon=0.001"),
        ("plain20_cifar", "resnet20-12fca82f.th", "akamaster", {"shortcut": "A"}, "shortcut='A' or 'B'"),
        ("resnet20_cifar", "plain20.th", "akamaster", {"shortcut": "none"}, "shortcut='none'"),
        ("vgg11_lrn", "vgg11-8a719046.pth", "torchvision", {"lrn": False}, "lrn=False, pool='max'"),
    ],
)
def test_fields_that_a_name_asks_for_are_named_and_then_pass(check, network, file, source, fields, needed):
    with pytest.raises(UsageError, match=rf"as its name says, which has .*{needed}.* Give these fields\."):
        check(network, file, source)
    check(network, file, source, **fields)


def test_a_name_that_asks_for_the_default_refuses_other_fields(check):
    with pytest.raises(UsageError, match=r"is of resnet50, .* which has stride_in='3x3'.* has stride_in='1x1'"):
        check("resnet50", "resnet50-0676ba61.pth", "torchvision", stride_in="1x1")
    with pytest.raises(UsageError, match=r"efficientnet_b\* has padding='half', epsilon=1e-05 and tf_efficientnet_b\*"):
        check("efficientnet_b5", "mine.pth")
    check("efficientnet_b5", "efficientnet_b5_lukemelas-1a07897c.pth", "torchvision")
    with pytest.raises(UsageError, match=r"efficientnet_b0, as config.json says, which has padding='half'"):
        check("efficientnet_b0", config="efficientnet_b0", **SAME)


@pytest.mark.parametrize(
    "content", [{"model_name": "resnetblur50"}, {"arch": "resnetblur50"}, {"architecture": "resnetblur50"}]
)
def test_every_word_for_it_in_a_configuration_counts(check, content):
    with pytest.raises(UsageError, match=r"resnetblur50, as config\.json says"):
        check("resnet50", config=content)
    check("resnet50", "y/model.safetensors", config={"architecture": ["resnetblur50"], "note": "resnetblur50"})


@pytest.mark.parametrize("write", [zipped, legacy])
def test_a_training_checkpoint_says_it_in_words_or_among_its_arguments(tmp_path, write):
    model = models.create("resnet50")
    for content, where in (
        ({"arch": "resnetblur50"}, "its arch"),
        ({"args": argparse.Namespace(model="resnetblur50")}, r"its args\.model"),
        ({"args": {"arch": "resnetblur50"}}, r"its args\.arch"),
        ({"model_name": "timm/resnetblur50.bt_in1k"}, "its model_name"),
    ):
        path = write(tmp_path / "mine.pth", {"state_dict": state(TENSORS), **content})
        with pytest.raises(UsageError, match=f"mine is of resnetblur50, as {where} says"):
            architecture.check(model, "torchvision", path, "mine")


def test_the_header_of_safetensors_and_a_repository_of_the_cache_say_it(tmp_path):
    from safetensors.numpy import save_file

    model, path = models.create("resnet50"), tmp_path / "mine.safetensors"
    save_file(TENSORS, path, metadata={"format": "pt", "architecture": "resnetblur50"})
    with pytest.raises(UsageError, match="as its architecture says"):
        architecture.check(model, "torchvision", path, "mine")
    cached = tmp_path / "models--timm--resnetblur50.bt_in1k" / "snapshots" / "0a1b" / "model.safetensors"
    cached.parent.mkdir(parents=True)
    safetensors(cached, TENSORS)
    with pytest.raises(UsageError, match="as its repository's name says"):
        architecture.check(model, "torchvision", cached, "mine")


def test_the_way_past_a_name(tmp_path, toy):
    path = safetensors(tmp_path / "resnetblur50.safetensors", state_dict())
    with pytest.raises(UsageError, match="check_architecture=False"):
        weights.load(path, "toy")
    weights.load(path, "toy", check_architecture=False)


def test_names_of_classes_are_read_where_they_are_names(tmp_path):
    path = tmp_path / "model.safetensors"
    assert timm_config.class_names(path) == ()
    for content, expected in (({}, ()), ({"label_names": ["a", "b"]}, ("a", "b")), ({"label_names": [1]}, ())):
        (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": content}))
        assert timm_config.class_names(path) == expected
        (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": {}, **content}))
        assert timm_config.class_names(path) == expected
