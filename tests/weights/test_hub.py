import json
from types import SimpleNamespace

import pytest

from cnnjax import tree, weights
from cnnjax.typing import UsageError
from cnnjax.weights import hub
from tests.fixtures.torch_files import safetensors, state, zipped
from tests.fixtures.toy import state_dict

errors = pytest.importorskip("huggingface_hub.errors")
constants = pytest.importorskip("huggingface_hub.constants")


class Hub:
    """Stands in for huggingface_hub: which files are in the cache, which on the hub, and what was asked."""

    constants = SimpleNamespace(HF_HUB_OFFLINE=False, ENDPOINT="http://localhost:1")
    errors = errors

    def __init__(self, folder, cached=(), remote=()):
        self.folder, self.cached, self.remote, self.asked = folder, set(cached), set(remote), []

    def hf_hub_download(self, repository, name, local_files_only=False, etag_timeout=None):
        self.asked.append((repository, name, local_files_only))
        if name in self.cached:
            return str(self.folder / name)
        if local_files_only:
            raise errors.LocalEntryNotFoundError("not here")
        assert etag_timeout <= 10
        if name not in self.remote:
            raise errors.EntryNotFoundError("404")
        self.cached.add(name)
        return str(self.folder / name)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """repository(cached=..., remote=..., reachable=...): the hub, whose files are of the toy network."""
    safetensors(tmp_path / "model.safetensors", state_dict())
    zipped(tmp_path / "pytorch_model.bin", state(state_dict()))
    zipped(tmp_path / "other.pth", state(state_dict()))
    (tmp_path / "config.json").write_text('{"pretrained_cfg": {"input_size": [3, 160, 160], "crop_pct": 0.95}}')

    def make(reachable=True, **files):
        fake = Hub(tmp_path, **files)
        monkeypatch.setattr(hub, "_hub", lambda: fake)
        monkeypatch.setattr(hub, "_reachable", lambda _: reachable)
        return fake

    return make


@pytest.fixture
def expected(toy):
    return tree.digest(weights.convert(state_dict(), toy))


@pytest.mark.parametrize(
    ("remote", "address", "name"),
    [
        (("model.safetensors", "pytorch_model.bin", "config.json"), "hf:timm/toy", "model.safetensors"),
        (("pytorch_model.bin",), "hf:timm/toy", "pytorch_model.bin"),
        (("other.pth",), "hf:timm/toy/other.pth", "other.pth"),
    ],
)
def test_weights_come_from_the_hub_and_then_from_the_cache(repository, expected, remote, address, name):
    fake = repository(remote=remote)
    assert tree.digest(weights.load(address, "toy")) == expected
    assert ("timm/toy", name, False) in fake.asked
    fake.asked.clear()
    assert hub.fetch(address).name == name
    assert all(local for _, asked, local in fake.asked if asked == name)


def test_the_cache_needs_no_network(repository, expected):
    repository(reachable=False, cached=("model.safetensors",))
    assert tree.digest(weights.load("hf:timm/toy", "toy")) == expected


def test_the_preprocessing_comes_with_the_weights(repository, toy):
    repository(remote=("model.safetensors", "config.json"))
    steps = weights.preprocessing_of("toy", "timm", "hf:timm/toy")
    assert (steps.resize, steps.crop) == (168, 160)


@pytest.mark.parametrize(
    ("address", "files", "message"),
    [
        ("hf:timm/toy", {"reachable": False}, "hf:timm/toy is not in the local cache, and the hub cannot be reached"),
        (
            "hf:timm/toy",
            {},
            "has no file model.safetensors or pytorch_model.bin or .*index.json. Add the file's name: hf:timm/toy/NAME",
        ),
        ("hf:timm/toy/x.pth", {}, "has no file x.pth"),
        ("hf:toy", {}, "'hf:toy' is no address. Write hf:organisation/repository"),
        ("hf:", {}, "is no address"),
        ("hf:a//b", {}, "is no address"),
        ("hf:../x/y", {}, "is no address"),
    ],
)
def test_what_cannot_be_fetched(repository, toy, address, files, message):
    repository(**files)
    with pytest.raises(UsageError, match=message):
        weights.load(address, "toy")


def test_the_hubs_own_errors_are_told(repository, toy, monkeypatch):
    fake = repository()

    def refuse(repository, name, local_files_only=False, etag_timeout=None):
        if local_files_only:
            raise errors.LocalEntryNotFoundError("not here")
        raise OSError("no space left\nand more")

    monkeypatch.setattr(fake, "hf_hub_download", refuse)
    with pytest.raises(UsageError, match=r"hf:timm/toy/x.pth cannot be fetched: no space left$"):
        weights.load("hf:timm/toy/x.pth", "toy")


def test_the_real_package_offline(monkeypatch, tmp_path, toy):
    """With nothing in the cache and no network the answer comes at once."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="is not in the local cache, and the hub cannot be reached"):
        weights.load("hf:timm/toy", "toy")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")  # nobody listens there
    with pytest.raises(UsageError, match="is not in the local cache, and the hub cannot be reached"):
        weights.load("hf:timm/toy", "toy")


def test_the_files_that_an_index_lists_come_with_it(repository, tmp_path, expected):
    tensors, keys = state_dict(), list(state_dict())
    parts = {f"part-{n}.safetensors": keys[n::2] for n in range(2)}
    for name, part in parts.items():
        safetensors(tmp_path / name, {key: tensors[key] for key in part})
    content = {"weight_map": {key: name for name, part in parts.items() for key in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(content))
    fake = repository(remote=("model.safetensors.index.json", *parts))
    assert tree.digest(weights.load("hf:timm/toy", "toy")) == expected
    assert set(parts) <= {name for _, name, _ in fake.asked}
