"""Specs and numbers, written and read again."""

import dataclasses
import json

import flax.linen as nn
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnjax.cli.evidence import experiments
from cnnjax.cli.experiment import default_data
from cnnjax.data.catalog import DataConfig
from cnnjax.models.mlp import MLP
from cnnjax.sweep.plan import assign
from cnnjax.train.from_json import from_json
from cnnjax.train.spec import Hyper, Spec, digest, to_json
from cnnjax.typing import UsageError


def again(value, **options):
    """The value after its way through a file."""
    return from_json(type(value), json.loads(json.dumps(to_json(value))), **options)


class Nested(nn.Module):
    inner: nn.Module = MLP(hidden=(3,))
    act: object = nn.relu
    dtype: object = jnp.float32
    sizes: tuple = ((1, 2), (3,))
    label: str = "a:b"


numbers = st.floats(0, 1) | st.integers(0, 3)
MODELS = ["mlp", "resnet20_cifar", MLP(hidden=(4, 5)), Nested(), Nested(act=nn.gelu, label="no.such:x")]
FIELDS = [(8, 8), "batch", 3, 0.5, None, True, nn.tanh, (("stem", 2),), MLP()]
specs = st.fixed_dictionaries(
    {"model": st.sampled_from(MODELS), "steps": st.integers(1, 9)},
    optional={
        "model_fields": st.dictionaries(st.sampled_from(["hidden", "norm", "width"]), st.sampled_from(FIELDS)),
        "milestones": st.lists(st.floats(0, 1)).map(tuple),
        "augment": st.sampled_from([(), ("flip", "crop")]),
        "keep_outputs": st.booleans(),
    },
)
data = st.fixed_dictionaries(
    {"name": st.sampled_from(["digits", "folder:a:b", "tfds:mnist"])},
    optional={"image_size": st.none() | st.integers(8, 9), "classes": st.sampled_from([(), (1, 2)])},
)


@settings(max_examples=60)
@given(
    specs,
    data,
    st.fixed_dictionaries({}, optional={"learning_rate": numbers, "l2": numbers, "train_size": st.integers(0, 99)}),
)
def test_what_is_written_is_read_again(fields, data, numbers):
    fields |= {"model_fields": tuple(sorted(fields.get("model_fields", {}).items()))}
    spec, hyper = Spec(**fields, data=DataConfig(**data)), Hyper(**numbers)
    assert again(spec) == spec
    assert digest(again(spec)) == digest(spec)
    assert to_json(again(hyper)) == to_json(hyper)


@pytest.mark.parametrize("name", sorted(experiments()))
@pytest.mark.slow
def test_the_runs_of_every_experiment_are_read_again(name):
    module = experiments()[name]
    data = DataConfig(default_data(module))
    for preset in ("smoke", "quick", "paper") if hasattr(module, "grid") and hasattr(module, "spec") else ():
        spec, hyper = module.spec(preset, data), module.hyper(preset, data)
        for assignment in () if hasattr(module, "source") else module.grid(preset, data):
            found = assign(spec, hyper, assignment)
            assert tuple(map(again, found)) == found
            assert digest(again(found[0])) == digest(found[0])
        assert (again(spec), again(hyper)) == (spec, hyper)


def test_older_rows_lack_fields_and_newer_ones_have_others():
    assert from_json(Spec, {"steps": 3, "data": {"name": "shapes"}}) == Spec(steps=3, data=DataConfig("shapes"))
    assert from_json(Hyper, {}) == Hyper()
    with pytest.raises(UsageError, match=r"Unknown field of Spec 'stesp'\. Did you mean 'steps'"):
        from_json(Spec, {"stesp": 3})
    with pytest.raises(UsageError, match="Unknown field of DataConfig 'nam'"):
        from_json(Spec, {"data": {"nam": "digits"}})
    with pytest.raises(UsageError, match="Unknown field of MLP 'hiden'"):
        from_json(Spec, {"model": {"module": "cnnjax.models.mlp:MLP", "hiden": [3]}})


@pytest.mark.parametrize("name", ["no.such.module:Net", "cnnjax.models.mlp:Net", "os:getcwd", "os", ""])
def test_a_network_that_cannot_be_found_is_named(name):
    with pytest.raises(UsageError, match=f"The network .*{name}.* cannot be found"):
        from_json(Spec, {"model": {"module": name}})


def test_weights_are_known_by_their_content(tmp_path):
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for number, file in enumerate(files):
        file.write_bytes(b"weights %d" % number)
    spec = Spec(weights=str(files[1]))
    contents = {str(file): to_json(Spec(weights=str(file)))["weights"] for file in files}
    assert again(spec, weights=contents) == spec
    assert dataclasses.replace(again(Spec(), weights=contents)) == Spec()
    written = to_json(spec)
    with pytest.raises(UsageError, match="No file is known with the weights sha256:"):
        from_json(Spec, written)
    files[1].write_bytes(b"others")
    with pytest.raises(UsageError, match=r"b\.safetensors had it, and has it no more"):
        from_json(Spec, written, contents)
