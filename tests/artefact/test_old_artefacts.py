"""Artefacts that earlier versions wrote, by manifest schema, as today's code reads them."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from gate.exports import noise

from utils.export import saved_model
from utils.predict.model import load_model
from utils.verify.command import main as verify

FOLDER = Path(__file__).resolve().parents[1] / "data" / "artefacts"  # its README says how they were made
FILES = sorted(path for path in FOLDER.rglob("*") if path.suffix in (".gz", ".keras", ".onnx", ".tflite"))
SCHEMAS = ("schema_0", "schema_1")
NAME = "{0.parent.name}/{0.name}".format


def test_every_schema_has_an_artefact_of_each_kind():
    for schema in SCHEMAS:
        kinds = {path.suffix for path in FILES if path.parent.name == schema}
        assert kinds == {".gz", ".keras", ".onnx", ".tflite"}


@pytest.mark.parametrize("path", FILES, ids=NAME)
def test_an_old_artefact_verifies_and_computes(path, capsys):
    assert verify([str(path)]) == 0, capsys.readouterr().out
    model = load_model(str(path))
    outputs = np.asarray(model.run(noise(2, model.opened.preprocessing.crop)))
    assert outputs.shape == (2, model.opened.units)


@pytest.mark.parametrize("path", (each for each in FILES if each.suffix == ".gz"), ids=NAME)
def test_an_old_saved_model_trains_a_step(path):
    opened = load_model(str(path)).opened
    model = saved_model.load_model(opened.folder)
    before = [variable.numpy() for variable in model.trainable_variables]
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(noise(2, opened.preprocessing.crop), training=True)))
    gradients = tape.gradient(loss, model.trainable_variables)
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        variable.assign_sub(0.01 * gradient)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    changed = [np.any(variable.numpy() != old) for variable, old in zip(model.trainable_variables, before, strict=True)]
    assert np.mean(changed) > 0.9
