"""Answers about networks, remembered: to trace a deep one takes half a second, and several places ask the same."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def remembered(count: int) -> Callable[[Function], Function]:
    """A decorator: the last ``count`` answers are remembered, by the arguments, which are a network and its shapes.

    A network of one's own may have a field that cannot be hashed; then the answer is computed each time.
    """

    def decorate(function: Function) -> Function:
        kept = functools.lru_cache(maxsize=count)(function)

        @functools.wraps(function)
        def answer(*arguments: Any) -> Any:
            try:
                hash(arguments)
            except TypeError:
                return function(*arguments)
            return kept(*arguments)

        return answer  # type: ignore[return-value]

    return decorate
