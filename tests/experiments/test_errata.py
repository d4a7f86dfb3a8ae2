"""What the lectures have wrong, rows 351 to 381 of lectures.csv: the printed version fails, the right one holds.

``errata.ERRATA`` has one example of each for the table of ``python -m experiments.worked_numbers --errata``; the test
of an erratum checks that example and shows more. Pure history cannot be computed: there the test says so, and checks
what this project itself states.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import losses, models
from cnnjax.data import DataConfig
from cnnjax.models import alexnet, neocognitron
from cnnjax.models.neocognitron import SCells
from cnnjax.nn import initializer
from cnnjax.ops.boxes import iou, non_max_suppression
from cnnjax.ops.correlate import convolve, correlate
from cnnjax.ops.lrn import local_response_norm
from cnnjax.ops.pool import average_pool, max_pool
from cnnjax.typing import UsageError
from experiments import degradation, lectures, overfitting
from experiments.worked_numbers import as_printed, errata, layers, s1, s2, s4
from experiments.worked_numbers.layers import compiled
from experiments.worked_numbers.number import outcome
from experiments.worked_numbers.values import same, show

ERRATA = {number.row: number for number in errata.ERRATA}
ROWS = {row.row: row for row in lectures.read() if row.kind == "erratum"}


def check(row):
    """The entry's right value comes out, and the printed one is another; returns what came of it."""
    found = outcome(ERRATA[row])
    assert same(found.computed, found.number.right), f"{show(found.computed)} is not {show(found.number.right)}"
    assert found.verdict == "erratum"
    return found


def test_every_erratum_has_an_entry_and_a_test():
    names = [name for name in globals() if re.match(r"test_\d+_", name)]
    assert [int(name.split("_")[1]) for name in names] == list(ERRATA) == list(ROWS) == list(range(351, 382))


def test_351_output_size_of_a_strided_convolution():  # S4:204
    check(351)
    sizes = [(n, f, p, s) for n in (7, 8) for f in (2, 3) for p in (0, 1) for s in (1, 2, 3)]
    wrong = [size for size in sizes if as_printed.strided_side(*size) != layers.side_after(*size)]
    assert wrong
    assert all(size[3] > 1 for size in wrong)  # with stride 1 the two are the same
    assert as_printed.strided_side(227, 11, 0, 4) == 54  # AlexNet's 55


def test_352_same_padding_adds():  # S4:188
    check(352)
    for f in (3, 5, 7):
        p = (f - 1) // 2
        assert layers.side_after(9, f, p) == 9
        assert as_printed.same_side(9, f, p) == 9 - 2 * (f - 1)


def test_353_union_counts_the_intersection_once():  # S4:816
    check(353)
    boxes = np.array([[0, 0, 2, 2], [0, 1, 2, 3], [5, 5, 6, 6]], np.float32)
    found = np.asarray(compiled(iou)(boxes, boxes))[0]
    np.testing.assert_allclose(found, [1, 2 / 6, 0], rtol=1e-6)
    # By the slide no prediction whatever reaches the 0.5 that counts as correct, but the perfect one.
    assert [as_printed.overlap(boxes[0], box) for box in boxes] == [0.5, 2 / 8, 0]


def test_354_suppression_keeps_the_most_probable_box():  # S4:836-838
    check(354)
    kept = errata.kept()
    assert errata.PROBABILITIES[kept[0]] == errata.PROBABILITIES.max()
    by_overlap = as_printed.kept_by_overlap(errata.overlaps())
    assert errata.PROBABILITIES[by_overlap] == errata.PROBABILITIES.min()  # the prose keeps the least probable of all
    # And it depends on no probability: the right one does.
    indices, meant = compiled(non_max_suppression)(errata.BOXES, errata.PROBABILITIES[::-1].copy())
    assert np.asarray(indices)[np.asarray(meant)].tolist() == [2]


