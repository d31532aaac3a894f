"""The TFLite model itself: it takes levels, LiteRT and TensorFlow run it alike, and its metadata are read as meant."""

import sys
import warnings
from types import SimpleNamespace

import flatbuffers.table
import numpy as np
import pytest
import tiny
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import number_types

from utils.export import saved_model
from utils.families.variants import Preprocessing
from utils.smaller.lite import convert_to_lite
from utils.smaller.metadata import with_metadata
from utils.verify import numbers

PREPROCESSING = Preprocessing(10, 8, (100.0, 110.0, 120.0), (50.0, 60.0, 70.0), "bicubic")  # each channel its own
ARTEFACT = SimpleNamespace(
    output="logits",
    preprocessing=PREPROCESSING,
    manifest={"weights": "official", "model": {"licence": "MIT", "licence_url": ""}},
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """(SavedModel as a function, TFLite model) of something small."""
    folder = saved_model.save_model(tiny.small(), tmp_path_factory.mktemp("small") / "model")
    scratch = tmp_path_factory.mktemp("scratch")
    lite = convert_to_lite(folder, "float32", PREPROCESSING, scratch)
    return saved_model.as_function(saved_model.load_model(folder)), lite


@pytest.fixture
def path(model, tmp_path):
    (tmp_path / "model.tflite").write_bytes(model[1])
    return tmp_path / "model.tflite"


INPUTS = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)


@pytest.mark.parametrize("runtime", ["LiteRT 2.", "TensorFlow"])
def test_it_takes_levels_and_normalises_them_by_channel_in_either_runtime(model, path, monkeypatch, runtime):
    if runtime == "TensorFlow":  # where LiteRT is not installed; its interpreter would warn
        monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    assert numbers.lite_runtime()[1].startswith(runtime)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = numbers.lite_function(path, PREPROCESSING)(INPUTS)["logits"]
    np.testing.assert_allclose(found, model[0](INPUTS), rtol=0, atol=1e-5)


def field(table, number):
    """Where a table's field is, counted from the schema's first; 0 where it has none."""
    offset = table.Offset(4 + 2 * number)
    return offset and offset + table.Pos


def child(table, number):
    return flatbuffers.table.Table(table.Bytes, table.Indirect(field(table, number)))


def children(table, number):
    offset = table.Offset(4 + 2 * number)
    start = table.Vector(offset)
    return [flatbuffers.table.Table(table.Bytes, table.Indirect(start + 4 * i)) for i in range(table.VectorLen(offset))]


def text(table, number):
    return table.String(field(table, number)).decode()


def floats(table, number):
    return table.GetVectorAsNumpy(number_types.Float32Flags, table.Offset(4 + 2 * number)).tolist()


def metadata_of(lite):
    """The root table, by TFLite's own schema."""
    content = schema.Model.GetRootAs(lite, 0)
    entries = [content.Metadata(i) for i in range(content.MetadataLength())]
    (entry,) = [entry for entry in entries if entry.Name() == b"TFLITE_METADATA"]
    data = bytearray(content.Buffers(entry.Buffer()).DataAsNumpy().tobytes())
    assert data[4:8] == b"M001"
    return flatbuffers.table.Table(data, int.from_bytes(data[:4], "little"))


def test_metadata_say_that_it_takes_pictures_as_they_are_and_where_the_names_stand(model):
    root = metadata_of(with_metadata(model[1], ARTEFACT, "a_float32", "labels.txt"))
    assert (text(root, 0), text(root, 5)) == ("a_float32", "MIT")
    (graph,) = children(root, 3)
    (taken,), (given,) = children(graph, 2), children(graph, 3)
    (normalisation,) = children(taken, 4)
    options = child(normalisation, 1)
    assert (floats(options, 0), floats(options, 1)) == ([0], [1])
    (file,) = children(given, 6)
    assert text(file, 0) == "labels.txt"
    assert file.Bytes[field(file, 2)] == 2  # TENSOR_AXIS_LABELS


@pytest.mark.parametrize(("channels", "colours"), [(3, 1), (1, 2)])
def test_metadata_say_whether_pictures_are_rgb_or_grey(model, channels, colours):
    preprocessing = Preprocessing(10, 8, (100.0,) * channels, (50.0,) * channels)
    artefact = SimpleNamespace(**vars(ARTEFACT) | {"preprocessing": preprocessing})
    (graph,) = children(metadata_of(with_metadata(model[1], artefact, "a", None)), 3)
    (taken,) = children(graph, 2)
    pictures = child(child(taken, 3), 1)
    assert pictures.Bytes[field(pictures, 0)] == colours


def test_metadata_change_nothing_else_and_name_no_file_where_classes_have_no_names(model, path):
    expected = numbers.lite_function(path, PREPROCESSING)(INPUTS)["logits"]
    path.write_bytes(changed := with_metadata(model[1], ARTEFACT, "a", None))
    np.testing.assert_array_equal(numbers.lite_function(path, PREPROCESSING)(INPUTS)["logits"], expected)
    (given,) = children(children(metadata_of(changed), 3)[0], 3)
    assert field(given, 6) == 0
