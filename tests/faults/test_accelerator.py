"""What a row says of the bits of an accelerator; more: ``python -m benchmarks.faults --only=accelerator``."""

import pytest

from cnnjax.sweep.bundle import deterministic_operations, signature
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
def test_rows_of_a_gpu_say_whether_their_bits_repeat(flags, expected, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", flags)
    assert deterministic_operations(flags) is expected
    spec = Spec(model="mlp", model_fields=(("hidden", (8,)),), steps=1, batch_size=16)
    (bundle,) = plan(points(spec, Hyper(), ({},), [0]), "cpu").bundles
    assert signature(bundle, 1, "gpu", "any")["deterministic"] is expected
    assert "deterministic" not in signature(bundle, 1, "cpu", "cpu")
