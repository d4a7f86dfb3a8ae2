import io

from rich.console import Console

from cnnjax.cli.progress import _clock, display
from cnnjax.sweep import explicit, plan, points
from cnnjax.sweep.work import Progress
from cnnjax.train import Hyper, Spec


def _bundles():
    spec = Spec(model="mlp", steps=40, batch_size=8)
    return plan(points(spec, Hyper(), explicit({"l2": 0.0}, {"l2": 0.1}), range(8)), "cpu").bundles


def test_nothing_is_drawn_where_there_is_no_terminal():
    out = io.StringIO()
    bundles = _bundles()
    with display(bundles, 0, 16, Console(file=out)) as listen:
        listen(Progress(0, bundles[0], 20, False))
    assert out.getvalue() == ""


def test_runs_steps_speed_and_time_left_are_shown():
    out = io.StringIO()
    bundles = _bundles()
    assert len(bundles) == 2  # eight lanes each
    with display(bundles, 4, 20, Console(file=out, force_terminal=True, width=120)) as listen:
        listen(Progress(0, bundles[0], 20, False))
        listen(Progress(1, bundles[1], 40, True))
    shown = out.getvalue()
    assert "4 of 20 runs" in shown  # those that were done before
    assert "12 of 20 runs" in shown  # and the second bundle's eight
    assert "step 20/40" in shown
    assert "images/s" in shown
    assert "left" in shown
    assert "75 %" in shown


def test_the_clock():
    assert _clock(0) == "0:00"
    assert _clock(125.7) == "2:05"
    assert _clock(float("nan")) == "--:--"
