"""Against torchvision and timm; see ``tests.parity.reference``. ``tests/golden`` holds the logits in evaluation."""

import jax.numpy as jnp
import numpy as np

from cnnjax import models, weights
from cnnjax.models.inception import AuxiliaryHead
from cnnjax.models.parts import parts
from cnnjax.nn import initializer
from tests.fixtures.networks import jit
from tests.parity import seeded
from tests.parity.reference import TOLERANCE, logits, state_dict

NAME = "inception_v3"
AUXILIARY = {"init_weights": False, "aux_logits": True, "transform_input": False}


def test_training(check_training):
    check_training(NAME, reference={"size": 139})  # the last map is 3x3


def test_timms_network_is_the_same(reference):
    """timm's has no auxiliary head unless asked. Ours reads its file by either name, and torchvision's without it."""
    timms, torchvisions = reference(NAME, library="timm", called=NAME, options={}), reference(NAME, options=AUXILIARY)
    tensors = state_dict(torchvisions)
    assert set(state_dict(timms)) == {key for key in tensors if not key.startswith("AuxLogits.")}
    x = seeded.images(2, 75)
    np.testing.assert_allclose(logits(timms, x), logits(torchvisions, x), rtol=1e-5, atol=1e-5)
    ours = models.create(NAME, num_classes=10)
    assert weights.LAYOUTS[type(ours)]["timm"](ours) == weights.LAYOUTS[type(ours)]["torchvision"](ours)
    weights.convert(state_dict(timms), ours, "timm")
    weights.convert(tensors, ours, "torchvision")


def test_auxiliary_logits(reference, torch):
    """The head alone, on the map of 17x17 that it has at 299 pixels."""
    module = reference(NAME, options=AUXILIARY).AuxLogits
    model = models.create(NAME, num_classes=10, auxiliary=True)
    variables = weights.convert(state_dict(reference(NAME, options=AUXILIARY)), model)
    own = {collection: values["auxiliary1"] for collection, values in variables.items()}
    head = AuxiliaryHead(10, parts(model, epsilon=1e-3), 1.0, initializer("he"), jnp.float32)
    x = seeded.images(2, 17, 768)
    with torch.no_grad():
        expected = module(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    actual = jit(lambda variables, x: head.apply(variables, x, False))(own, x)
    np.testing.assert_allclose(actual, expected, atol=TOLERANCE * np.abs(expected).max())
