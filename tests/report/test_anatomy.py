"""The figure of a network's layers: which it shows, and how they are named."""

import pytest

from cnnjax.report.anatomy import NAMED, figure


def layer(name, output=(8, 8, 4), parameters=100, size=3, repeats=1, whole=False):
    field = size and {"size": [size, size], "stride": [1, 1], "start": [0, 0], "whole_image": whole}
    return {
        "name": name, "output": list(output), "parameters": parameters, "multiply_adds": parameters, "operations": 0,
        "output_bytes": 4, "repeats": repeats, "field": field,
    }  # fmt: skip


def analysis(layers):
    total = sum(each["parameters"] for each in layers)
    return {
        "layers": layers, "parameters": total, "multiply_adds": total, "inference_bytes": 1, "training_bytes": 1,
        "input_shape": [8, 8, 3],
    }  # fmt: skip


def test_a_bar_for_each_layer_and_the_growth_of_the_receptive_field():
    drawn = figure(
        analysis([layer("a"), layer("b", size=5, repeats=2), layer("c", size=8, whole=True), layer("d", size=None)]),
        "net",
    )
    parameters, _, _, fields = drawn.axes
    assert [bar.get_height() for bar in parameters.patches] == [100] * 4
    assert [list(line.get_ydata()) for line in fields.lines] == [[3, 5], [8, 8], [8]]  # field, image, whole image
    assert [text.get_text() for text in fields.get_xticklabels()] == ["a", "b x2", "c", "d"]


@pytest.mark.parametrize("count", [3 * NAMED, 5 * NAMED])
def test_deep_networks_stay_legible(count):
    layers = [each for i in range(count // 2) for each in (layer(f"conv{i}"), layer(f"norm{i}", parameters=0))]
    drawn = figure(analysis(layers), "deep")
    assert len(drawn.axes[0].patches) == count // 2
    assert len(drawn.axes[3].get_xticks()) <= NAMED
    assert f"{count // 2} layers without much of their own" in drawn.texts[-1].get_text()


def test_networks_without_maps():
    drawn = figure(analysis([layer("dense", (5,), size=None)]), "mlp")
    assert "no maps" in drawn.axes[3].texts[0].get_text()
