"""The maps of a feature extractor, `serving_features`, held against the source's layers, as they are saved."""

from dataclasses import replace

import keras_tiny
import numpy as np
import proofs
import pytest
import tensorflow as tf
import tiny
from gate.faults import Fault, nodes, set_attributes, weight
from gate.subject import Subject

from utils.errors import ConversionError
from utils.export import onnx_to_tf, saved_model
from utils.families.base import tapped_blocks
from utils.families.variants import get_variant
from utils.parity.report import Report

CONVMIXER, MIXER = "convmixer_tiny", "mixer_tiny"
NAMES = {CONVMIXER: ["stem", "block_0", "block_1", "block_2"], MIXER: ["stem", "block_0", "block_1"]}
KINDS = {"convmixer": CONVMIXER, "xla": MIXER, "plain": MIXER}


def exported(kind):
    return tiny.mixer("fe", kind)[0] if kind in ("xla", "plain") else tiny.exported(CONVMIXER, "fe")


def reloaded(exported, folder):
    return saved_model.load_model(saved_model.save_model(exported, folder / "model"))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The feature extractors, loaded again; the ConvMixer takes images of any size."""
    return {kind: reloaded(exported(kind), tmp_path_factory.mktemp(kind)) for kind in KINDS}


@pytest.mark.parametrize(
    ("depth", "expected"), [(1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (8, [1, 3, 5, 7]), (20, [4, 9, 14, 19])]
)
def test_the_last_block_of_each_quarter_has_a_map(depth, expected):
    assert tapped_blocks(depth) == {f"block_{i}": i for i in expected}


@pytest.mark.parametrize("kind", KINDS)
def test_each_map_is_what_the_source_s_layer_gives(models, kind):
    name = KINDS[kind]
    rows = proofs.proof(name, "fe").compare_maps(saved_model.Candidate(models[kind]).maps)
    Report(rows).require()
    assert [(row.output, row.variable, row.input) for row in rows] == [("maps", each, "noise") for each in NAMES[name]]


def test_maps_of_images_that_are_not_square_have_height_before_width(models):
    images = np.random.default_rng(0).standard_normal((2, 24, 40, 3), dtype=np.float32)
    found = saved_model.Candidate(models["convmixer"]).maps(images)
    for name, expected in proofs.proof(CONVMIXER, "fe").source.maps(images, "float64").items():
        assert found[name].shape == (2, 6, 10, 32)
        assert tiny.relative_l2(found[name], expected) < 1e-6


def test_a_convmixer_s_features_are_the_mean_of_its_last_map(models):
    """By which the page computes its class-activation picture."""
    images = tiny.expected(CONVMIXER)["inputs"]
    last = saved_model.Candidate(models["convmixer"]).maps(images)["block_2"]
    assert tiny.relative_l2(last.mean((1, 2)), tiny.expected(CONVMIXER)["features"]) < 1e-5


def other_epsilon(graph, weights):
    """In the last BatchNorm of block 1: the stem has one, each block two."""
    set_attributes(nodes(graph, "BatchNormalization")[4], epsilon=1e-2)


@pytest.mark.parametrize(
    ("name", "plant"),
    [(CONVMIXER, other_epsilon), (MIXER, weight("MixerBlock_1/channel_mixing/Dense_1/bias", lambda bias: bias + 0.01))],
    ids=["convmixer", "mixer"],
)
def test_a_fault_in_a_block_shows_in_its_row_and_in_no_earlier_one(tmp_path, name, plant):
    weights = proofs.weights(name)
    subject = Subject(get_variant(name), weights, "fe")
    model = reloaded(subject.export(Fault("in block 1", plant)), tmp_path)
    rows = subject.proof.compare_maps(saved_model.Candidate(model).maps)
    assert [row.variable for row in rows if not row.passed] == NAMES[name][2:]


def test_an_artefact_without_maps_is_opened_as_before_and_fails_where_they_are_compared(tmp_path):
    """Artefacts of earlier versions have none; one of today's that lost them is not published."""
    candidate = saved_model.Candidate(reloaded(replace(exported("plain"), maps=None), tmp_path))
    assert candidate.maps(tiny.expected(MIXER)["inputs"]) == {}
    rows = proofs.proof(MIXER, "fe").compare_maps(candidate.maps)
    assert [(row.variable, row.passed) for row in rows] == [(name, False) for name in NAMES[MIXER]]


