"""Synthetic rows, of the shape that the store returns."""

import math

import numpy as np
import pytest

POINTS = 20  # evaluations of a finished run
FINAL_ERRORS = {"plain8": 0.03, "plain20": 0.12, "plain44": 0.62, "res8": 0.02, "res20": 0.02, "res44": 0.03}
DECAYS = (0.0, 1e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2)


def _history(train, valid, seed, length):
    noise = np.random.default_rng(seed).normal(0, 0.012, (2, POINTS))
    noise[:, -1] = 0  # the last point is the final metric

    def error(final, i, split):
        return min(max(final + (0.9 - final) * math.exp(-5 * (i + 1) / POINTS) + noise[split, i], 0.0), 1.0)

    return [
        {
            "step": 10 * (i + 1),
            "images": 1280 * (i + 1),
            "batch_loss": 2.0,
            "train_error": error(train, i, 0),
            "train_loss": 2.3 * error(train, i, 0),
            "valid_error": error(valid, i, 1),
        }
        for i in range(length)
    ]


def _row(assignment, seed, train=0.1, valid=0.2, status="done", error=None):
    name = "-".join(map(str, assignment.values()))
    done = status == "done"
    return {
        "run_id": f"run-{name}-{seed}",
        "assignment": assignment,
        "seed": seed,
        "spec": {"model": {"width": 8}},
        "hyper": {"learning_rate": 0.1},
        "status": status,
        "diverged_step": 61 if status == "diverged" else None,
        "error": error,
        "metrics": {"train_error": train, "valid_error": valid, "test_error": valid} if done else {},
        "history": _history(train, valid, seed, {"done": POINTS, "diverged": 6, "failed": 0}[status]),
        "signature": {"driver": "loop", "lanes": 1, "spec": assignment.get("model", "lenet5")},
        "signature_digest": f"signature-{assignment.get('model', 'lenet5')}",
        "parameters_digest": f"parameters-{name}-{seed}" if done else None,
        "program": f"program-{assignment.get('model', 'lenet5')}",
        "compile_seconds": 4.0 if seed == 0 else 0.0,
        "seconds": 9.0,
        "images_per_second": 3000.0,
        "worker": 0,
    }


@pytest.fixture
def make_row():
    """``make_row(assignment, seed, train=, valid=, status=, error=)``: one run."""
    return _row


@pytest.fixture
def depth_rows():
    """Plain and residual nets of three depths, five seeds each."""
    return [
        _row({"model": model}, seed, error * (0.8 + 0.1 * seed), error + 0.05 + 0.01 * (seed % 3))
        for model, error in FINAL_ERRORS.items()
        for seed in range(5)
    ]


@pytest.fixture
def decay_rows():
    """Seven values of l2, three seeds each; the largest diverges at two of its seeds."""
    return [
        _row(
            {"l2": l2},
            seed,
            train=0.02 + 0.06 * place + 0.01 * seed,
            valid=0.30 - 0.04 * place + 0.007 * place**2 + 0.01 * (seed - 1) * (1 + place % 2),
            status="diverged" if l2 == 1e-2 and seed else "done",
        )
        for place, l2 in enumerate(DECAYS)
        for seed in range(3)
    ]
