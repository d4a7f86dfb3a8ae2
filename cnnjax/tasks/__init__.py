"""What is optimised. A model, a loss and a metric meet only in a ``Task``: four pure functions."""

from cnnjax.tasks.classify import Task, classify

__all__ = ["Task", "classify"]
