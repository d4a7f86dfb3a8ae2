import math

import pytest

from cnnjax.sweep import Execution
from cnnjax.sweep.execution import LOWEST
from cnnjax.typing import UsageError

SECONDS = [name for name, lowest in LOWEST.items() if isinstance(lowest, float)]
BAD = [*((name, value) for name in SECONDS for value in (math.nan, math.inf, -math.inf, 1e300)),
       *((name, value) for name in LOWEST for value in (-1, 10**400, True))]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_number_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(UsageError, match=name):
        Execution(**{name: value})


@pytest.mark.parametrize("name", LOWEST)
def test_the_least_values_are_taken(name):
    assert getattr(Execution(**{name: LOWEST[name]}), name) == LOWEST[name]
