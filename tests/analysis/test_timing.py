import jax.numpy as jnp

from cnnjax.analysis.timing import seconds_by_turn


def test_all_are_called_in_every_turn_and_the_first_turn_is_dropped():
    called = []

    def function(name):
        def call():
            called.append(name)
            return jnp.zeros(())

        return call

    found = seconds_by_turn({name: function(name) for name in "ab"}, 3)
    assert called == list("ab") * 4
    assert [set(turn) for turn in found] == [{"seconds_a", "seconds_b"}] * 3
    assert all(seconds > 0 for turn in found for seconds in turn.values())
