"""The Python call: the whole pipeline in one process."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tiny
from gate.faults import attribute
from own_checkpoints import of_classes, saved, training_file

from utils.artefact.opening import open_model
from utils.conversion import Conversion, convert
from utils.errors import ParityError
from utils.export import onnx_session, torch_to_onnx
from utils.families.convmixer import models
from utils.settings import Settings


@pytest.mark.slow
def test_training_file_of_ones_own_becomes_a_classifier_with_its_own_classes(tmp_path):
    average = of_classes(3)
    content = training_file(state_dict=of_classes(3), state_dict_ema=average)
    (tmp_path / "own.txt").write_text("cat\ndog\nœuf\n", encoding="utf-8")
    own = {"checkpoint": str(saved(tmp_path, content)), "labels": str(tmp_path / "own.txt"), "use_ema": True}
    published = convert("convmixer_tiny", **own, output_dir=str(tmp_path / "exports"))
    biases = {variable.name: variable.numpy() for variable in tf.saved_model.load(str(published.folder)).variables}
    np.testing.assert_array_equal(biases["head.bias:0"], average["head.bias"].numpy())
    assert open_model(str(published.tarball)).names == ("cat", "dog", "œuf")
    manifest = json.loads(published.manifest.read_text(encoding="utf-8"))
    assert manifest["model"]["architecture"]["classes"] == 3
    assert manifest["settings"]["use_ema"] is True
    assert "state_dict_ema was taken" in manifest["notes"][0]


@pytest.mark.slow
def test_image_size_zero_takes_images_of_any_height_and_width(tmp_path):
    file = tiny.GOLDEN / "convmixer_tiny.timm.pth.tar"
    published = convert("convmixer_tiny", checkpoint=str(file), image_size=0, output_dir=str(tmp_path))
    inputs = np.random.default_rng(3).normal(size=(2, 40, 64, 3)).astype(np.float32)
    expected = models.predictor(tiny.architecture("convmixer_tiny"), tiny.weights("convmixer_tiny"))(inputs)
    assert np.abs(tf.saved_model.load(str(published.folder))(inputs).numpy() - expected).max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("channels_last", "plant", "said"),
    [
        (True, attribute("Gelu", approximate="tanh"), "logits"),
        (False, attribute("BatchNormalization", epsilon=1e-3), r"the \.onnx file on onnxruntime"),
    ],
)
def test_export_that_computes_another_thing_is_not_published(tmp_path, monkeypatch, channels_last, plant, said):
    right = torch_to_onnx.export_onnx

    def export_onnx(model, output, **layout):
        graph = right(model, output, **layout)
        if layout.get("channels_last", True) == channels_last:
            plant(graph, None)
        return graph

    monkeypatch.setattr(torch_to_onnx, "export_onnx", export_onnx)
    given = {"checkpoint": "synthetic", "formats": "saved_model, onnx", "output_dir": str(tmp_path / "exports")}
    with pytest.raises(ParityError, match=said):
        convert("convmixer_tiny", **given)
    assert list((tmp_path / "exports").iterdir()) == []


@pytest.mark.slow
def test_nothing_is_published_that_was_not_compared(tmp_path):
    conversion = Conversion(Settings("convmixer_tiny", checkpoint="synthetic", output_dir=str(tmp_path)))
    conversion.check()
    conversion.load()
    conversion.export()
    conversion.save()
    with pytest.raises(ParityError, match="was not compared"):
        conversion.publish()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_everything_is_compared_and_another_image_size_is_the_manifest_s_and_the_record_s(tmp_path):
    formats = "saved_model, onnx"
    published = convert(
        "convmixer_tiny", checkpoint="synthetic", image_size=72, formats=formats, output_dir=str(tmp_path)
    )
    record = onnx_session.Session(tmp_path / f"{published.folder.name}.onnx").metadata
    manifest = json.loads(published.manifest.read_text("utf-8"))
    compared = {(row["output"], row["input"]) for row in manifest["parity"]["rows"]}
    inputs = ("noise", "ramp and block", "large", "photographs", "golden", "noise, probed")
    assert compared == {
        ("variables", ""),
        *(("logits", name) for name in inputs),
        ("gradients", "noise"),
        *((output, "photographs") for output in ("logits, training mode", "moving statistics")),
        *((f"logits, {signature}", "photographs") for signature in ("serving_image", "serving_image_bytes")),
    }
    for model in (manifest["model"], json.loads(record["model"])):
        assert [model["preprocessing"][key] for key in ("resize", "crop")] == [75, 72]
