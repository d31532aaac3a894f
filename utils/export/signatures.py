"""Signatures that take photographs as they are: preprocessing, then the model, in one graph.

They are held against Pillow and against the model that they end in, and warmed up for TensorFlow Serving.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import Message

from utils.families.variants import Preprocessing
from utils.images.photographs import levels, sample_files
from utils.images.preprocessing import decode, preprocess, preprocess_bytes
from utils.parity import comparison
from utils.parity.judge import PREPROCESSING_TOLERANCE, Row
from utils.parity.reference import Judgement
from utils.parity.report import Report

WARMUP = Path("assets.extra") / "tf_serving_warmup_requests"  # where Serving looks for it


def image_signatures(
    preprocessing: Preprocessing,
) -> Callable[[Callable], Mapping[str, tf.types.experimental.ConcreteFunction]] | None:
    """What `saved_model.save_model` is given as `image_signatures`, for a model that was trained on `preprocessing`.

    serving_image: `images` uint8 [B, H, W, 3], any size. serving_image_bytes: `image_bytes` string [B], JPEG or PNG,
    each of its own size. Both give what `serving_default` gives (float32 [B, units]), and `probabilities` where
    that is logits. None for a model of other channels than photographs have.
    """
    if not preprocessing.takes_photographs:
        return None

    def signatures(serving: Callable) -> Mapping[str, tf.types.experimental.ConcreteFunction]:
        def predict(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            outputs = dict(serving(inputs=inputs))
            if "logits" in outputs:
                outputs["probabilities"] = tf.nn.softmax(outputs["logits"])
            return outputs

        @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")])
        def serving_image(images: tf.Tensor) -> dict[str, tf.Tensor]:
            return predict(preprocess(images, preprocessing))

        @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
        def serving_image_bytes(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
            return predict(preprocess_bytes(image_bytes, preprocessing))

        return {
            "serving_image": serving_image.get_concrete_function(),
            "serving_image_bytes": serving_image_bytes.get_concrete_function(),
        }

    return signatures


# --- what they give


def signature_outputs(model: Any, files: Mapping[str, bytes], output: str) -> dict[str, np.ndarray]:
    """What both signatures of a loaded model give for JPEG or PNG files: float32 [files, units] by signature.

    output: "logits", "probabilities" or "features". `serving_image_bytes` gets the files as one batch,
    `serving_image` each by itself, since they are of different sizes.
    """
    by_image, by_bytes = (model.signatures[name] for name in ("serving_image", "serving_image_bytes"))
    one_by_one = [by_image(images=decode(file)[tf.newaxis])[output] for file in files.values()]
    together = by_bytes(image_bytes=tf.constant(list(files.values())))[output]
    return {"serving_image": tf.concat(one_by_one, 0).numpy(), "serving_image_bytes": together.numpy()}


def compare_signatures(
    model: Any,
    function: Callable[[np.ndarray], np.ndarray],
    preprocessing: Preprocessing,
    normalised: Mapping[str, np.ndarray],
    output: str,
    tolerance: float,
) -> tuple[Report, list[Row]]:
    """Compares the graph's preprocessing with Pillow's, and both signatures with the model by itself.

    Args:
        model: the loaded SavedModel.
        function: the model by itself, of float32 [B, H, W, C].
        preprocessing: what its graph does.
        normalised: the sample photographs that are taken, as Pillow prepares them, float32 [H, W, C] by title.
        output: "logits" or "features".
        tolerance: between function and signatures, which run one model in batches of other sizes, and so round
            otherwise.

    Returns:
        The report on pixels, in levels of 0 to 255, and the rows of both signatures.

    Raises:
        ParityError: the pixels are not Pillow's.
    """
    files = {title: file for title, file in sample_files().items() if title in normalised}
    batch = preprocess_bytes(list(files.values()), preprocessing).numpy()
    pixels = comparison.compare_arrays(
        {title: levels(normalised[title], preprocessing) for title in files},
        dict(zip(files, levels(batch, preprocessing), strict=True)),
        output="preprocessing",
        tolerance=PREPROCESSING_TOLERANCE,
        input_name="levels of 255",
        batch=1,
    )
    report = Report(pixels)
    report.require()
    rows, expected = [], {"": function(batch)}
    settings = {"tolerance": tolerance, "l2": True, "input_name": "photographs", "batch": len(files)}
    for signature, found in signature_outputs(model, files, output).items():
        rows += comparison.compare_arrays(expected, {"": found}, output=f"{output}, {signature}", **settings)
    return report, rows


def compare_reference(
    model: Any,
    judgement: Judgement,
    preprocessing: Preprocessing,
    output: str,
    truth: Callable[[np.ndarray], np.ndarray],
    tolerance: float,
) -> tuple[list[Row], list[Row]]:
    """Compares the whole way of the maker's photographs, through `serving_image`, with the maker's own answers.

    Args:
        model: the loaded SavedModel.
        judgement: one with photographs.
        preprocessing: what the model's graph does.
        output: "logits" or "features"; of another one than the maker's, the truth takes their place.
        truth: the source in float64, of float32 [B, H, W, channels].
        tolerance: of an export's outputs, as the gate allows it.

    Returns:
        The row of the pixels, and that of the output. This may differ by what the graph's other pixels make in the
        truth, and twice by `tolerance`, or by the maker's own error where that is larger.
    """
    images, answers, maker = judgement.reference.images, judgement.photographs, judgement.image_outputs
    settings = {"input_name": answers.title, "batch": len(images)}
    pixels = preprocess(tf.constant(images), preprocessing).numpy()
    in_levels = ({"": levels(each, preprocessing)} for each in (answers.inputs, pixels))
    rows = comparison.compare_arrays(*in_levels, output="preprocessing", tolerance=PREPROCESSING_TOLERANCE, **settings)
    expected, moved = truth(answers.inputs), truth(pixels)
    allowed = np.linalg.norm(moved - expected) / np.linalg.norm(expected) + 2 * tolerance
    if maker.output.startswith(output):
        expected, allowed = answers.outputs, allowed + max(0, maker.figure - tolerance)
    found = model.signatures["serving_image"](images=tf.constant(images))[output].numpy()
    title = f"{output}, serving_image"
    return rows, comparison.compare_arrays(
        {"": expected}, {"": found}, output=title, tolerance=float(allowed), l2=True, **settings
    )


# --- warm-up


def write_warmup(model_dir: str | os.PathLike, preprocessing: Preprocessing) -> None:
    """Writes requests that TensorFlow Serving runs before it says that a model is ready: no user waits for the first.

    There is one for each signature but that of maps, which few servers are asked for, in a TFRecord file of
    `PredictionLog` messages. Their classes are in
    tensorflow-serving-api, which demands a TensorFlow and a protobuf as new as itself and would replace Colab's; what
    is needed of them are five fields, written here.

    preprocessing: what `serving_default` takes; each request has one image of that size, whose levels are all alike.
    """
    path = Path(model_dir) / WARMUP
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as file:
        for signature, argument, tensor in _requests(preprocessing):
            # Fields by their numbers in tensorflow_serving/apis. No model's name: whoever starts the server gives one.
            model_spec = _field(3, signature.encode())  # ModelSpec.signature_name
            inputs = _field(1, argument.encode()) + _field(2, tensor.SerializeToString())  # key and value of a map
            request = _field(1, model_spec) + _field(2, inputs)  # PredictRequest.model_spec, .inputs
            file.write(_field(6, _field(1, request)))  # PredictionLog.predict_log, PredictLog.request


def _requests(preprocessing: Preprocessing) -> Iterator[tuple[str, str, Message]]:
    # One value stands for all of a tensor's: TensorFlow repeats the last one.
    size, proto = preprocessing.crop, type(tf.make_tensor_proto(0.0))
    shape = tf.TensorShape([1, size, size, preprocessing.channels]).as_proto()
    yield "serving_default", "inputs", proto(dtype=tf.float32.as_datatype_enum, tensor_shape=shape, float_val=[0.0])
    if not preprocessing.takes_photographs:
        return
    shape = tf.TensorShape([1, size, size, 3]).as_proto()
    yield "serving_image", "images", proto(dtype=tf.uint8.as_datatype_enum, tensor_shape=shape, int_val=[128])
    jpeg = tf.io.encode_jpeg(tf.fill([size, size, 3], tf.constant(128, tf.uint8))).numpy()
    yield "serving_image_bytes", "image_bytes", tf.make_tensor_proto([jpeg])


def _field(number: int, contents: bytes) -> bytes:
    """A field of strings, bytes or a message in protobuf's encoding: wire type 2, and the length as a varint.

    A varint has seven bits a byte, the lowest first; the eighth bit says that more follow.
    """
    length, varint = len(contents), bytearray()
    while length > 0x7F:
        varint.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([number << 3 | 2, *varint, length]) + contents
