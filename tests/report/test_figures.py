import dataclasses
import itertools
import re
import subprocess
import sys

import matplotlib.text
import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from PIL import Image

from cnnjax import stats
from cnnjax.report import figures, style
from cnnjax.report.figures import Curves, Drawing, Finals, Response
from cnnjax.typing import UsageError


def family(assignment):
    return assignment["model"].rstrip("0123456789")


def depth(assignment):
    return int(re.sub(r"\D", "", assignment["model"]))


def panels(figure):
    return figure.get_axes()


def lines(ax):
    """The lines of means: not the dots of single seeds, nor what diverged."""
    return [line for line in ax.get_lines() if line.get_marker() in list(style.MARKERS) and line.get_alpha() is None]


def bands(ax):
    return [each for each in ax.collections if isinstance(each, PolyCollection)]


def legend_of(figure):
    (legend,) = figure.legends
    return legend.get_title().get_text(), [text.get_text() for text in legend.get_texts()]


def crossed(rows):
    """The same sweep for two networks."""
    return [
        row | {"assignment": {"model": model, **row["assignment"]}}
        for model in ("plain20_cifar", "residual20_cifar")
        for row in rows
    ]


def test_curves_have_a_line_and_a_band_per_condition_and_labelled_axes(depth_rows):
    figure = figures.draw(Curves("train_error", title="Deeper is worse", panels=family, hue=depth), depth_rows)
    assert figure.get_suptitle() == "Deeper is worse"
    plain, residual = panels(figure)
    assert (plain.get_title(), residual.get_title()) == ("family = plain", "family = res")
    assert plain.get_ylabel() == "train error (fraction)"
    assert plain.get_shared_y_axes().joined(plain, residual)
    for ax in (plain, residual):
        assert ax.get_xlabel() == "training step"
        assert (len(lines(ax)), len(bands(ax))) == (3, 3)
    assert legend_of(figure) == ("depth", ["8", "20", "44"])


def test_a_curve_is_the_mean_over_seeds_and_its_band_the_interval_of_stats(depth_rows):
    (ax,) = panels(figures.draw(Curves("train_error"), depth_rows))
    runs = [row["history"] for row in depth_rows if row["assignment"] == {"model": "plain44"}]
    expected = [stats.summarize([run[i]["train_error"] for run in runs]) for i in range(len(runs[0]))]
    line, band = lines(ax)[2], bands(ax)[2]
    np.testing.assert_array_equal(line.get_xdata(), [entry["step"] for entry in runs[0]])
    np.testing.assert_allclose(line.get_ydata(), [summary.mean for summary in expected])
    ends = {(entry["step"], end) for entry, s in zip(runs[0], expected, strict=True) for end in (s.low, s.high)}
    assert ends <= set(map(tuple, band.get_paths()[0].vertices))


def test_conditions_differ_in_colour_and_in_shape(depth_rows):
    (ax,) = panels(figures.draw(Curves("train_error"), depth_rows))
    assert len({line.get_color() for line in lines(ax)}) == 6
    assert len({(line.get_marker(), line.get_linestyle()) for line in lines(ax)}) == 6


def test_a_numeric_hue_is_ordered_from_dark_to_light_whatever_the_order_of_the_rows(decay_rows):
    figure = figures.draw(Curves("valid_error"), decay_rows[::-1])
    by_label = dict(zip(legend_of(figure)[1], figure.legends[0].legend_handles, strict=True))
    lightness = [sum(by_label[name].get_color()[:3]) for name in ("0", "1e-05", "0.0005", "0.01")]
    assert legend_of(figure)[0] == "l2"
    assert lightness == sorted(lightness)


def test_lines_that_share_panel_and_hue_are_named_in_full_and_differ_in_shape(decay_rows):
    figure = figures.draw(Curves("train_error", hue="model"), crossed(decay_rows))
    title, names = legend_of(figure)
    assert (title, len(names)) == ("", 14)
    assert names[8] == "model=residual20_cifar, l2=1e-05"
    (ax,) = panels(figure)
    assert len({line.get_color() for line in lines(ax)}) == 2
    assert len({(line.get_color(), line.get_marker()) for line in lines(ax)}) == 14


