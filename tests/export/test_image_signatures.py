"""The image signatures: saved with every kind of model, giving what the model gives for what Pillow makes of a file."""

import io

import numpy as np
import pytest
import tensorflow as tf
import tiny
from PIL import Image

from utils.export import saved_model
from utils.export.image_signatures import image_signatures, signature_outputs
from utils.families.variants import get_variant
from utils.images.photographs import pillow_preprocess, sample_files, sample_photographs

KINDS = ("convmixer any size", "convmixer", "mixer xla", "mixer plain")
# A photograph in which one pixel of 3,000 is off by a level: 1/58 of the input there, less than 1e-3 after a model
# that averages over the image. An image that is turned, shifted or in another colour order moves logits by 0.1.
TOLERANCE = 5e-3


def exported(kind, head):
    if kind.startswith("mixer"):
        return tiny.mixer(head, kind.split()[1])[0]
    return tiny.exported("convmixer_tiny", head, None if kind.endswith("any size") else 48)


@pytest.fixture(
    scope="module",
    params=[
        *((kind, "classification") for kind in KINDS),
        *(tiny.slow((kind, "fe")) for kind in KINDS),
    ],
    ids="-".join,
)
def saved_kind(request, tmp_path_factory):
    """(kind, output, preprocessing, reloaded model) of each kind of model and head."""
    kind, head = request.param
    preprocessing = get_variant(f"{kind.split()[0]}_tiny").preprocessing
    folder = tmp_path_factory.mktemp("signatures") / "model"
    saved_model.save_model(exported(kind, head), folder, image_signatures(preprocessing))
    return kind, tiny.OUTPUTS[head], preprocessing, saved_model.load_model(folder)


def test_both_signatures_give_what_the_model_gives_for_the_photographs_of_pillow(saved_kind):
    _, output, preprocessing, model = saved_kind
    batch = np.stack([pillow_preprocess(image, preprocessing) for image in sample_photographs().values()])
    expected = model(batch).numpy()
    found = signature_outputs(model, sample_files(), output)
    assert list(found) == ["serving_image", "serving_image_bytes"]
    for name, values in found.items():
        assert values.dtype == np.float32, name
        np.testing.assert_allclose(values, expected, rtol=0, atol=TOLERANCE, err_msg=name)


def test_signatures_have_the_names_dtypes_and_shapes_of_the_contract(saved_kind):
    kind, output, _, model = saved_kind
    units = tiny.expected(f"{kind.split()[0]}_tiny")[output].shape[1]
    outputs = {output: {"dtype": "float32", "shape": [None, units]}}
    outputs |= {"probabilities": outputs[output]} if output == "logits" else {}
    described = saved_model.describe_signatures(model)
    sides = [None if kind.endswith("any size") else 48] * 2
    images = {"images": {"dtype": "uint8", "shape": [None, None, None, 3]}}
    assert described == {
        "serving_default": {
            "inputs": {"inputs": {"dtype": "float32", "shape": [None, *sides, 3]}},
            "outputs": {output: outputs[output]},
        },
        "serving_image": {"inputs": images, "outputs": outputs},
        "serving_image_bytes": {"inputs": {"image_bytes": {"dtype": "string", "shape": [None]}}, "outputs": outputs},
    }


def test_probabilities_are_the_softmax_of_the_logits(saved_kind):
    _, output, _, model = saved_kind
    if output == "logits":
        found = model.signatures["serving_image_bytes"](image_bytes=tf.constant(list(sample_files().values())))
        exponentials = np.exp(found["logits"].numpy().astype(np.float64))
        expected = exponentials / exponentials.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(found["probabilities"], expected, atol=1e-6)


def test_a_batch_of_images_of_one_size_is_taken_as_pixels_and_as_png(saved_kind):
    _, output, _, model = saved_kind
    images = np.random.default_rng(0).integers(0, 256, (3, 61, 70, 3), dtype=np.uint8)
    encoded = []
    for image in images:
        Image.fromarray(image).save(file := io.BytesIO(), "PNG")
        encoded.append(file.getvalue())
    together = model.signatures["serving_image"](images=images)[output].numpy()
    by_bytes = model.signatures["serving_image_bytes"](image_bytes=tf.constant(encoded))[output].numpy()
    np.testing.assert_allclose(together, by_bytes, rtol=0, atol=1e-5)
