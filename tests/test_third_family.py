"""A new family is one folder and one row: nothing else in the project has to know it."""

import json

import numpy as np
import pytest
from resmlp import FAMILY, ROW, models

from utils.checkpoints import loading
from utils.conversion import convert
from utils.errors import ParityError
from utils.families import FAMILIES
from utils.families.variants import VARIANTS


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setitem(FAMILIES, FAMILY.name, FAMILY)
    monkeypatch.setitem(VARIANTS, ROW.name, ROW)


def test_a_third_family_goes_through_the_gate(tmp_path):
    import tensorflow as tf

    published = convert(ROW.name, checkpoint="synthetic", output_dir=str(tmp_path))
    manifest = json.loads(published.manifest.read_text(encoding="utf-8"))
    assert manifest["parity"]["passed"]
    assert {"gradients", "variables"} <= {row["output"] for row in manifest["parity"]["rows"]}
    inputs = np.random.default_rng(1).normal(size=(2, 48, 48, 3)).astype(np.float32)
    weights = loading.load(loading.resolve(ROW, "synthetic", 0), loading.Wanted(variant=ROW)).arrays
    expected = models.build(ROW.architecture, weights, "classification").outputs(inputs, "float64")["logits"]
    np.testing.assert_allclose(tf.saved_model.load(str(published.folder))(inputs), expected, atol=1e-5)


def test_a_third_family_s_fault_is_caught(tmp_path, monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(models, "gelu", lambda x: tf.nn.gelu(x, approximate=True))
    with pytest.raises(ParityError, match="logits"):
        convert(ROW.name, checkpoint="synthetic", output_dir=str(tmp_path))
    assert list(tmp_path.iterdir()) == []
