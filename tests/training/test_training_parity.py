"""Ten SGD steps on the export and on its source: the same losses, the same weights; and a planted fault shows."""

import numpy as np
import pytest

from benchmarks import training_parity as parity
from utils.families.variants import get_variant
from utils.keras_models import conversion

pytestmark = pytest.mark.slow
NAMES = ("convmixer_tiny", "convmixer_tiny_relu", "mixer_tiny")


@pytest.fixture(scope="module")
def rows():
    return list(parity.samples(NAMES))


def test_both_families_train_as_their_source_does_with_batch_norm_in_both_modes(rows):
    assert [(row["variant"], row["export"], row["batch_norm"]) for row in rows] == [
        ("convmixer_tiny", "onnx-tf", "moving statistics"),
        ("convmixer_tiny", "onnx-tf", "batch's statistics"),
        ("convmixer_tiny", ".keras", "batch's statistics"),
        ("convmixer_tiny_relu", "onnx-tf", "moving statistics"),
        ("convmixer_tiny_relu", "onnx-tf", "batch's statistics"),
        ("convmixer_tiny_relu", ".keras", "batch's statistics"),
        ("mixer_tiny", "xla", "none"),
        ("mixer_tiny", "plain", "none"),
        ("mixer_tiny", ".keras", "none"),
    ]
    for row in rows:
        assert row["loss"] <= 1e-4, row
        assert row["weights"] <= 1e-3, row
        assert row["change"] <= 1e-3, row
        assert row["passed"]
        assert row["last_loss"] < 0.9 * row["first_loss"], row  # the steps are real ones


def test_the_table_says_what_was_found(rows):
    table = parity.table([rows[0] | {"loss": 2e-4, "passed": False}])
    assert "| convmixer_tiny | PyTorch | onnx-tf | moving statistics | 8 |" in table
    assert table.endswith("| no |")
    assert "2.0e-04" in table


@pytest.mark.parametrize("fault", ["the other mode of BatchNorm", "one weight changed by 1 %"])
def test_a_planted_fault_does_not_pass(tmp_path, fault):
    from utils.export.saved_model import load_model, save_model

    variant = get_variant("convmixer_tiny")
    images, labels = parity.task(variant, 8)
    start, source = parity.train_source(variant, images, labels, True)
    folder, axes = parity.save(variant, "onnx-tf", tmp_path)
    if fault == "one weight changed by 1 %":
        import tiny

        exported = tiny.exported("convmixer_tiny", "classification", 48)
        for variable, right in zip(exported.variables.values(), load_model(folder).variables, strict=True):
            variable.assign(right * (1.01 if variable.name.startswith("head.weight") else 1.0))
        folder = save_model(exported, tmp_path / "faulty")
    training = fault != "the other mode of BatchNorm"
    export = parity.train_export(folder, images, labels, training, parity.learning_rate(variant))
    back = {n: a.transpose(np.argsort(axes[n])) if n in axes else a for n, a in export.weights.items()}
    row = parity.compare(start, source, parity.Run(export.losses, back))
    assert not row["passed"]


@pytest.mark.parametrize("fault", ["PyTorch's variance expected", "statistics kept", "one weight changed by 1 %"])
def test_a_planted_fault_in_a_keras_file_does_not_pass(monkeypatch, fault):
    variant = get_variant("convmixer_tiny")
    images, labels = parity.task(variant, 8)
    start, source = parity.train_source(variant, images, labels, True)
    write = conversion.write
    if fault == "PyTorch's variance expected":
        images, labels = images[:1], labels[:1]  # where it makes a difference: 144 values of a channel
        start, source = parity.train_source(variant, images, labels, True)
        monkeypatch.setattr("utils.keras_models.conventions.with_keras_variances", lambda found, *_: found)
    elif fault == "statistics kept":
        monkeypatch.setattr("utils.families.convmixer.keras_model.MOMENTUM", 1.0)
    else:
        arrays = start | {"head.weight": start["head.weight"] * np.float32(1.01)}
        monkeypatch.setattr(conversion, "write", lambda path, variant, _, *more: write(path, variant, arrays, *more))
    assert not parity.compare_keras(variant, images, labels, start, source)["passed"]
