"""Each probe against what it must find in classifiers that can be worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import analysis, models
from cnnjax.analysis import gabor
from cnnjax.tasks import probes
from cnnjax.tasks.classify import classify
from cnnjax.typing import UsageError

WIDTH = 10


def bars(columns, labels, weights=None):
    """Images of one bright column each, (N, 8, 10, 1)."""
    images = np.zeros((len(columns), 8, WIDTH, 1), np.float32)
    images[np.arange(len(columns)), :, columns] = 1
    weights = np.ones(len(columns), np.float32) if weights is None else weights
    return {"images": jnp.asarray(images), "labels": jnp.asarray(labels, jnp.int32), "weights": jnp.asarray(weights)}


def subject(forward, batch_size):
    return probes.Subject(None, forward, batch_size)


def where_is_the_bar(images, train=False, collections=()):
    """Class: in which column the image is brightest."""
    return images.sum((1, 3)), {}


def is_there_a_bar(images, train=False, collections=()):
    """Class 0 wherever the bar stands: a classifier invariant to shifts."""
    total = images.sum((1, 2, 3))
    return jnp.stack([total, -total], -1), {}


def means(sums, count):
    return {name: float(value) / count for name, value in sums.items()}


def test_shifts_of_a_classifier_of_position():
    batch = bars([4, 5], [4, 5])
    found = means(probes.shifts(subject(where_is_the_bar, 2), batch), 2)
    assert found == {f"{what}_shift{d}": 1.0 for d in (1, 2, 3, 4) for what in ("error", "changed")}


def test_shifts_of_an_invariant_classifier():
    found = means(probes.shifts(subject(is_there_a_bar, 2), bars([4, 5], [0, 0])), 2)
    assert set(found.values()) == {0.0}


def test_shifts_go_both_ways_and_repeat_the_edge():
    """A bar at the left edge stays there when the image moves right, for the edge is repeated."""

    def left_edge_bright(images, **_):
        bright = images[:, 0, 0, 0]
        return jnp.stack([bright, 1 - bright], -1), {}

    found = means(probes.shifts(subject(left_edge_bright, 1), bars([0], [0])), 1)
    assert found["changed_shift1"] == 0.5  # moved left it is gone


def test_padding_counts_nothing():
    batch = bars([4, 5], [4, 0], weights=np.array([1, 0], np.float32))
    assert probes.one_vs_rest(subject(where_is_the_bar, 2), batch)["true_positive"] == pytest.approx(1 / WIDTH)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 100])
@pytest.mark.slow
def test_batch_statistics_reads_batches_of_the_training_size(batch_size):
    sizes = []

    def forward(images, train=False, collections=()):
        assert train
        sizes.append(images.shape[0])
        return where_is_the_bar(images)

    batch = bars([1, 2, 3, 4], [1, 2, 3, 0])
    found = probes.batch_statistics(subject(forward, batch_size), batch)
    assert set(sizes) == {min(batch_size, 4)}
    assert found["error_batch_statistics"] == 1
    right, wrong = -np.log(np.e**8 / (np.e**8 + 9)), -np.log(1 / (np.e**8 + 9))
    assert found["loss_batch_statistics"] == pytest.approx(3 * right + wrong, rel=1e-5)


@pytest.mark.slow
def test_crops_average_probabilities():
    """The bar is seen once in its place and four times a column beside it: 1/5, 2/5 and 2/5."""
    sums = probes.crops(subject(lambda images, **_: (1e3 * images.sum((1, 3)), {}), 1), bars([4], [4]))
    assert sums["loss_crops5"] == pytest.approx(-np.log(1 / 5), rel=1e-5)
    assert sums["error_crops5"] == 1


def test_mirrored_crops_add_the_mirror_images():
    sums = probes.mirrored_crops(subject(lambda images, **_: (1e3 * images.sum((1, 3)), {}), 1), bars([4], [5]))
    assert sums["loss_crops10"] == pytest.approx(-np.log((1 + 2) / 10), rel=1e-5)  # 4 mirrored is 5


def test_one_vs_rest_of_a_head_that_only_says_yes():
    def yes(images, **_):
        return jax.nn.relu(images.sum((1, 3)) - 4), {}

    found = means(probes.one_vs_rest(subject(yes, 3), bars([0, 1, 2], [0, 1, 2])), 3)
    assert found["positive"] == 1
    assert found["true_positive"] == pytest.approx(1 / WIDTH)


@pytest.mark.slow
def test_a_task_joins_the_sums_of_its_probes():
    import flax.linen as nn

    class Head(nn.Module):
        @nn.compact
        def __call__(self, images):
            return nn.Dense(WIDTH)(images.reshape(images.shape[0], -1))

    task = classify(Head(), "sigmoid", ("crops", "one_vs_rest"), 2)
    batch = bars([1, 2], [1, 2])
    variables = task.init(jax.random.key(0), batch)
    sums = task.probe(variables, batch, lambda images: images)
    assert set(sums) == {"count", "error_crops5", "loss_crops5", "positive", "true_positive"}
    assert np.all((task.outputs(variables, batch) > 0) & (task.outputs(variables, batch) < 1))


@pytest.mark.slow
def test_responses_of_a_residual_net_are_those_of_the_analysis():
    model = models.create("resnet8_cifar", width=4)
    batch = bars([1, 2, 3], [0, 1, 2])
    task = classify(model, probe_names=("responses",))
    variables = task.init(jax.random.key(0), batch)
    found = means(task.probe(variables, batch, lambda images: images), 3)
    expected = list(analysis.responses(model, variables, batch["images"]).values())
    assert [found[f"response_layer{place:02d}"] for place in range(1, 8)] == pytest.approx(expected, rel=1e-5)
    assert found["response"] == pytest.approx(np.mean(expected), rel=1e-5)


def test_a_network_without_responses_is_refused():
    model = models.create("mlp")
    with pytest.raises(UsageError, match="MLP stores no responses"):
        probes.responses(probes.Subject(model, where_is_the_bar, 1), bars([1], [1]))


def test_errors_of_the_auxiliary_heads():
    heads = {"auxiliary1": lambda images: where_is_the_bar(images)[0], "auxiliary2": lambda images: jnp.eye(WIDTH)[:3]}
    tested = subject(where_is_the_bar, 2)._replace(
        auxiliary=lambda images: {name: head(images) for name, head in heads.items()}
    )
    found = means(probes.auxiliary(tested, bars([4, 5, 6], [4, 1, 6], np.asarray([1, 1, 0], np.float32))), 2)
    assert found == {"error_auxiliary1": 0.5, "error_auxiliary2": 0.5}


@pytest.mark.slow
def test_the_auxiliary_heads_of_a_network_are_those_probed():
    model = models.create(
        "googlenet", stem="small", blocks=("4a",), auxiliary=True, width_multiplier=1 / 16, num_classes=WIDTH
    )
    batch = bars([1, 2, 3], [0, 1, 2])
    task = classify(model, probe_names=("auxiliary",))
    variables = task.init(jax.random.key(0), batch)
    found = means(task.probe(variables, batch, lambda images: 2 * images), 3)
    logits = model.apply(variables, 2 * batch["images"])[1]["auxiliary1"]
    assert found["error_auxiliary1"] == pytest.approx(float(np.mean(np.argmax(logits, -1) != np.arange(3))))


def test_a_network_without_auxiliary_heads_is_refused():
    with pytest.raises(UsageError, match="MLP has no auxiliary heads to probe"):
        probes.auxiliary(probes.Subject(models.create("mlp"), where_is_the_bar, 1), bars([1], [1]))


@pytest.mark.slow
def test_the_effective_field_of_an_even_window_is_its_side_and_padding_counts_nothing():
    def endpoints(images):
        summed = jax.lax.reduce_window(images, 0.0, jax.lax.add, (1, 5, 5, 1), (1, 1, 1, 1), "SAME")
        return {"map": summed, "logits_map": images, "features": images.mean((1, 2))}

    batch = bars([4, 5], [0, 0], [1.0, 0.0])
    found = probes.effective_field(subject(is_there_a_bar, 2)._replace(endpoints=endpoints), batch)
    np.testing.assert_allclose(found["effective_field"], 5, rtol=1e-5)


def test_roughness_is_that_of_the_last_map():
    def endpoints(images):
        smooth = jnp.cumsum(jnp.ones_like(images), 1)
        return {"rough": images, "smooth": smooth, "features": smooth.mean((1, 2))}

    batch = bars([4, 5], [0, 0], [1.0, 0.0])
    found = probes.roughness(subject(is_there_a_bar, 2)._replace(endpoints=endpoints), batch)
    # A ramp of 8 rows: differences of 1 along one of two axes, and a variance of (64 - 1) / 12.
    np.testing.assert_allclose(found["roughness"], 1 / 2 / (2 * 63 / 12), rtol=1e-5)
    np.testing.assert_allclose(found["roughness_of_noise"], 0, atol=1e-5)  # the ramp is always the same


def test_noise_is_independent_where_neighbours_share_nothing():
    def endpoints(images):
        return {"map": images @ jnp.ones((1, 1))}

    batch = {
        name: jnp.zeros((2, 64, 64, 1)) if name == "images" else value for name, value in bars([4, 5], [0, 0]).items()
    }
    found = probes.roughness(subject(is_there_a_bar, 2)._replace(endpoints=endpoints), batch)
    np.testing.assert_allclose(found["roughness_of_noise"] / 2, 1, rtol=0.05)


@pytest.mark.slow
def test_the_endpoints_of_a_network_are_those_probed():
    model = models.create("dilated_cnn", dilations=(1, 2), width=3, num_classes=2)
    task = classify(model, probe_names=("effective_field", "roughness"), batch_size=2)
    batch = bars([4, 5], [0, 1])
    variables = task.init(jax.random.key(0), batch)
    found = jax.jit(lambda variables, batch: task.probe(variables, batch, lambda images: images))(variables, batch)
    assert 1 < float(found["effective_field"]) / 2 < 7
    assert float(found["roughness"]) > 0


def test_sizes_of_a_classifier_of_the_size():
    def is_large(images, **_):  # class: how many times 10 pixels wide the image is
        wide = jax.nn.one_hot(images.shape[2] // WIDTH, 3)
        return jnp.broadcast_to(wide, (len(images), 3)), {}

    found = means(probes.sizes(subject(is_large, 2), bars([4, 5], [1, 2])), 2)
    assert found == {"error_size125": 0.5, "error_size150": 0.5, "error_size200": 0.5}
    found = means(probes.sizes(subject(is_large, 2), bars([4, 5], [1, 1])), 2)
    assert found == {"error_size125": 0.0, "error_size150": 0.0, "error_size200": 1.0}


@pytest.mark.parametrize("name", ["effective_field", "roughness"])
def test_a_network_without_a_map_is_refused(name):
    with pytest.raises(UsageError, match="has no map among its endpoints to probe"):
        probes.PROBES[name](subject(is_there_a_bar, 2), bars([4], [0]))


@pytest.mark.slow
def test_the_first_layer_of_a_network_is_analysed_and_kept():
    model = models.create("vgg_small", kernel_size=3, stages=((4, 1),), dense=(), num_classes=WIDTH)
    batch = bars([1, 2, 3], [0, 1, 2], np.asarray([1, 1, 0], np.float32))
    task = classify(model, probe_names=("first_layer",))
    variables = task.init(jax.random.key(0), batch)
    sums = task.probe(variables, batch, lambda images: images)
    kernel = variables["params"]["conv1_1"]["kernel"]
    np.testing.assert_allclose(sums["kernel"], 2 * kernel, rtol=1e-6)
    expected = {
        "gabor_r2": gabor.fit(kernel).r2.mean(),
        "orientation_selectivity": gabor.orientation_selectivity(kernel).mean(),
        "colour_share": gabor.colour_share(kernel).mean(),
    }
    found = means({name: sums[name] for name in expected}, 2)
    assert found == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-5)
    assert task.summarize(sums)["kernel"].shape == kernel.shape
