"""What is optimised. A model, a loss and a metric meet only in a ``Task``: four pure functions."""

from cnnjax.tasks.classify import classify
from cnnjax.tasks.reconstruction import reconstruct
from cnnjax.tasks.task import Task

__all__ = ["Task", "classify", "reconstruct"]
