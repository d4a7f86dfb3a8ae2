import functools
import os
import subprocess
import sys
import textwrap

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models
from cnnjax.data.catalog import DataConfig, describe
from cnnjax.train.lowered import digests, settings
from cnnjax.train.program import Driver
from cnnjax.train.spec import Spec

NET = """
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import helper

SCALE = np.linspace(0, 1, 50_000).astype(np.float32)


@jax.custom_vjp
def square(x):
    return x * x


square.defvjp(lambda x: (x * x, x), lambda x, g: (2 * x * g,))


class Net(nn.Module):
    width: int = 2

    @nn.compact
    def __call__(self, images, train=False):
        x = square(helper.activation(nn.Dense(self.width, name="first")(images.reshape(len(images), -1))))
        if not train:
            x = x * 1.0
        return nn.Dense(10)(x) + SCALE[1:11]
"""
HELPER = "import flax.linen as nn\n\n\ndef activation(x):\n    return nn.relu(x)\n"
ASK = """
import json, sys
sys.path.insert(0, sys.argv[1])
from net import Net
from cnnjax.data.catalog import DataConfig, describe
from cnnjax.train.lowered import digests
from cnnjax.train.program import Driver
from cnnjax.train.spec import Spec

specs = [Spec(model=Net(width), steps=3, batch_size=4, keep_outputs=True) for width in (2, 3)]
asked = [(spec, Driver(form, lanes)) for spec in specs for form, lanes in (("scan", 1), ("loop", 3))]
found = {}
for spec, driver in asked[:: int(sys.argv[2])]:
    found[f"{spec.model.width} {driver.form}"] = digests(spec, describe(spec.data), driver)
print(json.dumps(found, sort_keys=True))
"""


def info():
    return describe(DataConfig())


def asked(folder, order=1, hash_seed="0"):
    """What another process says of the network there."""
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(folder), str(order)],
        env={**os.environ, "PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, check=True, timeout=200,
    )  # fmt: skip
    return done.stdout


@pytest.mark.slow
def test_processes_orders_and_hash_seeds_agree_and_edits_do_not(tmp_path):
    def write(net=NET, helper=HELPER):
        (tmp_path / "net.py").write_text(textwrap.dedent(net))
        (tmp_path / "helper.py").write_text(helper)

    write()
    first = asked(tmp_path)
    assert asked(tmp_path, order=-1, hash_seed="7") == first
    write(NET.replace("class Net", "# a remark\nclass Net"), HELPER.replace("\n\n\n", "\n\n\n# a remark\n"))
    assert asked(tmp_path) == first


def changes(before, after):
    """The parts of the program of a module that differ from another's."""
    spec = Spec(steps=3, batch_size=4, keep_outputs=True, model=before)
    one, other = (
        digests(Spec(**{**vars_of(spec), "model": each}), info(), Driver("scan", 1)) for each in (before, after)
    )
    return {part for part in one if one[part] != other[part]}


def vars_of(spec):
    return {"steps": spec.steps, "batch_size": spec.batch_size, "keep_outputs": spec.keep_outputs}


class Net(nn.Module):
    """A dense net with a part for each kind of change."""

    scale: tuple = (1.0,)
    evaluated: float = 1.0
    drawn: object = nn.initializers.lecun_normal()
    through: object = staticmethod(lambda x: x)

    @nn.compact
    def __call__(self, images, train=False):
        x = self.through(nn.Dense(10, kernel_init=self.drawn)(images.reshape(len(images), -1)))
        return x * jnp.asarray(self.scale)[0] * (1.0 if train else self.evaluated)


@jax.custom_vjp
def doubled_backwards(x):
    return x


doubled_backwards.defvjp(lambda x: (x, None), lambda _, g: (2 * g,))


@functools.partial(jax.custom_vjp)
def as_it_is(x):
    return x


as_it_is.defvjp(lambda x: (x, None), lambda _, g: (g,))


def in_python(x):
    return jax.pure_callback(
        lambda y: np.asarray(y), jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="sequential"
    )


@pytest.mark.slow
def test_each_part_of_a_program_has_a_digest_of_its_own():
    every = {"initial_state", "step", "evaluation", "outputs"}
    assert changes(Net(), Net()) == set()
    assert changes(Net(), Net(scale=(2.0,))) == every - {"initial_state"}
    assert changes(Net(), Net(evaluated=0.5)) == {"evaluation", "outputs"}
    assert changes(Net(), Net(drawn=nn.initializers.zeros)) == {"initial_state"}
    assert changes(Net(through=as_it_is), Net(through=doubled_backwards)) == {"step"}


def test_what_is_cnnjaxs_own_is_proven_by_its_sources():
    assert digests(Spec(model="resnet8_cifar"), info(), Driver()) == {}
    assert digests(Spec(model=models.create("mlp", num_classes=10)), info(), Driver()) == {}


def test_a_network_of_others_is_lowered_by_any_name(monkeypatch):
    entry = models.MODELS["mlp"]
    foreign = lambda **fields: entry.build(**fields)  # noqa: E731
    monkeypatch.setitem(models.MODELS, "mlp", type(entry)(foreign, entry.image_shape, entry.year))
    assert set(digests(Spec(model="mlp"), info(), Driver())) == {"initial_state", "step", "evaluation"}


def test_settings_of_jax_are_told():
    assert "enable_x64=False" in settings()
    with jax.default_matmul_precision("float32"):
        assert "default_matmul_precision=float32" in settings()
