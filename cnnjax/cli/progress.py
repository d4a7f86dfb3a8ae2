"""Progress of a sweep on a terminal: which runs, how far, images per second, time left. Quiet elsewhere."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cnnjax.sweep.plan import Bundle
from cnnjax.sweep.work import Listener, Progress
from cnnjax.text import printable


@contextmanager
def display(pending: Sequence[Bundle], done_before: int, total_runs: int, console: Any) -> Iterator[Listener]:
    """A listener for ``Session.execute`` that draws a bar for the sweep and a line for each worker.

    Args:
      pending: the bundles that will run.
      done_before: runs that are done already.
      total_runs: runs of the whole sweep, those already done included.
      console: a rich console; nothing is drawn where it is not a terminal.
    """
    if not console.is_terminal:
        yield lambda news: None
        return
    from rich.markup import escape
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:3.0f} %"),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[left]}"),
        console=console,
        transient=True,
    )
    work = sum(bundle.cost for bundle in pending)
    whole = bars.add_task("", total=work, rate="", left="")
    tally = _Tally(done_before, work)

    def listen(news: Progress) -> None:
        tally.add(news)
        if news.elsewhere:
            return
        if news.worker not in tally.lines:
            tally.lines[news.worker] = bars.add_task("", total=1, rate="", left="")
        line = tally.lines[news.worker]
        spec = news.bundle.spec
        bars.update(
            line, description=f"  {escape(_label(news.bundle))}", total=spec.steps, completed=news.steps,
            rate=f"step {news.steps}/{spec.steps}",
        )  # fmt: skip
        bars.update(
            whole, description=f"[bold]{tally.runs} of {total_runs} runs", completed=tally.work_done,
            rate=f"{tally.images_per_second():,.0f} images/s", left=f"{_clock(tally.seconds_left())} left",
        )  # fmt: skip

    with bars:
        bars.update(whole, description=f"[bold]{done_before} of {total_runs} runs", rate="compiling")
        yield listen


class _Tally:
    """Sums over the news so far."""

    def __init__(self, done_before: int, work: int):
        self.runs, self.work = done_before, work
        self.lines: dict[int, Any] = {}
        self.started = time.perf_counter()
        self.work_done, self.images = 0.0, 0
        self._steps: dict[str, int] = {}
        self._finished: set[str] = set()

    def add(self, news: Progress) -> None:
        key = news.bundle.bundle_id
        steps = news.steps - self._steps.get(key, 0)
        self._steps[key] = news.steps
        self.work_done += news.bundle.cost * steps / news.bundle.spec.steps
        if not news.elsewhere:
            self.images += steps * news.bundle.spec.batch_size * len(news.bundle.points)
        if news.finished and key not in self._finished:
            self._finished.add(key)
            self.runs += len(news.bundle.points)

    def images_per_second(self) -> float:
        return self.images / (time.perf_counter() - self.started)

    def seconds_left(self) -> float:
        if not self.work_done:
            return float("nan")
        return (time.perf_counter() - self.started) * (self.work - self.work_done) / self.work_done


def _label(bundle: Bundle) -> str:
    first = bundle.points[0]
    text = " ".join(f"{name}={value}" for name, value in first.assignment) or str(first.spec.model)
    seeds = ",".join(str(point.seed) for point in bundle.points[:3])
    return printable(f"{text} seed {seeds}{',...' if len(bundle.points) > 3 else ''}")[:60]


def _clock(seconds: float) -> str:
    if seconds != seconds:
        return "--:--"
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
