import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.ops.boxes import area, iou, non_max_suppression
from cnnjax.typing import UsageError
from tests.fixtures.networks import jit

COUNT = 24
suppress = jit(non_max_suppression)
overlaps = jit(iou)


def random_boxes(seed, count=COUNT):
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(0, 6, (count, 2)), rng.uniform(1, 5, (count, 2))
    return np.concatenate([corner, corner + size], 1).astype(np.float32), rng.uniform(0.3, 1, count).astype(np.float32)


def plain_iou(a, b):
    height, width = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    areas = [max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1]) for box in (a, b)]
    union = sum(areas) - height * width
    return height * width / union if union > 0 else 0.0


def plain_suppression(boxes, scores, overlap=0.5, score=0.6, classes=None):
    """The lecture's algorithm as written (S4:842-852)."""
    remaining = [i for i in range(len(boxes)) if scores[i] > score]
    kept = []
    while remaining:
        best = max(remaining, key=lambda i: (scores[i], -i))
        kept.append(best)
        remaining = [
            i
            for i in remaining
            if i != best
            and not ((classes is None or classes[i] == classes[best]) and plain_iou(boxes[i], boxes[best]) >= overlap)
        ]
    return kept


def kept(found):
    indices, valid = map(np.asarray, found)
    assert np.all(indices[~valid] == -1)
    assert np.all(np.diff(valid.astype(int)) <= 0)  # the kept ones come first
    return indices[valid].tolist()


def test_the_lectures_overlaps():
    """S4:811-825. Identical boxes give 1 and not the printed 1/2; 2x2 squares half over each other 1/3, not 1/4."""
    boxes = jnp.array([[0.0, 0, 2, 2], [0, 1, 2, 3], [0, 2, 2, 4], [5, 5, 5, 5]])
    expected = [[1, 1 / 3, 0, 0], [1 / 3, 1, 1 / 3, 0], [0, 1 / 3, 1, 0], [0, 0, 0, 0]]
    found = overlaps(boxes, boxes)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_array_equal(area(boxes), [4, 4, 4, 0])
    assert (found[0] >= 0.5).tolist() == [True, False, False, False]  # "correct" (S4:820)


def test_overlaps_by_definition():
    (boxes, _), (others, _) = random_boxes(0), random_boxes(1)
    boxes[0, 2:] = boxes[0, :2] - 1  # inside out: no area
    found = np.asarray(overlaps(boxes, others))
    expected = [[plain_iou(a, b) for b in others] for a in boxes]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert not found[0].any()


def test_overlaps_do_not_depend_on_place_and_scale():
    (boxes, _), (others, _) = random_boxes(0), random_boxes(1)
    plain = overlaps(boxes, others)
    np.testing.assert_allclose(overlaps(3 * boxes - 7, 3 * others - 7), plain, atol=1e-5)
    np.testing.assert_allclose(overlaps(others, boxes), plain.T, atol=1e-6)


def test_overlap_as_a_loss_moves_a_box_towards_the_true_one():  # S2:454
    true = jnp.array([[0.0, 0, 3, 2]])
    slope = jit(jax.grad(lambda box, other: 1 - iou(box, other)[0, 0]))
    # By hand, of 1 - 1/7: a part of the true box is missing above, below and on the left; on the right is too much.
    np.testing.assert_allclose(slope(jnp.array([[1.0, 1, 2, 3]]), true)[0], [6 / 49, 1 / 7, -6 / 49, 1 / 49], rtol=1e-5)
    assert np.all(np.isfinite(slope(jnp.zeros((1, 4)), jnp.zeros((1, 4)))))


@pytest.mark.parametrize("seed", range(4))
def test_suppression_is_the_lectures_algorithm(seed):
    boxes, scores = random_boxes(seed)
    assert kept(suppress(boxes, scores)) == plain_suppression(boxes, scores)
    classes = np.random.default_rng(seed).integers(0, 3, COUNT).astype(np.int32)
    found = kept(suppress(boxes, scores, classes=classes))
    assert found == plain_suppression(boxes, scores, classes=classes)
    assert len(found) > len(plain_suppression(boxes, scores))


def test_the_order_of_the_boxes_is_of_no_matter():
    boxes, scores = random_boxes(5)
    order = np.random.default_rng(0).permutation(COUNT)
    there = kept(suppress(boxes[order], scores[order]))
    assert order[there].tolist() == kept(suppress(boxes, scores))


def test_the_best_score_is_kept_and_not_the_largest_overlap():
    """S4:836-838 says "the highest IoU" in prose; its algorithm, rightly, keeps the highest p_c."""
    boxes = np.zeros((COUNT, 4), np.float32)
    boxes[:3] = [[0, 0, 4, 4], [0, 0, 4, 5], [0, 0, 4, 6]]  # the middle one overlaps both others most
    scores = np.zeros(COUNT, np.float32)
    scores[:3] = [0.7, 0.8, 0.9]
    assert kept(suppress(boxes, scores)) == [2]


def test_equal_scores_go_to_the_lower_index_and_limits_are_sharp():
    boxes, scores = np.zeros((COUNT, 4), np.float32), np.full(COUNT, 0.6, np.float32)
    boxes[:4] = [[0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 1, 2], [4, 4, 5, 5]]
    scores[:4] = [0.9, 0.9, 0.8, 0.7]
    assert kept(suppress(boxes, scores)) == [0, 3]  # 0.6 is dropped, and so is an overlap of exactly 1/2
    assert kept(non_max_suppression(jnp.asarray(boxes), jnp.asarray(scores), 0.6)) == [0, 2, 3]


def test_a_limit_a_batch_and_nothing_to_keep():
    boxes, scores = (np.stack(part) for part in zip(random_boxes(0), random_boxes(1), strict=True))
    scores[1] = 0
    found = jax.vmap(lambda *args: non_max_suppression(*args, limit=3))(boxes, scores)
    assert kept([part[0] for part in found]) == plain_suppression(boxes[0], scores[0])[:3]
    assert kept([part[1] for part in found]) == []
    assert found[0].shape == (2, 3)


def test_what_does_not_fit_is_refused(unchecked):
    boxes, scores = jnp.zeros((3, 4)), jnp.zeros(3)
    with pytest.raises(UsageError, match=r"Boxes must be of shape \(A, 4\).*not \(3, 5\)"):
        iou(jnp.zeros((3, 5)), boxes)
    with pytest.raises(UsageError, match=r"shape \(A, 4\).*not \(4,\)"):
        non_max_suppression(boxes[0].repeat(4)[:4], scores)
    with pytest.raises(UsageError, match=r"3 boxes need scores of shape \(3,\), not \(2,\)"):
        non_max_suppression(boxes, scores[:2])
    with pytest.raises(UsageError, match=r"classes of shape \(3,\), not \(1,\)"):
        non_max_suppression(boxes, scores, classes=jnp.zeros(1, int))
    with pytest.raises(UsageError, match="overlap=0"):
        non_max_suppression(boxes, scores, overlap=0.0)
    for limit, count in ((0, 3), (2, 0)):
        with pytest.raises(UsageError, match=f"limit={limit} of {count} boxes"):
            non_max_suppression(boxes[:count], scores[:count], limit=limit)
    with pytest.raises(UsageError, match=r"Boxes must be of shape \(..., 4\)"):
        area(jnp.zeros((2, 3)))
