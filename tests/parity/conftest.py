"""Comparisons with torchvision and timm, skipped where these cannot be imported.

A test of a family takes the functions of ``tests.parity.reference`` as fixtures:

    @pytest.mark.parametrize("name", ["resnet18", "resnet50"])
    def test_evaluation(name, check_evaluation):
        check_evaluation(name)

    def test_a_wide_one_of_timm(check_training):
        check_training("resnet50", reference={"library": "timm", "called": "resnet50", "size": 64})
"""

from functools import wraps

import pytest

from tests.parity import reference as references


def _skipping(function):
    @wraps(function)
    def call(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except references.Missing as error:
            pytest.skip(str(error))

    return call


@pytest.fixture(scope="session")
def reference():
    """reference(name, **attributes): the torch module with seeded weights; the attributes of ``Reference``."""

    def build(name, **attributes):
        known = references.REFERENCES.get(name, references.Reference(name))
        return references.build(references.dataclasses.replace(known, **attributes))

    return _skipping(build)


@pytest.fixture(scope="session")
def check_evaluation():
    """See ``tests.parity.reference.check_evaluation``."""
    return _skipping(references.check_evaluation)


@pytest.fixture(scope="session")
def check_training():
    """See ``tests.parity.reference.check_training``."""
    return _skipping(references.check_training)


@pytest.fixture(scope="session")
def check_shapes():
    """See ``tests.parity.reference.check_shapes``."""
    return _skipping(references.check_shapes)


@pytest.fixture(scope="session")
def torch():
    """The library, for networks that a test writes itself."""
    return _skipping(references.library)("torch")