def test_355_localization_branches_on_the_true_probability():  # S4:701
    found = check(355)
    assert found.printed == 1  # a missed object costs nothing but its p_c, whatever the box
    loss = compiled(losses.localization)
    background = np.array([0, *[np.nan] * 7], np.float32)  # where there is no object the rest means nothing
    imagined = np.array([1, 0.1, 0.2, 0.9, 0.9, 0, 1, 0], np.float32)
    assert loss(imagined[None], background[None]) == 1
    assert np.isnan(as_printed.localization(imagined, background))
    # A net's p_c is hardly ever exactly 0 or 1: then the printed formula has no case at all.
    unsure = np.array([0.5, *errata.PREDICTED[1:]], np.float32)
    assert np.isnan(as_printed.localization(unsure, errata.TRUE))
    assert np.isfinite(loss(unsure[None], errata.TRUE[None])).all()


def test_356_edge_matrix():  # S4:39-51
    computed = check(356).computed["all"]
    assert computed.shape == (4, 4)
    products = s4.IMAGE[:3, :3] * s4.VERTICAL  # the nine products of S4:51, which are printed right
    assert products.sum() == computed[0, 0] == -5
    # The spurious first row apart, one sign is wrong.
    assert s4.PRINTED_EDGES.shape == (5, 4)
    assert np.argwhere(s4.PRINTED_EDGES[1:] != computed).tolist() == [[2, 2]]
    assert (s4.PRINTED_EDGES[3, 2], computed[2, 2]) == (4, -4)


def test_357_residual_adds_the_activation():  # S4:446
    check(357)
    z = s4.ACTIVATIONS
    np.testing.assert_array_equal(as_printed.residual(np.zeros_like(z), z), [[0, 0, 0, 1, 2]])  # not z, as printed
    activation = np.maximum(z, 0)
    np.testing.assert_array_equal(s4.zeroed_block(activation), activation)  # the identity on a = g(z)


def test_358_faces_have_128_components():  # S4:1133
    # That FaceNet's encodings have 128 numbers is the paper's; a sum over 12 ignores the others.
    found = check(358)
    assert found.printed["score"] == 0
    assert found.computed["score"] > 0


def test_359_style_matrix_is_channels_by_channels():  # S4:1219
    check(359)
    activations = np.random.default_rng(0).standard_normal((4, 5, 3)).astype(np.float32)
    gram = np.asarray(compiled(losses.gram_matrix)(activations[None]))[0]
    np.testing.assert_allclose(gram, np.einsum("ijk,ijl->kl", activations, activations), rtol=1e-4)  # S4:1223
    assert gram.shape != as_printed.style_matrix_shape(activations)


def test_360_gradient_descent_needs_a_rate():  # S4:1175
    found = check(360)
    assert found.printed > 1e5  # 2 to the power of 20
    assert found.computed < 1e-3
    assert errata.style_descent(1.0) == pytest.approx(found.printed)  # the printed step is ours at a rate of 1


def test_361_lrn_is_its_name():  # S4:388
    check(361)
    with pytest.raises(UsageError, match="Did you mean 'vgg11_lrn'"):
        models.create("vgg11_lru")
    assert models.fields("vgg11_lrn")["lrn"] is True


def test_362_outputs_have_as_many_channels_as_there_are_filters():  # S4:236
    check(362)
    for channels, filters in ((3, 2), (3, 10), (16, 3)):
        assert layers.shape_after((6, 6, channels), filters, side=3) == f"4x4x{filters}"


def test_363_transposed_convolution_adds_all_stamps():  # S4:992-995
    check(363)
    cells = {(1, 1): [2, 0], (1, 0): [4, 6], (1, 2): [2, 4], (1, 3): [1, 2], (2, 1): [3, 4], (3, 1): [3, 0]}
    for (row, column), printed in cells.items():
        expanded = s4.EXPANDED[row, column]  # the result that the slide prints, which is right
        computed = errata.tconv_cell(row, column)
        assert computed["cell"] == expanded
        assert (sum(printed) == expanded) == ((row, column) != (1, 1))


