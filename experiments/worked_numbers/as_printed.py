"""What the lectures print, as functions, where it is wrong."""

import numpy as np

Boxes = np.ndarray  # (A, 4): y1, x1, y2, x2


def strided_side(n: int, f: int, p: int, s: int) -> int:
    """floor((n + 2p - f + 1) / s) (S4:204)."""
    return (n + 2 * p - f + 1) // s


def same_side(n: int, f: int, p: int) -> int:
    """n - 2p - f + 1 (S4:188)."""
    return n - 2 * p - f + 1


def unfloored_side(n: int, f: int, p: int, s: int) -> float:
    """(n + 2p - f) / s + 1 (S1:814; S2:38)."""
    return (n + 2 * p - f) / s + 1


def overlap(box: np.ndarray, other: np.ndarray) -> float:
    """The intersection over the sum of both areas (S4:816)."""
    top_left, bottom_right = np.maximum(box[:2], other[:2]), np.minimum(box[2:], other[2:])
    intersection = np.prod(np.maximum(bottom_right - top_left, 0))
    return float(intersection / (np.prod(box[2:] - box[:2]) + np.prod(other[2:] - other[:2])))


def kept_by_overlap(overlaps: np.ndarray) -> int:
    """The box whose overlaps with the others are highest: "consider only the highest IoU" (S4:836-838).

    Args:
      overlaps: (A, A), of each box with each; a box with itself does not count.
    """
    others = overlaps - np.diag(np.diag(overlaps))
    return int(others.sum(1).argmax())


def localization(predicted: np.ndarray, true: np.ndarray) -> float:
    """The loss that branches on the predicted p_c (S4:701); NaN where that is neither 1 nor 0: it has no such case."""
    squares = (predicted - true) ** 2
    if predicted[0] == 1:
        return float(squares.sum())
    return float(squares[0]) if predicted[0] == 0 else float("nan")


def residual(own: np.ndarray, shortcut: np.ndarray) -> np.ndarray:
    """g(z[l+2] + z[l]), where z is what has not passed the activation (S4:446), and g is ReLU."""
    return np.maximum(own + shortcut, 0)


def verification_score(one: np.ndarray, other: np.ndarray, weights: np.ndarray, components: int = 12) -> float:
    """The sum over k = 1 ... 12 of w_k |F(one)_k - F(other)_k| (S4:1133), before the bias and the sigmoid."""
    return float((weights * np.abs(one - other))[:components].sum())


def style_matrix_shape(activations: np.ndarray) -> tuple[int, int]:
    """h_c x n_c, read as height by channels (S4:1219), of activations (H, W, C)."""
    return activations.shape[0], activations.shape[2]


def descended(start: float, slope: float, steps: int) -> float:
    """G <- G - dJ/dG (S4:1175), ``steps`` times, for J = slope G^2 / 2."""
    for _ in range(steps):
        start = start - slope * start
    return start


def summed(weights: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """The sum over i, u, v of w_ijk x_ijk (S0:233): j and k stay free, u and v only repeat. Not one number."""
    return np.einsum("ijk,ijk->jk", weights, inputs) * inputs.shape[1] * inputs.shape[2]
