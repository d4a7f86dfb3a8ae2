"""Other places that a sweep's events can go to while it runs: TensorBoard and Weights & Biases.

A run there has the name of its run id. TensorBoard's files lie in ``DIR/tensorboard/<run_id>``. Weights & Biases is
used offline, unless WANDB_MODE says otherwise: its files lie in ``DIR/wandb``, and ``wandb sync`` uploads them. What a
run repeats after a kill is there twice, at the same steps.
"""

import json
import math
import os
from collections.abc import Callable, Iterable
from importlib import util
from pathlib import Path
from typing import Any

from cnnjax.strict_json import encode
from cnnjax.typing import UsageError, unknown

Event = dict[str, Any]
ENDS = ("done", "failed", "interrupted", "lost")  # events after which a worker has done with a run
NO_SCALARS = ("time", "worker", "event", "bundle", "runs", "run", "step")


class Writer:
    """Called with every event of one worker. A run is opened at its first evaluation, closed when its worker ends it.

    Args:
      directory: of the sweep.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self.open: dict[str, Any] = {}

    def __call__(self, event: Event) -> None:
        """Takes note of an event."""
        kind, run = event["event"], event.get("run", "")
        if kind == "evaluated":
            if run not in self.open and not self.directory.is_dir():
                return  # it was moved, and the libraries would make it anew
            if run not in self.open:
                self.open[run] = self.opened(run)
            self.evaluated(self.open[run], event)
        elif kind == "done" and run in self.open:
            self.done(self.open[run], _row(self.directory, run), event)
        if kind in ENDS:
            for ended in [run] if run else event.get("runs", []):
                if ended in self.open:
                    self.closed(self.open.pop(ended))

    def close(self) -> None:
        """Writes what is still in memory."""
        while self.open:
            self.closed(self.open.popitem()[1])

    def opened(self, run: str) -> Any:
        """The place of a run."""
        raise NotImplementedError

    def evaluated(self, place: Any, event: Event) -> None:
        """One more record of the run's history."""
        raise NotImplementedError

    def done(self, place: Any, row: dict[str, Any], event: Event) -> None:
        """The run has its row, which is empty where it cannot be read."""
        raise NotImplementedError

    def closed(self, place: Any) -> None:
        """The worker has done with the run."""
        raise NotImplementedError


class _TensorBoard(Writer):
    """Scalars of each run by training step; at the end its assignment and seed as hyperparameters."""

    def opened(self, run: str) -> Any:
        from tensorboardX import SummaryWriter

        return SummaryWriter(logdir=str(self.directory / "tensorboard" / run), flush_secs=10)

    def evaluated(self, place: Any, event: Event) -> None:
        for name, value in _numbers(event).items():
            place.add_scalar(name, value, event["step"], walltime=event["time"])

    def done(self, place: Any, row: dict[str, Any], event: Event) -> None:
        from tensorboardX.summary import hparams

        final = {f"final/{name}": value for name, value in _numbers(event["metrics"]).items()}
        assigned = {name: value if isinstance(value, int | float | str) else encode(value)
                    for name, value in _condition(row).items()}  # fmt: skip
        for summary in hparams(assigned, final):
            place.file_writer.add_summary(summary)
        for name, value in final.items():
            place.add_scalar(name, value, row["history"][-1]["step"] if row.get("history") else 0)

    def closed(self, place: Any) -> None:
        place.close()


class _WeightsAndBiases(Writer):
    """A run there for each run here, in one group for the sweep."""

    def opened(self, run: str) -> Any:
        import wandb

        return wandb.init(
            project=os.environ.get("WANDB_PROJECT", self.directory.name), group=self.directory.name, id=run, name=run,
            dir=str(self.directory), mode=os.environ.get("WANDB_MODE", "offline"), reinit="create_new",
            settings=wandb.Settings(silent=True, console="off"),
        )  # fmt: skip

    def evaluated(self, place: Any, event: Event) -> None:
        place.log(_numbers(event), step=event["step"])

    def done(self, place: Any, row: dict[str, Any], event: Event) -> None:
        place.config.update(_condition(row))
        place.summary.update({**_numbers(event["metrics"]), "status": event["status"]})

    def closed(self, place: Any) -> None:
        place.finish()


WRITERS: dict[str, tuple[str, Callable[[Path], Writer]]] = {  # name -> library, and what uses it
    "tensorboard": ("tensorboardX", _TensorBoard),
    "wandb": ("wandb", _WeightsAndBiases),
}


def check_writers(names: Iterable[str]) -> None:
    """Refuses writers that cannot work here, before anything is run.

    Raises:
      UsageError: an unknown name, or a library that is not installed.
    """
    for name in names:
        if name not in WRITERS:
            raise unknown("writer of the log", name, WRITERS)
        library, _ = WRITERS[name]
        if util.find_spec(library) is None:
            raise UsageError(f"The writer {name!r} needs {library}. Install it: pip install 'cnnjax[{name}]'.")


def writer(name: str, directory: Path) -> Writer:
    """The writer of a name, for the sweep in ``directory``.

    Raises:
      UsageError: as ``check_writers``.
    """
    check_writers([name])
    return WRITERS[name][1](directory)


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    """What can be drawn against the step."""
    return {
        name: value
        for name, value in values.items()
        if name not in NO_SCALARS and type(value) in (int, float) and math.isfinite(value)
    }


def _row(directory: Path, run: str) -> dict[str, Any]:
    """The row of a finished run; empty where it is not to be had."""
    try:
        return json.loads((directory / "rows" / f"{run}.json").read_text())
    except (OSError, ValueError):
        return {}


def _condition(row: dict[str, Any]) -> dict[str, Any]:
    """What was swept, and the seed."""
    return {**row.get("assignment", {}), **({"seed": row["seed"]} if "seed" in row else {})}
