"""What a row says of the bits of an accelerator; more: ``python -m benchmarks.faults --only=accelerator``."""

import os

import pytest

from cnnjax.sweep.bundle import compiler_flags, deterministic_operations, signature
from cnnjax.sweep.plan import plan, points
from cnnjax.train import Hyper, Spec


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", False),
        ("--xla_gpu_deterministic_ops=true", True),
        ("--xla_gpu_deterministic_ops --xla_dump_to=/x", True),
        ("--xla_gpu_exclude_nondeterministic_ops=1", True),
        ("--xla_gpu_deterministic_ops=true --xla_gpu_deterministic_ops=false", False),
        ("--xla_gpu_autotune_level=0", False),
    ],
)
def test_whether_bits_repeat_follows_from_the_flags(flags, expected):
    assert deterministic_operations(flags) is expected


def test_rows_of_a_gpu_say_whether_their_bits_repeat():
    spec = Spec(model="mlp", model_fields=(("hidden", (8,)),), steps=1, batch_size=16)
    (bundle,) = plan(points(spec, Hyper(), ({},), [0]), "cpu").bundles
    assert signature(bundle, 1, "gpu", "any")["deterministic"] is False
    assert "deterministic" not in signature(bundle, 1, "cpu", "cpu")


def test_flags_that_may_change_bits_are_part_of_the_signature():
    flags = " --xla_force_host_platform_device_count=4 --xla_dump_to=/x --b=2  --a=1"
    assert compiler_flags(flags) == "--a=1 --b=2"
    assert compiler_flags("") == ""
    spec = Spec(model="mlp", model_fields=(("hidden", (8,)),), steps=1, batch_size=16)
    (bundle,) = plan(points(spec, Hyper(), ({},), [0]), "cpu").bundles
    assert signature(bundle, 1, "cpu", "cpu").get("flags", "") == compiler_flags(os.environ.get("XLA_FLAGS", ""))
