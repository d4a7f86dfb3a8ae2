"""The logits in tests/golden are those of torchvision and timm, so that ours, held against them, are theirs too.

This is the comparison in evaluation mode of every network there; ``tests/weights/test_golden.py`` has its other half.
"""

import json

import numpy as np
import pytest

from cnnjax import models, weights
from tests.parity import golden
from tests.parity.reference import REFERENCES, Missing, state_dict

NAMES = sorted(path.stem for path in golden.FOLDER.glob("*.json") if path.stem in REFERENCES)


@pytest.mark.parametrize("name", NAMES)
def test_the_stored_logits_are_the_library_s_and_its_state_dict_comes_back(name):
    stored = json.loads((golden.FOLDER / f"{name}.json").read_text())
    try:
        module, size, found = golden.computed(name)
    except Missing as error:
        pytest.skip(str(error))
    expected = np.array(stored["logits"])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert size == stored["size"]
    fields = {"dense": tuple(stored["dense"])} if "dense" in stored else {}
    model, given = models.create(name, num_classes=stored["classes"], **fields), state_dict(module)
    exported = weights.export(weights.convert(given, model), model, stored["source"])
    assert set(exported) == {key for key in given if not key.endswith("num_batches_tracked")}
    for key, array in exported.items():
        np.testing.assert_array_equal(array, given[key], err_msg=key)
