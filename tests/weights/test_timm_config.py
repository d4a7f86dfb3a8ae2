import json
import re

import pytest

from cnnjax import models
from cnnjax.typing import UsageError
from cnnjax.weights import timm_config


@pytest.fixture
def check(tmp_path):
    """check(name, architecture, **fields): a network with timm's weights; the file's name, or the configuration."""

    def call(network, file="model.safetensors", architecture=None, **fields):
        (tmp_path / "config.json").unlink(missing_ok=True)
        if architecture:
            content = {"architecture": architecture, "pretrained_cfg": {}}
            (tmp_path / "config.json").write_text(json.dumps(content))
        timm_config.check(models.create(network, **fields), tmp_path / file, "hf:timm/x")

    return call


SAME = {"padding": "SAME", "epsilon": 1e-3}


def test_networks_that_compute_the_same_pass(check):
    check("resnet18", architecture="resnet18")
    check("efficientnet_b0")
    check("efficientnet_b0", architecture="efficientnet_b0")
    check("efficientnet_b0", architecture="tf_efficientnet_b0", **SAME)
    check("efficientnet_b0", "tf_efficientnet_b0_aa-827b6e33.pth", **SAME)
    check("efficientnet_b0", "mine.pth", **SAME)  # nothing tells which
    check("efficientnet_b5", epsilon=1e-5)


@pytest.mark.parametrize(
    ("arguments", "fields", "message"),
    [
        (
            ("efficientnet_b0", "model.safetensors", "tf_efficientnet_b0"),
            {},
            "hf:timm/x is of timm, where tf_efficientnet_b0 has padding='SAME', epsilon=0.001. This network has "
            "padding='half', epsilon=1e-05. Give these fields.",
        ),
        (("efficientnet_b0", "tf_efficientnet_b0_aa-827b6e33.pth"), {}, "has padding='SAME', epsilon=0.001."),
        (("efficientnet_b0", "x.bin", "efficientnet_b0"), SAME, "efficientnet_b0 has padding='half', epsilon=1e-05."),
        (("efficientnet_b5",), {}, "efficientnet_b* has padding='half', epsilon=1e-05 and tf_efficientnet_b* has"),
        (("resnet18", "x.bin", "resnetblur18"), {}, "resnetblur18, which differs from ResNet in its pooling"),
        (("resnet50", "resnetaa50_a1h-4cf422b3.pth"), {}, "resnetaa50_a1h-4cf422b3, which differs"),
    ],
)
def test_networks_of_the_same_keys_that_compute_something_else(check, arguments, fields, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        check(*arguments, **fields)


def test_names_of_classes_are_read_where_they_are_names(tmp_path):
    path = tmp_path / "model.safetensors"
    assert timm_config.class_names(path) == ()
    for content, expected in (({}, ()), ({"label_names": ["a", "b"]}, ("a", "b")), ({"label_names": [1]}, ())):
        (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": content}))
        assert timm_config.class_names(path) == expected
        (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": {}, **content}))
        assert timm_config.class_names(path) == expected
