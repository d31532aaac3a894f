"""Requests that TensorFlow Serving runs before it says that a model is ready, so that no user waits for the first run.

A TFRecord file of `PredictionLog` messages. Their classes are in tensorflow-serving-api, which demands a TensorFlow and
a protobuf as new as itself and would replace Colab's; what is needed of them are five fields, written here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from google.protobuf.message import Message

WARMUP = Path("assets.extra") / "tf_serving_warmup_requests"  # where Serving looks for it
# Field numbers, from tensorflow_serving/apis: prediction_log.proto, predict.proto and model.proto.
_PREDICT_LOG, _REQUEST, _MODEL_SPEC, _INPUTS, _SIGNATURE_NAME = 6, 1, 1, 2, 3
_KEY, _VALUE = 1, 2  # of an entry of a map, by the protobuf encoding
_LENGTH_DELIMITED = 2  # the wire type of strings, bytes and messages


def write_warmup(model_dir: str | os.PathLike, size: int) -> Path:
    """Writes one request for each signature of a model with image signatures into its SavedModel folder.

    size: height and width of the one grey image in each request, in pixels: what `serving_default` takes.
    """
    path = Path(model_dir) / WARMUP
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as file:
        for signature, argument, tensor in _requests(size):
            file.write(_prediction_log(signature, argument, tensor))
    return path


def _requests(size: int) -> Iterator[tuple[str, str, Message]]:
    # One value stands for all of a tensor's: TensorFlow repeats the last one.
    shape = tf.TensorShape([1, size, size, 3]).as_proto()
    proto = type(tf.make_tensor_proto(0.0))
    yield "serving_default", "inputs", proto(dtype=tf.float32.as_datatype_enum, tensor_shape=shape, float_val=[0.0])
    yield "serving_image", "images", proto(dtype=tf.uint8.as_datatype_enum, tensor_shape=shape, int_val=[128])
    jpeg = tf.io.encode_jpeg(tf.fill([size, size, 3], tf.constant(128, tf.uint8))).numpy()
    yield "serving_image_bytes", "image_bytes", tf.make_tensor_proto([jpeg])


def _prediction_log(signature: str, argument: str, tensor: Message) -> bytes:
    """A `PredictionLog` of a `PredictRequest`. No model's name: whoever starts the server gives it one."""
    model_spec = _field(_SIGNATURE_NAME, signature.encode())
    inputs = _field(_KEY, argument.encode()) + _field(_VALUE, tensor.SerializeToString())
    request = _field(_MODEL_SPEC, model_spec) + _field(_INPUTS, inputs)
    return _field(_PREDICT_LOG, _field(_REQUEST, request))


def _field(number: int, contents: bytes) -> bytes:
    return bytes([number << 3 | _LENGTH_DELIMITED]) + _varint(len(contents)) + contents


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth bit says that more follow."""
    coded = bytearray()
    while value > 0x7F:
        coded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*coded, value])
