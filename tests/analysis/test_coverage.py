import numpy as np
import pytest

from cnnjax.analysis.coverage import border_counts, gathered_counts, overlap_counts, tap_counts
from cnnjax.typing import UsageError


def test_overlaps_of_transposed_convolutions():  # S3:866-879
    assert overlap_counts(4, 3, 2).tolist() == [1, 1, 2, 1, 2, 1, 2, 1, 1]
    assert overlap_counts(4, 4, 2).tolist() == [1, 1, 2, 2, 2, 2, 2, 2, 1, 1]
    assert overlap_counts(3, 2, 2).tolist() == [1] * 6
    assert overlap_counts(2, 3, 2, padding=1, output_padding=1).tolist() == [1, 2, 1, 1]  # S4:979-1013
    assert overlap_counts(2, 1, 3).tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (4, 2), (3, 3), (6, 3), (3, 2), (5, 2), (4, 3)])
def test_overlaps_are_even_where_the_stride_divides_the_kernel(kernel, stride):
    inside = overlap_counts(12, kernel, stride)[2 * kernel : -2 * kernel]
    assert (inside.min() == inside.max()) == (kernel % stride == 0)


def test_every_input_writes_its_whole_kernel():
    assert overlap_counts(5, 4, 3).sum() == 5 * 4


@pytest.mark.parametrize(("kernel", "stride", "padding", "output_padding"), [(3, 2, 0, 0), (3, 2, 1, 1), (4, 3, 2, 2)])
def test_gathering_counts_what_was_written(kernel, stride, padding, output_padding):
    written = overlap_counts(5, kernel, stride, padding, output_padding)
    gathered = gathered_counts(5, len(written), kernel, stride, kernel - 1 - padding)
    assert gathered.tolist() == written.tolist()


def test_taps_of_stacks():
    assert tap_counts([3]).tolist() == [1, 1, 1]
    assert tap_counts([3, 3]).tolist() == [1, 2, 3, 2, 1]
    assert tap_counts([3, 3], [2, 2]).tolist() == [1, 0, 2, 0, 3, 0, 2, 0, 1]
    whole = tap_counts([3, 3, 3], [1, 2, 4])  # S1:1131-1139
    assert len(whole) == 15
    assert whole.min() == 1
    assert whole.sum() == 27
    assert tap_counts([]).tolist() == [1]


def test_borders_of_stacks_without_padding():
    assert border_counts(6, [3]).tolist() == [1, 2, 3, 3, 2, 1]
    assert border_counts(7, [3], [2]).tolist() == [1, 1, 2, 1, 2, 1, 1]
    assert border_counts(8, [3], [2]).tolist() == [1, 1, 2, 1, 2, 1, 1, 0]  # the stride never reaches the last
    assert border_counts(5, [3], dilations=[2]).tolist() == [1, 0, 1, 0, 1]


def test_borders_by_brute_force():
    size, kernels, strides, dilations = 13, [3, 2, 2], [1, 2, 1], [2, 1, 2]
    expected = np.zeros(size, int)
    readers = {at: [at] for at in range(size)}  # unit of a layer -> pixels that it reads, with repeats
    for kernel, stride, dilation in zip(kernels, strides, dilations, strict=True):
        starts = range(0, len(readers) - (kernel - 1) * dilation, stride)
        readers = {
            at: [pixel for tap in range(kernel) for pixel in readers[start + tap * dilation]]
            for at, start in enumerate(starts)
        }
    for pixels in readers.values():
        for pixel in pixels:
            expected[pixel] += 1
    assert border_counts(size, kernels, strides, dilations).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: overlap_counts(0, 3, 2), "size must be at least 1, not 0"),
        (lambda: overlap_counts(2, 3, 2, output_padding=2), "output_padding=2 must be from 0 to stride - 1 = 1"),
        (lambda: overlap_counts(1, 3, 2, padding=2), r"\(1 - 1\) 2 \+ 3 - 2 \* 2 \+ 0 = -1 outputs"),
        (lambda: tap_counts([3, 3], [1]), "2 kernels need as many dilations, not 1"),
        (lambda: tap_counts([3], [0]), "dilations must be at least 1, not 0"),
        (lambda: border_counts(4, [3, 3]), r"layer 2 covers .* = 3 pixels, but only 2 reach it"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(UsageError, match=message):
        call()
