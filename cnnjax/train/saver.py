"""When the checkpoints of a bundle are saved, and by whom: one thread beside the training.

The training goes on while a checkpoint is hashed and written. One that cannot be saved is a warning and no more: the
results do not need it, and the earlier ones are still there. Who stops, though, calls ``wait``, and learns of it.
"""

import copy
import logging
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnnjax.train import checkpoint

SHARE = 0.03  # of a run's time, at most, that saving may take
FIRST_SECONDS, BYTES_PER_SECOND = 2.0, 100e6  # what a save is taken to cost before one was measured: importing Orbax
log = logging.getLogger(__name__)


def period(seconds: float, cost: float) -> float:
    """Least seconds from one save to the next: ``seconds``, or more where a save is so dear that it passes ``SHARE``.

    Args:
      seconds: asked for; 0 is a save at every opportunity, whatever it costs.
      cost: seconds that a save takes, that of the thread beside the training included.
    """
    return max(seconds, cost / SHARE) if seconds else 0.0


def expected_cost(arrays: Any) -> float:
    """Seconds that the first save of a tree of arrays may take."""
    return FIRST_SECONDS + sum(leaf.nbytes for leaf in jax.tree_util.tree_leaves(arrays)) / BYTES_PER_SECOND


class Saver:
    """Saves the states of one bundle. A context: at its end nothing is being written any more.

    Args:
      directory: where to; None saves nothing.
      owner: as ``checkpoint.save`` takes it.
      seconds: as ``period`` takes it.
      cost: seconds that the first save may take.
    """

    def __init__(self, directory: Path | None, owner: Mapping[str, Any], seconds: float, cost: float):
        self.directory, self.owner, self.seconds, self.cost = directory, owner, seconds, cost
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._saving: Future | None = None
        self._last = time.perf_counter()

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, *_: object) -> None:
        self._settle()
        self._thread.shutdown()

    def due(self) -> bool:
        """Whether it is time for the next save."""
        if self._saving is not None and self._saving.done():
            self._settle()
        if self.directory is None or (self._saving is not None and self.seconds):
            return False
        return time.perf_counter() - self._last >= period(self.seconds, self.cost)

    def save(self, step: int, arrays: Any, extra: Mapping[str, Any], keep: int = checkpoint.KEEP) -> None:
        """Copies the state, which may then change, and has it saved, after the save before is through."""
        self._settle()
        self._last = time.perf_counter()
        if self.directory is not None:
            # A copy, for the step to come takes the memory of a state, and on a CPU its arrays are that memory.
            state = jax.tree_util.tree_map(np.array, arrays), copy.deepcopy(extra)
            self._saving = self._thread.submit(self._save, self.directory, step, *state, keep)

    def wait(self) -> None:
        """Returns when the last save is on the disk.

        Raises:
          OSError: it is not; names the directory and the remedy.
        """
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def _save(self, directory: Path, step: int, arrays: Any, extra: Mapping[str, Any], keep: int) -> None:
        try:
            checkpoint.save(directory, self.owner, step, arrays, extra, keep)
        finally:
            self.cost = time.perf_counter() - self._last

    def _settle(self) -> None:
        try:
            self.wait()
        except OSError as error:
            log.warning("%s", error)
