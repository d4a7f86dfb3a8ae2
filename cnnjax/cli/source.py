"""What an experiment trains before its runs: the network that they start from.

An experiment of transfer has ``source(preset, data)``, which returns the ``Spec`` and the ``Hyper`` of one run. It is
trained once, in ``DIR/<experiment>-source``, and its final weights are handed to ``grid(preset, data, weights)``.
Without ``weights`` the grid has the same conditions, which can then be planned before anything is trained.
"""

import dataclasses
from pathlib import Path
from types import ModuleType
from typing import Any

import jax

from cnnjax.cli.progress import display
from cnnjax.data.catalog import DataConfig
from cnnjax.sweep import plan, points, weights_of
from cnnjax.sweep.execution import Execution
from cnnjax.sweep.grid import NOTHING
from cnnjax.sweep.plan import assign
from cnnjax.sweep.session import Session
from cnnjax.train.spec import to_json

SEED = 0  # of the one network that all runs start from


def source_session(
    name: str,
    module: ModuleType,
    preset: str,
    data: DataConfig,
    given: dict[str, Any],
    execution: Execution,
    root: Path,
) -> Session:
    """The one run of an experiment's source, beside ``root``, with the runs' network and precision.

    Args:
      name, module: the experiment, which has ``source``.
      preset, data: as its ``source`` takes them.
      given: name -> value of the flags; those of the model and the precision hold for the source too.
      execution: how.
      root: the experiment's directory.

    Raises:
      UsageError: it cannot work, or the directory holds another source.
    """
    shared = {key: value for key, value in given.items() if key.startswith("model") or key == "precision"}
    spec, hyper = module.source(preset, data)
    spec, hyper = assign(dataclasses.replace(spec, keep_weights=True), hyper, shared)
    planned = plan(points(spec, hyper, NOTHING, (SEED,)), jax.default_backend(), execution.driver)
    configuration = {"spec": to_json(spec), "hyper": to_json(hyper)}
    session = Session(
        planned,
        dataclasses.replace(execution, member=None),  # all of a fleet wait for it
        root.with_name(f"{root.name}-source"),
        {"experiment": f"{name}/source", "configuration": configuration},
    )
    session.check()
    return session


def trained(session: Session) -> str:
    """The file of the source's final weights; empty if it has not been trained."""
    if session.pending():
        return ""
    assert session.store is not None
    (row,) = session.rows()
    return str(weights_of(row, session.store.directory))


def train(session: Session) -> str:
    """Trains the source, unless it has been, and returns the file of its weights.

    Raises:
      Interrupted: by Ctrl-C; the same command resumes.
    """
    if weights := trained(session):
        return weights
    from cnnjax.console import Console

    console = Console()
    console.print("First the network that the runs start from:")
    session.start()
    with display(session.pending(), 0, 1, console) as listen:
        session.execute(listen)
    return trained(session)