def test_a_diverged_run_is_drawn_apart_up_to_its_end_and_counted(make_row):
    rows = [make_row({"model": "res8"}, seed, status=["done", "done", "diverged"][seed]) for seed in range(3)]
    rows[2]["history"][-1]["train_loss"] = 1e30
    rows[2]["history"].append({"step": 61, "train_loss": float("inf")})
    figure = figures.draw(Curves("train_loss"), rows)
    (ax,) = panels(figure)
    (dotted,) = [line for line in ax.get_lines() if line.get_linestyle() == ":"]
    (cross,) = [line for line in ax.get_lines() if line.get_marker() == "x"]
    assert (max(dotted.get_xdata()), cross.get_xdata()[0]) == (60, 60)
    assert ax.get_ylim()[1] < 3  # and does not flatten the others
    assert cross.get_ydata()[0] == ax.get_ylim()[1]
    assert len(lines(ax)[0].get_xdata()) == 20
    note = "Mean and 95 % interval over 2 seeds; 1 of 3 runs diverged (dotted, up to the ×)."
    assert [text.get_text() for text in figure.texts if text.get_text() == note]


def test_intervals_do_not_stretch_the_axis_of_a_fraction(make_row):
    rows = [make_row({"model": "res8"}, seed, train=0.9 * seed) for seed in range(2)]
    (ax,) = panels(figures.draw(Curves("train_error"), rows))
    assert ax.get_ylim()[0] > -0.05
    assert ax.get_ylim()[1] < 1.05


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (["done"], "One seed per condition, so no intervals."),
        (["done", "failed"], "One seed per condition, so no intervals; 1 of 2 runs failed."),
        (["diverged", "failed"], "No run is done; 1 of 2 runs diverged; 1 of 2 runs failed."),
        (["done", "done", "done"], "Mean and 95 % interval over 3 seeds."),
    ],
)
def test_every_kind_of_figure_draws_whatever_became_of_the_runs(make_row, statuses, expected):
    rows = [make_row({"l2": 0.1}, seed, status=status) for seed, status in enumerate(statuses)]
    assert figures.note(Finals(), rows) == expected
    for spec in (Curves(), Finals(), Response("l2")):
        figures.draw(spec, rows).draw_without_rendering()


def test_finals_show_mean_interval_and_every_seed(depth_rows, make_row):
    rows = [
        *depth_rows,
        make_row({"model": "res110"}, 0, status="diverged"),
        make_row({"model": "res110"}, 1),
    ]
    figure = figures.draw(Finals(("train_error", "test_error")), rows)
    train, test = panels(figure)
    assert (train.get_xlabel(), test.get_xlabel()) == ("train error (fraction)", "test error (fraction)")
    assert train.get_ylabel() == "model"
    names = [text.get_text() for text in train.get_yticklabels()]
    assert names == ["plain8", "plain20", "plain44", "res8", "res20", "res44", "res110\n(1 of 2 done)"]
    for ax in (train, test):
        seeds = [line for line in ax.get_lines() if line.get_color() == style.FAINT]
        assert [len(line.get_xdata()) for line in seeds] == [5] * 6 + [1]
        assert len(ax.containers) == 7
    mean, _, (bar,) = train.containers[2]
    expected = stats.summarize([0.62 * (0.8 + 0.1 * seed) for seed in range(5)])
    assert mean.get_xdata()[0] == pytest.approx(expected.mean)
    assert bar.get_segments()[0][:, 0] == pytest.approx([expected.low, expected.high])


def test_response_puts_zero_apart_at_the_left_of_a_log_axis(decay_rows):
    figure = figures.draw(Response("l2", ("train_error", "valid_error")), decay_rows)
    (ax,) = panels(figure)
    assert (ax.get_xscale(), ax.get_xlabel(), ax.get_ylabel()) == ("log", "l2", "final value (fraction)")
    assert legend_of(figure)[1] == ["train error", "valid error"]
    names = {text.get_text(): place for text, place in zip(ax.get_xticklabels(), ax.get_xticks(), strict=True)}
    assert min(names, key=lambda name: names[name]) == "0"
    assert names["0.01"] == 0.01
    curves = [line for line in lines(ax) if len(line.get_xdata()) > 1]
    for line, metric in zip(curves, ("train_error", "valid_error"), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), [1e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2])
        first = [row["metrics"][metric] for row in decay_rows[3:6]]
        assert line.get_ydata()[0] == pytest.approx(np.mean(first))
    assert [container[0].get_xdata()[0] for container in ax.containers] == [names["0"]] * 2
    dots = [line for line in ax.get_lines() if line.get_alpha() is not None]
    assert sum(len(line.get_xdata()) for line in dots) == 2 * (6 * 3 + 1)
    assert [text.get_text() for text in ax.texts] == ["2 ×"]