def test_a_classifier_has_no_maps(saved):
    assert "serving_features" not in saved_model.load_model(saved(CONVMIXER, "classification", 48)).signatures
    assert not proofs.proof(CONVMIXER).has_maps
    assert proofs.proof(CONVMIXER).compare_maps(None) == []


@pytest.mark.parametrize("kind", ["convmixer", tiny.slow("xla"), tiny.slow("plain")])
def test_maps_leave_features_as_they_are_without(models, tmp_path, kind):
    without, there = reloaded(replace(exported(kind), maps=None), tmp_path), models[kind]

    def operations(model):
        graph = model.signatures["serving_default"].graph.as_graph_def()
        return [node.op for node in graph.node], sorted(len(each.node_def) for each in graph.library.function)

    assert operations(without) == operations(there)
    assert len(without.variables) == len(there.variables)
    images = tf.constant(tiny.expected(KINDS[kind])["inputs"])
    found, expected = (each.signatures["serving_default"](inputs=images)["features"] for each in (there, without))
    np.testing.assert_array_equal(found, expected)


def test_gradients_go_through_the_maps_in_either_kind_of_operations(models):
    """An XLA module has no gradient of its own: a tape around a head on top would stop at it."""
    images, found = tf.constant(tiny.expected(MIXER)["inputs"]), {}
    for kind in ("xla", "plain"):
        model = models[kind]
        variables = sorted(model.trainable_variables, key=lambda variable: variable.name)
        with tf.GradientTape() as tape:
            maps = model.signatures["serving_features"](inputs=images)
            loss = tf.reduce_sum(maps["stem"] ** 2) + tf.reduce_sum(maps["block_0"] ** 3)
        found[kind] = tape.gradient(loss, variables, unconnected_gradients="zero")
    for xla, plain in zip(found["xla"], found["plain"], strict=True):
        assert np.linalg.norm(xla - plain) <= 1e-5 * np.linalg.norm(plain) + 1e-4
    assert sum(bool(np.any(gradient)) for gradient in found["xla"]) == 2 + 12


@pytest.mark.parametrize(
    ("weight", "message"), [("blocks.0.0.fn.0.weight", "within one"), ("no.such.weight", "no one node")]
)
def test_a_tap_that_is_no_block_s_end_is_refused(weight, message):
    with pytest.raises(ConversionError, match=message):
        onnx_to_tf.export_tensorflow(
            tiny.graph(CONVMIXER, "fe"), tiny.weights(CONVMIXER), 48, "features", {"a": weight}
        )


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        (CONVMIXER, ["stem-2", "blocks-0-3", "blocks-1-3", "blocks-2-3"]),
        (MIXER, ["stem", "MixerBlock_0-channel_mixing", "MixerBlock_1-channel_mixing"]),
    ],
)
def test_layers_of_the_keras_model_give_the_maps_by_the_names_that_the_page_has(name, layers):
    import keras

    model = keras_tiny.built(name, "fe", 48)
    part = keras.Model(model.input, [model.get_layer(layer).output for layer in layers])
    images = tiny.expected(name)["inputs"].copy()
    expected = proofs.proof(name, "fe").source.maps(images, "float64")
    assert list(expected) == NAMES[name]
    for found, (_, truth) in zip(part(images), expected.items(), strict=True):
        assert tiny.relative_l2(np.reshape(found, truth.shape), truth) < 1e-6
