"""The image signatures: saved with every kind of model, giving what the model gives for what Pillow makes of a file."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tiny
from makers import photographs_of
from PIL import Image

from utils.export import saved_model
from utils.export.signatures import compare_reference, image_signatures, signature_outputs, write_warmup
from utils.families import FAMILIES
from utils.families.variants import get_variant
from utils.images.photographs import pillow_preprocess, sample_files, sample_photographs
from utils.parity.reference import Answers, Reference, judge
from utils.parity.references import References
from utils.parity.report import Report

# A photograph in which one pixel of 3,000 is off by a level: 1/58 of the input there, less than 1e-3 after a model
# that averages over the image. An image that is turned, shifted or in another colour order moves logits by 0.1.
TOLERANCE = 5e-3
MIXER_MAPS = ("stem", "block_0", "block_1")


@pytest.fixture(
    scope="module",
    params=[
        ("convmixer any size", "classification"),
        ("mixer xla", "classification"),
        ("mixer plain", "fe"),
        tiny.slow(("convmixer", "fe")),
    ],
    ids="-".join,
)
def saved_kind(request, tmp_path_factory):
    """(kind, output, preprocessing, folder, reloaded model) of each kind of model."""
    kind, head = request.param
    preprocessing = get_variant(f"{kind.split()[0]}_tiny").preprocessing
    if kind.startswith("mixer"):
        exported, _ = tiny.mixer(head, kind.split()[1])
    else:
        exported = tiny.exported("convmixer_tiny", head, None if kind.endswith("any size") else 48)
    folder = tmp_path_factory.mktemp("tiny") / "1"  # <name>/<version>/, as Serving wants it
    saved_model.save_model(exported, folder, image_signatures(preprocessing))
    write_warmup(folder, preprocessing)
    return kind, tiny.OUTPUTS[head], preprocessing, folder, saved_model.load_model(folder)


def test_both_signatures_give_what_the_model_gives_for_the_photographs_of_pillow(saved_kind):
    _, output, preprocessing, _, model = saved_kind
    batch = np.stack([pillow_preprocess(image, preprocessing) for image in sample_photographs().values()])
    expected = model(batch).numpy()
    for name, values in signature_outputs(model, sample_files(), output).items():
        assert values.dtype == np.float32, name
        np.testing.assert_allclose(values, expected, rtol=0, atol=TOLERANCE, err_msg=name)
    if output == "logits":
        found = signature_outputs(model, sample_files(), "probabilities")["serving_image_bytes"]
        np.testing.assert_allclose(found, tf.nn.softmax(expected), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("darker", [0, 5])
def test_the_makers_photographs_are_compared_the_whole_way(saved_kind, darker):
    """A SavedModel that subtracts five levels less than the maker shows."""
    kind, output, preprocessing, _, model = saved_kind
    name = f"{kind.split()[0]}_tiny"
    models, architecture = FAMILIES[kind.split()[0]].models, tiny.architecture(name)
    source = models.build(
        architecture, tiny.weights(name) if "conv" in kind else tiny.mixer_weights(), "classification"
    )
    preprocessing = replace(preprocessing, mean=tuple(mean + darker for mean in preprocessing.mean))
    images, prepare = photographs_of(200, 300), lambda image: pillow_preprocess(Image.fromarray(image), preprocessing)
    prepared = np.stack([prepare(image) for image in images])
    outputs = source.outputs(prepared, "float32")["logits"]
    reference = Reference(
        Path("reference.npz"), "", Answers("reference", prepared, outputs, ("logits",)), images, outputs
    )
    judgement = judge(reference, architecture, lambda _: source, References(name), prepare)
    truth = lambda inputs: source.outputs(inputs, "float64")[output]  # noqa: E731
    pixels, rows = compare_reference(model, judgement, preprocessing, output, truth, judgement.outputs.tolerance)
    assert Report(pixels).passed
    assert Report(rows).passed == (darker == 0)
    assert rows[0].tolerance < 1e-3


def test_signatures_have_the_names_dtypes_and_shapes_of_the_contract(saved_kind):
    kind, output, _, _, model = saved_kind
    units = tiny.expected(f"{kind.split()[0]}_tiny")[output].shape[1]
    outputs = {output: {"dtype": "float32", "shape": [None, units]}}
    outputs |= {"probabilities": outputs[output]} if output == "logits" else {}
    sides = [None if kind.endswith("any size") else 48] * 2
    images = {"images": {"dtype": "uint8", "shape": [None, None, None, 3]}}
    inputs = {"inputs": {"dtype": "float32", "shape": [None, *sides, 3]}}
    expected = {
        "serving_default": {"inputs": inputs, "outputs": {output: outputs[output]}},
        "serving_image": {"inputs": images, "outputs": outputs},
        "serving_image_bytes": {"inputs": {"image_bytes": {"dtype": "string", "shape": [None]}}, "outputs": outputs},
    }
    if output == "features":
        side, names = (12, ("stem", "block_0", "block_1", "block_2")) if "conv" in kind else (6, MIXER_MAPS)
        maps = {"dtype": "float32", "shape": [None, side, side, units]}
        expected["serving_features"] = {"inputs": inputs, "outputs": dict.fromkeys(names, maps)}
    assert saved_model.describe_signatures(model) == expected


def test_a_batch_of_images_of_one_size_is_taken_as_pixels_and_as_png(saved_kind):
    _, output, _, _, model = saved_kind
    images = np.random.default_rng(0).integers(0, 256, (3, 61, 70, 3), dtype=np.uint8)
    encoded = []
    for image in images:
        Image.fromarray(image).save(file := io.BytesIO(), "PNG")
        encoded.append(file.getvalue())
    together = model.signatures["serving_image"](images=images)[output].numpy()
    by_bytes = model.signatures["serving_image_bytes"](image_bytes=tf.constant(encoded))[output].numpy()
    np.testing.assert_allclose(together, by_bytes, rtol=0, atol=1e-5)


def test_each_signature_has_a_warm_up_request_that_it_answers(saved_kind):
    """Read by TensorFlow Serving's own message definitions."""
    prediction_log = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    _, output, _, folder, model = saved_kind
    seen = []
    for record in tf.data.TFRecordDataset(str(folder / "assets.extra" / "tf_serving_warmup_requests")):
        request = prediction_log.PredictionLog.FromString(record.numpy()).predict_log.request
        signature = request.model_spec.signature_name
        inputs = {
            name: tf.io.parse_tensor(tensor.SerializeToString(), tf.as_dtype(tensor.dtype))
            for name, tensor in request.inputs.items()
        }
        assert len(model.signatures[signature](**inputs)[output]) == 1
        seen.append(signature)
    assert seen == ["serving_default", "serving_image", "serving_image_bytes"]
