"""What training scripts keep beside the weights is described, never made; and what it says in words is found."""

import argparse
import collections
import datetime
import pathlib
import types

import numpy as np
import pytest

from cnnjax.weights import torch_file
from cnnjax.weights.unpickle import RECORDS
from tests.fixtures.torch_files import legacy, state, tensor, zipped

WRITERS = pytest.mark.parametrize("write", [zipped, legacy], ids=["zip", "legacy"])
BASE = np.arange(12, dtype=np.float32)


def checkpoint():
    """As torchvision's own script writes it, and with more kinds of objects than that has."""
    arguments = argparse.Namespace(
        model="resnet50", lr=np.float64(0.1), classes=np.int64(10), kind=np.dtype("float32"), mean=np.arange(3.0),
        output=pathlib.PurePosixPath("a/b"), tags={"x", "y"}, more=types.SimpleNamespace(deep=[1]), window=slice(1, 2),
        started=datetime.datetime(2026, 1, 1), raw=b"\x00\xff", buffer=bytearray(b"z"), kept=tensor(BASE[:2], "8"),
    )  # fmt: skip
    return {
        "model": state({"w": BASE, "b": BASE[:3]}),
        "optimizer": {"state": {0: {"step": np.float32(3), "average": tensor(BASE, "9")}}, "rates": {0.5: None}},
        "lr_scheduler": {
            "milestones": collections.Counter([30, 60]),
            "last": collections.defaultdict(list, {"a": [1]}),
        },
        "epoch": np.int64(7),
        "arch": "resnet50",
        "args": arguments,
    }


@WRITERS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_lies_beside_the_weights_is_passed_over(tmp_path, write, protocol):
    if write is legacy and protocol > 2:
        pytest.skip("the old format has protocol 2")
    options = {"protocol": protocol} if write is zipped else {}
    path = write(tmp_path / "a.pth", checkpoint(), **options)
    found = torch_file.read(path)
    assert list(found) == ["w", "b"]
    np.testing.assert_array_equal(found["w"], BASE)
    assert torch_file.texts(path) == {"arch": "resnet50", "args.model": "resnet50"}


def test_arguments_may_be_a_dictionary(tmp_path):
    objects = {
        "state_dict": state({"w": BASE}),
        "hyper_parameters": {"arch": "vgg16", "lr": 0.1},
        "other": {"arch": "x"},
    }
    assert torch_file.texts(zipped(tmp_path / "a.pth", objects)) == {"args.arch": "vgg16"}


def test_nothing_that_stands_for_an_object_can_run_code_or_reach_other_objects():
    """Each of these is a type of data, or makes one; a name that is added here must be, too."""
    known = {name for names in RECORDS.values() for name in names}
    assert not known & {"eval", "exec", "getattr", "setattr", "apply", "map", "partial", "open", "system", "type"}
    assert not any(module.split(".")[0] in ("os", "posix", "nt", "subprocess", "functools") for module in RECORDS)


def test_torchs_own_checkpoints(tmp_path):
    torch = pytest.importorskip("torch")
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
    objects = {
        "model": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": scheduler.state_dict(),
        "epoch": 3,
        "args": argparse.Namespace(
            model="resnet18", device=torch.device("cpu"), dtype=torch.float32, best=np.float32(1)
        ),
    }
    for options in ({}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}):
        torch.save(objects, tmp_path / "a.pth", **options)
        found = torch_file.read(tmp_path / "a.pth")
        np.testing.assert_array_equal(found["weight"], network.weight.detach().numpy())
        assert torch_file.texts(tmp_path / "a.pth") == {"args.model": "resnet18"}