def test_364_weight_decay_of_resnet():  # S2:202
    # The paper's 1e-4 (He et al. 2015, section 4.2) is the paper preset's, as c = lambda / 2 in the loss.
    check(364)
    hyper = degradation.hyper("paper", DataConfig())
    gradient = jax.grad(lambda w: hyper.l2 * losses.sum_of_squares({"kernel": w}))(jnp.float32(1))
    assert float(gradient) == pytest.approx(1e-4)
    assert re.search(r"weight decay 1e-4", degradation.__doc__)


def test_365_alexnet_normalises_before_it_pools():  # S2:140
    found = check(365)
    assert found.printed["example"] == pytest.approx(100 / 4**0.75)
    # Both orders of the network itself, its first layers alone: the same variables, another map.
    images = np.random.default_rng(0).uniform(0, 300, (1, 9, 9, 4)).astype(np.float32)
    orders = {}
    for after in (False, True):
        model = models.create("alexnet", lrn_after_pool=after)
        orders[after] = np.asarray(compiled(model._pool_and_normalize)(images))

    @compiled
    def both(x):
        pooled = max_pool(x, (3, 3), (2, 2))
        return max_pool(local_response_norm(x), (3, 3), (2, 2)), local_response_norm(pooled)

    before, after = both(images)
    np.testing.assert_allclose(orders[False], before, rtol=1e-6)
    np.testing.assert_allclose(orders[True], after, rtol=1e-6)
    assert np.abs(orders[True] / orders[False] - 1).max() > 0.1
    assert "CaffeNet" in alexnet.AlexNet.__doc__


def test_366_relu_is_older_than_alexnet():  # S2:143
    # Who was first is history; what can be shown is that the cells of 1980 rectify, as our neocognitron has them.
    check(366)
    assert models.MODELS["neocognitron"].year < models.MODELS["alexnet"].year
    assert "1980" in neocognitron.__doc__
    assert "negative" in neocognitron.__doc__
    cells = SCells(1, 3, 0.7, initializer("he"), jnp.float32)
    preferred = np.zeros((3, 3, 1, 1), np.float32)
    preferred[0] = 1  # a bar, which is seen in its place and in another
    bars = np.stack([preferred[..., 0], preferred[::-1, :, :, 0]])
    params = {"kernel": preferred, "inhibition": np.ones(1, np.float32)}
    responses = np.asarray(compiled(cells.apply)({"params": params}, bars))[:, 1, 1, 0]
    assert responses[0] > 0.5
    assert responses[1] == 0  # inhibited more than excited: cut off
    assert "Nair and Hinton" in ROWS[366].statement