def test_other_swept_values_make_further_panels_of_a_response(decay_rows):
    axes = panels(figures.draw(Response("l2"), crossed(decay_rows)))
    assert [ax.get_title() for ax in axes] == ["plain20_cifar", "residual20_cifar"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (Curves("train_eror"), "Unknown metric 'train_eror'. Did you mean 'train_error'"),
        (Finals(("test_eror",)), "Did you mean 'test_error'"),
        (Response("model"), "needs a swept number >= 0, but 'plain8' has model='plain8'"),
        (Response("l2"), "Swept here: model"),
    ],
)
def test_a_figure_that_does_not_suit_the_rows_is_refused(depth_rows, spec, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        figures.draw(spec, depth_rows)


def test_no_rows_are_refused():
    with pytest.raises(UsageError, match="Run the experiment first"):
        figures.draw(Curves(), [])


@pytest.mark.parametrize(
    "spec",
    [
        Curves("train_error", panels="model"),
        Curves("train_error", hue="model", title="A title " * 20),
        Curves("train_error", panels=lambda assignment: assignment["l2"]),
        Finals(("train_error", "valid_error", "test_error")),
        Response("l2"),
    ],
)
@pytest.mark.slow
def test_nothing_overlaps_and_nothing_is_cut_off(decay_rows, spec):
    figure = figures.draw(spec, crossed(decay_rows))
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    axes = [ax.get_tightbbox(renderer) for ax in panels(figure)]
    others = [each.get_window_extent(renderer) for each in [*figure.legends, *figure.texts]]
    boxes = axes + others
    for i, box in enumerate(boxes):
        assert figure.bbox.x0 - 1 <= box.x0
        assert box.x1 <= figure.bbox.x1 + 1
        assert figure.bbox.y0 - 1 <= box.y0
        assert box.y1 <= figure.bbox.y1 + 1
        assert not any(box.shrunk(0.999, 0.999).overlaps(other) for other in boxes[i + 1 :])
    for ax in panels(figure):
        ticks = [text.get_window_extent(renderer) for text in ax.get_xticklabels() if text.get_text()]
        ticks.sort(key=lambda box: box.x0)
        assert all(left.x1 < right.x0 for left, right in itertools.pairwise(ticks))


def test_a_dollar_in_a_name_is_no_mathematics(make_row):
    figure = figures.draw(Curves(title="costs $1 or $\\frac"), [make_row({"model": "$_\\x"}, 0)])
    figure.draw_without_rendering()


def test_saving_twice_gives_the_same_bytes_without_a_date(decay_rows, tmp_path):
    for name in ("a", "b"):
        paths = figures.save(figures.draw(Response("l2"), decay_rows), tmp_path / name)
        assert [path.name for path in paths] == [f"{name}.png", f"{name}.svg"]
    for suffix in (".png", ".svg"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert image.width == 1800
    assert "date" not in (tmp_path / "a.svg").read_text()


def test_importing_the_report_imports_no_slow_library():
    slow = "{'matplotlib', 'rich', 'scipy', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", f"import sys, cnnjax.report.page; assert not {slow}"], check=True)


def test_a_drawing_brings_its_own_function(decay_rows, tmp_path):
    seen = []

    def draw(figure, rows, measured):
        seen.append((list(rows), list(measured)))
        figure.subplots().plot([0, 1], [1, 0])

    spec = Drawing("own_line", "A line of its own", draw, "It falls.", note="Not a mean.")
    figure = figures.draw(spec, decay_rows, [{"assignment": {}, "metrics": {"x": 1.0}}])
    assert seen == [(decay_rows, [{"assignment": {}, "metrics": {"x": 1.0}}])]
    assert (figures.title(spec), figures.explanation(spec), figures.name(spec)) == (
        "A line of its own", "It falls.", "own_line"
    )  # fmt: skip
    assert figures.note(spec, decay_rows) == "Not a mean."
    assert "seeds" in figures.note(dataclasses.replace(spec, note=None), decay_rows)
    assert {path.suffix for path in figures.save(figure, tmp_path / "1_own_line")} == {".png", ".svg"}


@pytest.mark.parametrize("kind", [Curves, Finals])
def test_only_some_conditions_are_drawn(depth_rows, kind):
    spec = kind(only=lambda assignment: assignment["model"].startswith("plain"))
    text = " ".join(t.get_text() for t in figures.draw(spec, depth_rows).findobj(matplotlib.text.Text))
    assert "plain44" in text
    assert "res44" not in text
