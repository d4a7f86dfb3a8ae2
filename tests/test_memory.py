"""Answers about networks are computed once, and anew where a network cannot be hashed."""

import flax.linen as nn

from cnnjax.memory import remembered


class Net(nn.Module):
    widths: object = (8,)


def test_equal_networks_have_one_answer_and_the_last_ones_are_remembered():
    asked = []
    answer = remembered(2)(lambda model, shape: asked.append(model) or len(asked))
    assert [answer(Net(), (8, 8, 1)) for _ in range(3)] == [1, 1, 1]
    assert answer(Net(widths=(4,)), (8, 8, 1)) == 2
    assert answer(Net(), (9, 9, 1)) == 3
    assert answer(Net(), (8, 8, 1)) == 4  # forgotten for the two after it


def test_a_network_that_cannot_be_hashed_is_asked_each_time():
    asked = []
    answer = remembered(2)(lambda model, shape: asked.append(model) or len(asked))
    assert [answer(Net(widths=bytearray(b"8")), (8,)) for _ in range(3)] == [1, 2, 3]
