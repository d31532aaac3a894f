"""TFLite's own converter, as people call it, takes every SavedModel by its built-in operations alone."""

import numpy as np
import own_models
import pytest
import tensorflow as tf
import tiny
from ai_edge_litert.interpreter import Interpreter
from gate.exports import proof_of

from utils.export import saved_model
from utils.families import FAMILIES
from utils.smaller.lite import operators

HEADS = ("classification", "fe")
# Of one's own: family, fields of the architecture, operations, side of the images (0: any).
OWN = [
    ("convmixer", {"activation": "gelu_tanh"}, "xla", 0),
    ("convmixer", {"channels": 1, "kernel_size": 4}, "xla", 32),
    ("convmixer", {"patch_size": 7}, "xla", 0),
    ("mixer", {"activation": "gelu"}, "xla", 32),
    ("mixer", {"activation": "relu", "channels": 1}, "plain", 32),
]


@pytest.fixture
def check(tmp_path):
    """Converts what is saved, in float and int8, and compares what it computes for a batch of two."""

    def check(exported, side):
        folder = saved_model.save_model(exported, tmp_path / "model")
        shape = (2, side, side, exported.input_shape[-1])
        inputs = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        expected = exported.call(tf.constant(inputs), False)
        # Without rounding 1e-6 at most was seen, with int8 kernels 1e-2.
        for optimizations, allowed in (([tf.lite.Optimize.DEFAULT], 5e-2), ([], 1e-5)):
            converter = tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=["serving_default"])
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
            converter.optimizations = optimizations
            content = converter.convert()
            run = Interpreter(model_content=content).get_signature_runner("serving_default")
            assert tiny.relative_l2(run(inputs=inputs)[exported.output], expected) < allowed
        return operators(content)

    return check


@pytest.mark.slow
@pytest.mark.parametrize(("head", "image_size"), [("classification", 48), ("fe", 0)])
@pytest.mark.parametrize("name", tiny.NAMES)
def test_of_every_convmixer(check, name, head, image_size):
    used = check(tiny.exported(name, head, image_size), image_size or 40)
    assert used.count("GELU") == (7 if name == "convmixer_tiny" else 0)


@pytest.mark.slow
@pytest.mark.parametrize("operations", ["xla", "plain"])
@pytest.mark.parametrize("head", HEADS)
def test_of_every_mixer(check, head, operations):
    check(tiny.mixer(head, operations)[0], 48)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "fields", "operations", "side"), OWN)
def test_of_ones_own(check, family, fields, operations, side):
    variant = own_models.own(family, **fields)
    arrays = own_models.weights(variant)
    source = proof_of(variant, arrays, "classification").source
    exported = FAMILIES[family].models.export(source, arrays, side, operations).function
    check(exported, side or 42)