def test_367_pooling_has_two_hyperparameters():  # S2:92
    check(367)
    shapes = {
        (window, stride): layers.pooled_side(9, window, stride) for window in (2, 3) for stride in (1, 2)
    }  # extent and stride fix the output
    assert shapes == {(f, s): (9 - f) // s + 1 for f, s in shapes}
    for pool in (max_pool, average_pool):
        out = jax.eval_shape(lambda x, pool=pool: pool(x, (2, 2), (2, 2)), jnp.zeros((1, 4, 4, 7)))
        assert out.shape[-1] == 7  # there are no filters to count


def test_368_columns_of_vggs_table():  # S2:166
    found = check(368)
    assert {name: found.printed[f"layers of {name}"] for name in "CE"} == {"C": 15, "E": 18}
    table = {"C": 134, "E": 144}  # S2:180; its heads say 16 and 19 layers (S2:160)
    assert {name: round(found.computed[name] / 1e6) for name in "CE"} == table
    assert round(found.printed["E"] / 1e6) == 143
    assert found.computed["C"] - found.printed["C"] == 256 * 256 + 256  # one 1x1 convolution
    assert found.computed["E"] - found.printed["E"] == 9 * 256 * 256 + 256  # one 3x3 convolution


def test_369_overfeats_larger_image():  # S2:680
    check(369)
    assert [layers.outputs(s2.OVERFEAT, side) for side in (14, 16, 28)] == ["1x1", "2x2", "8x8"]
    with pytest.raises(UsageError, match=r"covers 5 pixels but the padded input has .* 2"):
        layers.outputs(s2.OVERFEAT, 2)


def test_370_precision_of_faster_rcnn():  # S2:989
    # What a detector scored cannot be computed here; lectures.csv says where the number comes from.
    check(370)
    assert ROWS[370].note == "paper figure, not from the lectures"
    assert "69.9" in ROWS[370].statement


def test_371_speed_up_of_fast_rcnn():  # S2:967
    found = check(371)
    assert round(found.computed) == 147
    assert int(found.computed) == 146  # cut off


def test_372_vgg16_has_13_convolutions():  # S3:500
    check(372)
    counts = layers.weighted_layers("vgg16")
    assert sum(counts.values()) == 16
    assert sum(convolutions for _, convolutions in models.fields("vgg16")["stages"]) == 13


def test_373_resnet_is_of_2015():  # S3:561
    # When it was published is history: the catalogue's years.
    check(373)
    assert {models.MODELS[f"resnet{depth}"].year for depth in (18, 34, 50, 101, 152)} == {2015}


def test_374_alexnets_error_is_an_ensembles():  # S3:325
    # The errors are those of a competition and cannot be computed here; lectures.csv says whose they are.
    check(374)
    assert "ensemble of five" in ROWS[374].statement


def test_375_imagenet_and_its_challenge():  # S0:925
    # Sizes of data sets that are not read here. The deck S3 states them, and the two agree with nobody's 14 million
    # of 1,000 classes: that would be over ten times the images a class of the challenge.
    found = check(375)
    assert found.printed["in all"] / found.computed["in the challenge"] > 10
    assert "1.28 million of 1,000" in ROWS[375].statement


def test_376_convolution_is_equivariant():  # S0:177; S1:1253
    check(376)
    shifted = np.roll(errata.PICTURE, 2, axis=1)
    maps = [layers.correlated(image, s1.DIAGONAL) for image in (errata.PICTURE, shifted)]
    assert [divmod(int(found.argmax()), found.shape[1])[1] for found in maps] == [4, 6]  # the best place moves along
    # Invariant is what a global pooling makes of it.
    assert maps[0].max() == maps[1].max()
    assert maps[0].sum() == maps[1].sum()


def test_377_indices_of_a_units_sum():  # S0:233
    found = check(377)
    weights, inputs = errata.unit_inputs()
    assert found.computed["sum"] == np.einsum("iuv,iuv->", weights, inputs)
    assert as_printed.summed(weights, inputs).shape == (16, 16)  # j and k stay free: no number


def test_378_units_of_a_layer():  # S0:241-246
    check(378)
    assert layers.inputs((16, 16, 10)) == 10 * 16 * 16 == 16 * 160  # 160 is the width of one row of it


def test_379_degree_10_is_underdetermined_by_ten_points():  # S0:772
    check(379)
    # Two polynomials of degree 10 pass through the same ten points.
    errors = overfitting.polynomial_errors(0)
    assert max(errors[name]["train_mse"] for name in ("degree 10", "another of degree 10")) < 1e-12


def test_380_convolution_turns_the_kernel_round():  # S1:85; S1:457-466
    check(380)
    assert s1.shifts() == {"cross-correlation": -1, "true convolution": 1}  # the slide says "shifted left by 1"
    # The other examples of the deck are cross-correlations too: Filter 1 is not symmetric, S1:658-661.
    image, kernel = s1.IMAGE[None, :, :, None], s1.CROSS[:, :, None, None].copy()
    kernel[0, 2] = 0
    results = [np.asarray(compiled(op)(image, kernel)) for op in (correlate, convolve)]
    assert not np.array_equal(*results)
    np.testing.assert_array_equal(compiled(correlate)(image, kernel[::-1, ::-1].copy()), results[1])


def test_381_output_sizes_are_rounded_down():  # S1:814; S2:38
    found = check(381)
    assert found.printed == 54.25
    for n in (5, 6, 7, 8):
        assert layers.side_after(n, 3, s=3) == int(as_printed.unfloored_side(n, 3, 0, 3))
    assert as_printed.unfloored_side(7, 3, 1, 2) == layers.side_after(7, 3, p=1, s=2) == 4  # where it divides
