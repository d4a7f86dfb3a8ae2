"""The one trainer: a static ``Spec``, traced ``Hyper``, a seed, and a task that is an argument."""

from cnnjax.train.spec import Hyper, Spec

__all__ = ["Hyper", "Spec"]
