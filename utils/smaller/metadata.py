"""TFLite Metadata: what MediaPipe's ImageClassifier asks a .tflite file about itself.

A flatbuffer of its own, in the model's buffer `TFLITE_METADATA`: that the input is a picture in levels of 0 to 255, and
which of the files after the model (`lite_file`) names the classes. Tables and fields are those of `metadata_schema.fbs`
(https://github.com/google-ai-edge/mediapipe/tree/master/mediapipe/tasks/metadata). MediaPipe has a writer, but brings
OpenCV and 500 MB with it, and stamps its archive with the time of day; TensorFlow Lite Support's has no wheel for
Python 3.12.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from utils.artefact.manifest import licence
from utils.artefact.opening import Pretrained

_KEY, _IDENTIFIER, _PARSER = "TFLITE_METADATA", b"M001", "1.0.0"  # the oldest parser knows all that is used here
# Of unions and enumerations.
_FEATURE_PROPERTIES, _IMAGE_PROPERTIES, _NORMALIZATION, _AXIS_LABELS = 1, 2, 1, 2
_COLOURS = {3: 1, 1: 2}  # by number of channels: RGB, greyscale


def with_metadata(model: bytes, artefact: Pretrained, name: str, labels_file: str | None) -> bytes:
    """The TFLite model with its metadata; the same input gives the same bytes.

    Args:
        model: the bytes of the TFLite model.
        artefact: what it was made from.
        name: of the smaller file.
        labels_file: in the archive after the model, a class name per line; None where the classes have no names.
    """
    # Read into objects and written again, as TensorFlow's converter does at its end: else buffers could not be added.
    content = flatbuffer_utils.convert_bytearray_to_object(model)
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(_metadata(artefact, name, labels_file), np.uint8)
    entry.name, entry.buffer = _KEY, len(content.buffers)
    content.buffers.append(buffer)
    content.metadata = [*(content.metadata or []), entry]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(content))


def _metadata(artefact: Pretrained, name: str, labels_file: str | None) -> bytes:
    builder = flatbuffers.Builder(1024)
    text, floats = builder.CreateString, lambda values: builder.CreateNumpyVector(np.asarray(values, np.float32))
    options = _table(builder, {0: floats([0]), 1: floats([1])})  # mean and standard deviation: levels as they are
    normalisation = _table(builder, {1: options}, {0: _NORMALIZATION})
    colours = _COLOURS[artefact.preprocessing.channels]
    pictures = _table(builder, {1: _table(builder, {}, {0: colours})}, {0: _IMAGE_PROPERTIES})
    taken = _table(builder, {0: text("images"), 3: pictures, 4: _vector(builder, [normalisation])})
    numbers = _table(builder, {1: _table(builder, {})}, {0: _FEATURE_PROPERTIES})
    given = {0: text(artefact.output), 3: numbers}
    if labels_file:
        given[6] = _vector(builder, [_table(builder, {0: text(labels_file)}, {2: _AXIS_LABELS})])
    sides = {2: _vector(builder, [taken]), 3: _vector(builder, [_table(builder, given)])}
    graphs, terms = _vector(builder, [_table(builder, sides)]), licence(artefact.manifest)[0]
    builder.Finish(_table(builder, {0: text(name), 3: graphs, 5: text(terms), 7: text(_PARSER)}), _IDENTIFIER)
    return bytes(builder.Output())


def _table(builder: flatbuffers.Builder, offsets: Mapping[int, int], numbers: Mapping[int, int] | None = None) -> int:
    """A table of other objects and of numbers of a byte, each by its field; returns where it is."""
    builder.StartObject(1 + max([*offsets, *(numbers or {})], default=-1))
    for field, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(field, offset, 0)
    for field, number in (numbers or {}).items():
        builder.PrependUint8Slot(field, number, 0)
    return builder.EndObject()


def _vector(builder: flatbuffers.Builder, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()
