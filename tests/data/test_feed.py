import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnjax.data import feed
from cnnjax.data.dataset import Dataset, Info, assemble
from cnnjax.data.feed import Chunk, Feed, batch_indices, subset
from cnnjax.typing import UsageError

TRAIN, VALID, TEST = 23, 5, 9


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Image n is all n, and its label is n modulo 7."""
    total = TRAIN + VALID + TEST
    info = Info("numbers", (2, 3, 1), 7, {"train": TRAIN, "valid": VALID, "test": TEST}, tuple("abcdefg"))
    images = np.broadcast_to(np.arange(total, dtype=np.uint8)[:, None, None, None], (total, 2, 3, 1)).copy()
    return assemble(info, images, np.arange(total, dtype=np.int32) % 7)


@pytest.fixture(autouse=True)
def small_evaluation_chunks(monkeypatch):
    monkeypatch.setattr(feed, "EVALUATION_BATCH", 4)
    monkeypatch.setattr(feed, "EVALUATION_CHUNK", 2)


def examples(chunk: Chunk) -> list[list[list[int]]]:
    """The numbers of the examples that are meant, by batch and lane; their labels are checked."""
    images, labels = np.asarray(chunk.pool["images"]), np.asarray(chunk.pool["labels"])
    numbers = images[:, 0, 0, 0].astype(int)
    np.testing.assert_array_equal(images, np.broadcast_to(images[:, :1, :1], images.shape))
    np.testing.assert_array_equal(labels, numbers % 7)
    lanes = range(chunk.counts.shape[1])
    return [
        [numbers[chunk.indices[i, lane, : chunk.counts[i, lane]]].tolist() for lane in lanes]
        for i in range(chunk.length)
    ]


# The order of examples

seeds = st.integers(0, 2**31 - 1)


@given(seeds, st.integers(1, 12), st.integers(0, 8), st.integers(1, 9))
def test_every_epoch_shows_each_example_of_the_subset_once(seed, size, spare, batch_size):
    epochs = 3
    steps = -(-epochs * size // batch_size)  # the last batch may run into the next epoch
    order = batch_indices(seed, 0, steps, batch_size, size, size + spare).ravel()
    for epoch in range(epochs):
        shown = order[epoch * size : (epoch + 1) * size]
        assert sorted(shown) == sorted(subset(seed, size, size + spare))


@given(seeds, st.integers(0, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_any_cut_of_the_steps_gives_the_same_batches(seed, first, left, right, batch_size):
    whole = batch_indices(seed, first, left + right, batch_size, 7, 11)
    parts = [batch_indices(seed, *part, batch_size, 7, 11) for part in ((first, left), (first + left, right))]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


@given(seeds, st.integers(1, 30).flatmap(lambda n: st.tuples(st.integers(1, n), st.integers(1, n), st.just(n))))
def test_larger_subsets_hold_the_smaller_ones(seed, sizes):
    *smaller, total = sizes
    small, large = (subset(seed, size, total) for size in sorted(smaller))
    assert set(small) <= set(large) <= set(range(total))
    assert (len(set(small)), len(set(large))) == tuple(sorted(smaller))


def test_the_order_depends_on_seed_and_epoch():
    orders = [batch_indices(seed, epoch, 1, 50, 50, 50).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(map(str, orders))) == 4
    assert subset(0, 20, 50).tolist() != subset(1, 20, 50).tolist()


def test_the_order_never_changes():  # every stored result depends on it
    assert batch_indices(0, 0, 2, 5, 8, 10).tolist() == [[2, 3, 8, 9, 4], [6, 7, 1, 3, 7]]
    assert batch_indices(0, 0, 2, 5, 10, 10).tolist() == [[3, 8, 5, 9, 6], [0, 7, 1, 4, 2]]


# How they reach the device


@pytest.mark.parametrize("mode", ["resident", "stream"])
def test_chunks_hold_the_batches_of_their_steps(dataset, mode):
    schedule = [(0, 3), (3, 1), (4, 2)]
    chunks = list(Feed(dataset, mode, [5, 6], [0, 10], batch_size=4, max_steps=3).chunks(schedule))
    for (first, steps), chunk in zip(schedule, chunks, strict=True):
        assert (chunk.length, chunk.indices.shape, chunk.counts.shape) == (steps, (3, 2, 4), (3, 2))
        assert (chunk.indices.dtype, chunk.counts.dtype) == (np.int32, np.int32)
        lanes = [batch_indices(seed, first, steps, 4, size, TRAIN) for seed, size in ((5, TRAIN), (6, 10))]
        assert examples(chunk) == np.stack(lanes, axis=1).tolist()
        np.testing.assert_array_equal(chunk.pool["mean"], dataset.mean)
        np.testing.assert_array_equal(chunk.pool["std"], dataset.std)


@pytest.mark.parametrize("mode", ["resident", "stream"])
@pytest.mark.parametrize(
    ("split", "limit", "expected"),
    [
        ("valid", None, [range(TRAIN, TRAIN + VALID)] * 3),
        ("test", 2, [range(TRAIN + VALID, TRAIN + VALID + TEST)] * 3),  # the limit is for training examples
        ("train", None, [range(TRAIN), subset(6, 10, TRAIN), subset(6, 1, TRAIN)]),
        ("train", 6, [range(6), subset(6, 10, TRAIN)[:6], subset(6, 1, TRAIN)]),
    ],
)
def test_a_split_holds_every_example_of_every_lane_once(dataset, mode, split, limit, expected):
    chunks = list(Feed(dataset, mode, [5, 6, 6], [0, 10, 1], batch_size=4, max_steps=3).split(split, limit))
    assert {chunk.indices.shape for chunk in chunks} == {(2, 3, 4)}
    batches = [batch for chunk in chunks for batch in examples(chunk)]
    seen = [[number for batch in batches for number in batch[lane]] for lane in range(3)]
    assert seen == [list(lane) for lane in expected]


def test_an_example_has_the_same_noise_in_every_batch_and_mode(dataset):
    words = {}  # (seed, example) -> its two words
    for mode in ("resident", "stream"):
        for chunk in Feed(dataset, mode, [5, 6], [0, 10], batch_size=4, max_steps=3).chunks([(0, 3), (40, 2)]):
            for noise, batch in zip(chunk.noise, examples(chunk), strict=False):
                for lane, seed in enumerate((5, 6)):
                    for number, pair in zip(batch[lane], noise[lane].tolist(), strict=True):
                        assert words.setdefault((seed, number), pair) == pair
    assert len(set(map(tuple, words.values()))) == len(words) > 20


def test_a_resident_pool_is_shared_and_a_stream_brings_only_what_it_needs(dataset):
    resident, other = (Feed(dataset, "resident", [seed], [0], 4, 2) for seed in (0, 1))
    pools = [chunk.pool for feed in (resident, other) for chunk in feed.chunks([(0, 1)])]
    assert pools[0] is pools[1]
    assert len(pools[0]["labels"]) == TRAIN + VALID + TEST
    (streamed,) = Feed(dataset, "stream", [0], [0], 4, 2).chunks([(0, 1)])
    assert len(streamed.pool["labels"]) == 2 * 4


def test_large_datasets_are_streamed(dataset, monkeypatch):
    def pool_size():
        (chunk,) = Feed(dataset, "auto", [0], [0], 2, 1).chunks([(0, 1)])
        return len(chunk.pool["labels"])

    assert pool_size() == TRAIN + VALID + TEST
    monkeypatch.setattr(feed, "RESIDENT_BYTES", dataset.images.nbytes - 1)
    assert pool_size() == 2


def test_an_unknown_mode_names_the_choices(dataset, unchecked):
    with pytest.raises(UsageError, match=r"Unknown feed 'disk'. Choices: auto, resident, stream"):
        Feed(dataset, "disk", [0], [0], 4, 2)
