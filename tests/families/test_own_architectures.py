"""Architectures of one's own: channels, activation, epsilon and sizes are those of the source, and of every export."""

from dataclasses import replace

import numpy as np
import own_models
import pytest
import tiny
import torch
from gate.exports import proof_of
from gate.subject import Subject
from torch.nn import functional

from utils.export import onnx_file
from utils.families import FAMILIES
from utils.keras_models import gate, saving
from utils.keras_models.candidate import load_candidate
from utils.parity.report import Report
from utils.settings import preprocessing_for

# --- the source models, against definitions of this test's own, in float64

_ACTIVATIONS = {
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: 0.5 * x * (1 + torch.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: x.clamp(min=0),
}


def convmixer(variant, arrays, images):
    """Logits of float64 NCHW images; "same" pads right and below of an even kernel."""
    a, w = variant.architecture, {key: torch.from_numpy(array).double() for key, array in arrays.items()}
    before, after = (a.kernel_size - 1) // 2, a.kernel_size // 2

    def unit(x, convolution, norm, **settings):
        x = functional.conv2d(x, w[f"{convolution}.weight"], w[f"{convolution}.bias"], **settings)
        mean, var, scale, shift = (
            w[f"{norm}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (_ACTIVATIONS[a.activation](x) - mean) / (var + a.batch_norm_epsilon).sqrt() * scale + shift

    x = unit(images, "stem.0", "stem.2", stride=a.patch_size)
    for i in range(a.depth):
        padded = functional.pad(x, (before, after, before, after))
        x = x + unit(padded, f"blocks.{i}.0.fn.0", f"blocks.{i}.0.fn.2", groups=a.dim)
        x = unit(x, f"blocks.{i}.1", f"blocks.{i}.3")
    return x.mean((2, 3)) @ w["head.weight"].T + w["head.bias"]


def mixer(variant, arrays, images):
    """Logits of float64 NCHW images."""
    a, w = variant.architecture, {key: torch.from_numpy(array).double() for key, array in arrays.items()}

    def dense(x, name):
        return x @ w[f"{name}/kernel"] + w[f"{name}/bias"]

    def mlp(x, name):
        return dense(_ACTIVATIONS[a.activation](dense(x, f"{name}/Dense_0")), f"{name}/Dense_1")

    def norm(x, name):
        mean, var = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        return (x - mean) / (var + a.layer_norm_epsilon).sqrt() * w[f"{name}/scale"] + w[f"{name}/bias"]

    kernel = w["stem/kernel"].permute(3, 2, 0, 1)
    x = functional.conv2d(images, kernel, w["stem/bias"], stride=a.patch_size).flatten(2).mT
    for i in range(a.blocks):
        block = f"MixerBlock_{i}"
        x = x + mlp(norm(x, f"{block}/LayerNorm_0").mT, f"{block}/token_mixing").mT
        x = x + mlp(norm(x, f"{block}/LayerNorm_1"), f"{block}/channel_mixing")
    return dense(norm(x, "pre_head_layer_norm").mean(1), "head")


DEFINITIONS = {"convmixer": convmixer, "mixer": mixer}
SOURCES = [
    ("convmixer", {"channels": 1, "activation": "gelu_tanh", "kernel_size": 4}),
    ("convmixer", {"channels": 10, "activation": "relu", "patch_size": 5, "batch_norm_epsilon": 1e-3}),
    ("mixer", {"channels": 1, "activation": "gelu", "layer_norm_epsilon": 1e-3}),
    tiny.slow("mixer", {"channels": 10, "activation": "relu"}),
]


@pytest.mark.parametrize(("family", "own"), SOURCES)
def test_source_model_is_what_the_architecture_says(family, own):
    variant = own_models.own(family, **own)
    arrays = own_models.weights(variant)
    assert {key: array.shape for key, array in arrays.items()} == variant.shapes
    images = np.random.default_rng(0).standard_normal((2, 32, 32, own["channels"]), dtype=np.float32)
    source = FAMILIES[family].models.build(variant.architecture, arrays, "classification")
    found = source.outputs(images, "float64")["logits"]
    expected = DEFINITIONS[family](variant, arrays, torch.from_numpy(images).double().permute(0, 3, 1, 2)).numpy()
    assert tiny.relative_error(found, expected) <= 1e-12
    others = {"activation": "gelu" if own["activation"] == "relu" else "relu", variant.architecture.EPSILON: 1e-1}
    for field, value in others.items():
        other = replace(variant, architecture=replace(variant.architecture, **{field: value}))
        source = FAMILIES[family].models.build(other.architecture, arrays, "classification")
        assert tiny.relative_error(source.outputs(images, "float64")["logits"], expected) > 1e-3, field


# --- the exports, through the gate

CASES = [
    ("convmixer", "classification", "xla", {"channels": 1, "activation": "gelu_tanh", "kernel_size": 4}),
    ("convmixer", "fe", "xla", {"channels": 10, "activation": "relu", "kernel_size": 2, "patch_size": 3}),
    ("mixer", "classification", "xla", {"channels": 1, "activation": "gelu"}),
    ("mixer", "fe", "xla", {"channels": 10, "activation": "relu"}),
    ("mixer", "classification", "plain", {"channels": 10, "activation": "gelu"}),
    ("mixer", "classification", "plain", {"channels": 1, "activation": "relu"}),
    ("mixer", "fe", "plain", {"channels": 2, "activation": "gelu_tanh"}),
    ("convmixer", "fe", "xla", {"channels": 1, "activation": "gelu", "patch_size": 5}),
    ("convmixer", "classification", "xla", {"channels": 2, "activation": "relu", "batch_norm_epsilon": 1e-3}),
]


@pytest.mark.parametrize(
    ("family", "head", "operations", "own"), [*CASES[:2], *(tiny.slow(*case) for case in CASES[2:])]
)
def test_export_passes_the_gate(family, head, operations, own):
    variant = own_models.own(family, **own)
    subject = Subject(variant, own_models.weights(variant), head, operations=operations)
    assert subject.proof.source.has_kinks or own["activation"] != "relu"
    subject.report().require()
    assert subject.export().input_shape == (32, 32, own["channels"])


FILES = [(family, head, own) for family, head, _, own in CASES[:3]]


@pytest.mark.parametrize(("family", "head", "own"), FILES)
def test_keras_file_passes_the_gate(tmp_path, family, head, own):
    variant = own_models.own(family, **own)
    arrays = own_models.weights(variant)
    proof = proof_of(variant, arrays, head)
    path = saving.write(tmp_path / "a.keras", variant, arrays, head, 32, record={})
    Report(proof.compare(load_candidate(path, family))).require()


@pytest.mark.slow
@pytest.mark.parametrize(("family", "head", "own"), FILES[1:])  # one of each family
def test_keras_file_passes_the_gate_on_every_backend(tmp_path, family, head, own):
    variant = own_models.own(family, **own)
    arrays = own_models.weights(variant)
    path = saving.write(tmp_path / "a.keras", variant, arrays, head, 32, record={})
    for report in gate.prove(proof_of(variant, arrays, head), path, family).values():
        report.require()


@pytest.mark.parametrize("size", [32, 0])
@pytest.mark.parametrize(("head", "own"), [case[1:] for case in FILES[:2]])
def test_onnx_file_passes_the_gate(tmp_path, head, own, size):
    variant = own_models.own("convmixer", **own)
    arrays = own_models.weights(variant)
    proof = proof_of(variant, arrays, head)
    graph = FAMILIES["convmixer"].models.onnx_graph(proof.source)
    path = onnx_file.write(tmp_path / "a.onnx", graph, arrays, size, {"name": "a"})
    Report(proof.compare(onnx_file.Candidate(path), training=False)).require()


@pytest.mark.parametrize(("height", "width"), [(31, 45), (28, 32)])
def test_what_is_left_of_an_image_beyond_whole_patches_is_left_out_by_every_export(tmp_path, height, width):
    variant = own_models.own("convmixer", patch_size=5, kernel_size=4, channels=2)
    arrays, models = own_models.weights(variant), FAMILIES["convmixer"].models
    images = np.random.default_rng(0).standard_normal((2, height, width, 2), dtype=np.float32)
    expected = convmixer(variant, arrays, torch.from_numpy(images).double().permute(0, 3, 1, 2)).numpy()
    source = models.build(variant.architecture, arrays, "classification")
    exported = models.export(source, arrays, 0, "xla").function
    assert exported.input_shape == (None, None, 2)
    keras_model = models.keras_model(variant.architecture, arrays, "classification", 0)
    graph = onnx_file.write(tmp_path / "a.onnx", models.onnx_graph(source), arrays, 0, {})
    found = {
        "TensorFlow": exported.call(images, training=False),
        "Keras": keras_model(images, training=False),
        "ONNX": onnx_file.Candidate(graph)(images),
    }
    for name, values in found.items():
        assert tiny.relative_error(values, expected) <= 1e-5, name


@pytest.mark.parametrize("size", [33, 34])
def test_at_a_fixed_size_of_no_whole_patches_the_gate_passes(size):
    variant = own_models.own("convmixer", patch_size=5, channels=1)
    preprocessing = preprocessing_for(variant, size)
    Subject(replace(variant, preprocessing=preprocessing), own_models.weights(variant)).report().require()
