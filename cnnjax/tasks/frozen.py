"""Stages of a network that do not train: transfer learning (S2:349-355; S4:604-616).

Frozen parameters are not parameters for the trainer: they lie in a collection of the state, ``frozen``. So
nothing is differentiated with respect to them, no optimizer keeps a state for them, and no penalty, momentum or
decay reaches them. In training the frozen stages run as in evaluation.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from cnnjax.models.stages import frozen_names, prefixes
from cnnjax.tasks.task import Task, Variables

COLLECTION = "frozen"


class Call(NamedTuple):
    """A layer's call directly in the network's own ``__call__``: the layer, its name and its arguments."""

    module: nn.Module
    name: str
    arguments: dict[str, Any]


def freeze(task: Task, model: nn.Module, frozen: tuple[str, ...]) -> Task:
    """The task of ``model`` with the stages ``frozen`` fixed; see ``models.stages.frozen_names``.

    In training every layer in a frozen stage that is called with ``train`` gets False, and Flax's own batch norm
    and dropout their equivalent: batch norm uses its running statistics and leaves them, and nothing is dropped.
    A layer without parameters in the network's own ``__call__``, such as dropout between two stages, belongs to
    the stage that its name begins with, and otherwise to the one that it feeds: dropout before a head that trains
    stays. What the network draws or measures in its own ``__call__`` without a layer is out of reach.
    """
    begin = prefixes(model, frozen)

    def init(key, batch):
        return split(task.init(key, batch), model, frozen)

    def loss(variables, batch, key, hyper):
        whole = merge(variables)
        calls = top_level_calls(lambda: task.loss(whole, batch, key, hyper))
        quiet = _quiet(calls, begin, {*variables[COLLECTION], *variables["params"]})
        with _in_evaluation(lambda name: name in quiet):
            value, (state, sums) = task.loss(whole, batch, key, hyper)
        return value, ({**state, COLLECTION: variables[COLLECTION]}, sums)

    def evaluate(variables, batch):
        return task.evaluate(merge(variables), batch)

    def probe(variables, batch, normalize):
        assert task.probe is not None
        with _in_evaluation(lambda name: name.startswith(begin)):  # a probe may run in training mode; its rate is 0
            return task.probe(merge(variables), batch, normalize)

    def outputs(variables, batch):
        assert task.outputs is not None
        return task.outputs(merge(variables), batch)

    return task._replace(init=init, loss=loss, evaluate=evaluate, probe=probe, outputs=outputs)


def split(variables: Mapping[str, Any], model: nn.Module, frozen: tuple[str, ...]) -> Variables:
    """Variables with the parameters of the frozen stages moved to a collection of their own.

    Raises:
      UsageError: an unknown stage, or nothing is left to train.
    """
    params = variables["params"]
    names = frozen_names(model, frozen, params)
    kept = {name: value for name, value in params.items() if name not in names}
    return {**variables, "params": kept, COLLECTION: {name: params[name] for name in params if name in names}}


def merge(variables: Mapping[str, Any]) -> Variables:
    """The inverse of ``split``: variables as the network knows them."""
    rest = {name: value for name, value in variables.items() if name != COLLECTION}
    return {**rest, "params": {**rest["params"], **variables.get(COLLECTION, {})}}


def top_level_calls(run: Callable[[], Any]) -> list[Call]:
    """The calls of a network's layers in order, nested ones left out; ``run`` is traced, and nothing computed."""
    found: list[Call] = []

    def record(call, args, kwargs, context):
        path = context.module.path
        if context.method_name == "__call__" and len(path) == 1:
            found.append(Call(context.module, path[0], _bound(context.module, args, kwargs).arguments))
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        jax.eval_shape(run)
    return found


def _quiet(calls: list[Call], begin: tuple[str, ...], with_parameters: set[str]) -> set[str]:
    """Names of the top-level layers that run in evaluation mode: of frozen stages, or feeding nothing but these."""
    frozen = {call.name for call in calls if call.name.startswith(begin)}
    feeds: dict[str, set[str]] = {}
    waiting: list[str] = []
    for call in calls:
        waiting.append(call.name)
        if call.name in with_parameters:
            for name in waiting:
                feeds.setdefault(name, set()).add(call.name)
            waiting = []
    feeds.update({name: {"logits"} for name in waiting})
    return frozen | {name for name, fed in feeds.items() if fed <= frozen}


@contextmanager
def _in_evaluation(chosen: Callable[[str], bool]) -> Iterator[None]:
    """Inside, top-level layers of the chosen names and all that they contain run in evaluation mode."""

    def intercept(call, args, kwargs, context):
        module = context.module
        if context.method_name != "__call__" or not module.path or not chosen(module.path[0]):
            return call(*args, **kwargs)
        bound = _bound(module, args, kwargs)
        if isinstance(module, nn.Dropout):
            return bound.arguments["inputs"]
        if isinstance(module, nn.BatchNorm):
            if module.use_running_average:
                return call(*args, **kwargs)
            fixed = module.clone(use_running_average=True, parent=module.scope)
            return fixed(bound.arguments["x"], mask=bound.arguments.get("mask"))
        if "train" in inspect.signature(type(module).__call__).parameters:
            bound.arguments["train"] = False
        return call(*bound.args, **bound.kwargs)

    with nn.intercept_methods(intercept):
        yield


def _bound(module: nn.Module, args: Any, kwargs: Any) -> inspect.BoundArguments:
    """The arguments of a call by name, without ``self``."""
    signature = inspect.signature(type(module).__call__)
    parameters = list(signature.parameters.values())[1:]
    return signature.replace(parameters=parameters).bind(*args, **kwargs)
