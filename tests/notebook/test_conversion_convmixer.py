"""The ConvMixer notebook by papermill: from golden and full-size files to tarballs, and what must stop it."""

import functools
import subprocess

import notebooks
import numpy as np
import pytest
import tiny
from notebooks import load, manifest_of, text_of

NOTEBOOK = "conversion_convmixer.ipynb"
SYNTHETIC = {"variant": "convmixer_tiny", "checkpoint": "synthetic", "image_size": 48}

run = functools.partial(notebooks.run, NOTEBOOK)
assert_stops = functools.partial(notebooks.assert_stops, NOTEBOOK)


def checkpoint_file(name, layout):
    return str(tiny.GOLDEN / f"{name}.{layout}.pth.tar")


# Each pair of name, head and layout once: a notebook takes seconds, and tests of the parts have the rest.
@pytest.mark.parametrize(
    ("variant", "head", "layout"),
    [
        ("convmixer_tiny", "classification", "timm"),
        tiny.slow("convmixer_tiny", "fe", "sequential"),
        tiny.slow("convmixer_tiny_relu", "classification", "sequential"),
        tiny.slow("convmixer_tiny_relu", "fe", "timm"),
    ],
)
def test_golden_checkpoint_through_the_notebook_computes_what_upstream_computed(tmp_path, variant, head, layout):
    notebook = run(tmp_path, variant=variant, head=head, checkpoint=checkpoint_file(variant, layout), image_size=48)
    manifest, _ = notebooks.assert_computes_what_upstream_computed(
        tmp_path, notebook, f"{variant}_{head}", variant, head
    )
    assert "moving statistics" in {row["output"] for row in manifest["parity"]["rows"]}


@pytest.mark.slow
def test_image_size_zero_takes_images_of_any_height_and_width(tmp_path):
    run(tmp_path, variant="convmixer_tiny", checkpoint=checkpoint_file("convmixer_tiny", "timm"), image_size=0)
    model = load(tmp_path, "convmixer_tiny_classification")
    inputs = np.random.default_rng(3).normal(size=(2, 40, 64, 3)).astype(np.float32)
    from utils.families.convmixer.source import as_nhwc

    expected = as_nhwc(tiny.source("convmixer_tiny"))(inputs)
    assert np.abs(model(inputs).numpy() - expected).max() < 1e-5


@pytest.mark.slow
def test_synthetic_weights_are_named_wherever_they_appear(tmp_path):
    notebook = run(tmp_path, **SYNTHETIC, seed=7)
    name = "convmixer_tiny_classification_synthetic"
    assert manifest_of(tmp_path, name)["weights"] == "synthetic"
    card = tmp_path / "exports" / name / "assets.extra" / "README.md"
    assert "SYNTHETIC WEIGHTS" in card.read_text(encoding="utf-8")
    assert text_of(notebook).count("SYNTHETIC WEIGHTS") >= 2


@pytest.mark.slow
def test_onnx_file_that_would_be_another_model_leaves_nothing(tmp_path):
    fault = [
        "import copy",
        "from types import SimpleNamespace",
        "from utils.families.convmixer import models",
        "model, onnx_graph = copy.deepcopy(conversion.source.model), models.onnx_graph",
        "for layer in model.modules():",
        "    layer.eps = 1e-3",
        "models.onnx_graph = lambda source: onnx_graph(SimpleNamespace(model=model, output=source.output))",
    ]
    faulty = notebooks.with_fault(NOTEBOOK, tmp_path, "show.Facts(conversion.save())", fault)
    settings = {"variant": "convmixer_tiny", "checkpoint": checkpoint_file("convmixer_tiny", "timm")}
    settings |= {"image_size": 48, "formats": "saved_model, onnx"}
    notebooks.assert_stops(faulty, tmp_path, "the .onnx file on onnxruntime", **settings)


@pytest.mark.slow
def test_full_size_checkpoint_of_the_official_format_is_converted_and_verified(full_size):
    folder, notebook = full_size(NOTEBOOK, "convmixer_768_32")
    name = "convmixer_768_32_classification_synthetic"
    manifest = notebooks.assert_full_size(folder, notebook, name, "convmixer_768_32")
    assert len([row for row in manifest["parity"]["rows"] if row["output"] == "gradients"]) == 262
    assert (folder / "exports" / f"{name}.tar.gz").stat().st_size > 70e6


@pytest.mark.slow
def test_training_file_of_ones_own_becomes_a_classifier_with_its_own_classes(tmp_path):
    from own_checkpoints import of_classes, saved, training_file

    average = of_classes(3)
    content = training_file(state_dict=of_classes(3), state_dict_ema=average)
    (tmp_path / "own.txt").write_text("cat\ndog\nœuf\n", encoding="utf-8")
    own = {"checkpoint": str(saved(tmp_path, content)), "labels": str(tmp_path / "own.txt"), "use_ema": True}
    notebook = run(tmp_path, variant="convmixer_tiny", image_size=48, **own)
    name = "convmixer_tiny_classification"
    manifest, model = manifest_of(tmp_path, name), load(tmp_path, name)
    biases = {variable.name.split(":")[0]: variable.numpy() for variable in model.variables}
    np.testing.assert_array_equal(biases["head.bias"], average["head.bias"].numpy())
    assert notebooks.labels_of(tmp_path, name) == ["cat", "dog", "œuf"]
    assert manifest["model"]["architecture"]["classes"] == 3
    assert manifest["settings"]["use_ema"] is True
    assert "state_dict_ema, was taken" in text_of(notebook)
    assert "state_dict_ema, was taken" in manifest["notes"][0]


def test_bad_parameter_is_an_error_before_anything_is_made(tmp_path):
    assert_stops(tmp_path, "seed is 1.5", "ParameterError", **SYNTHETIC, seed=1.5)


def test_bad_file_is_an_error_that_names_it_and_nothing_is_executed(tmp_path):
    path = tmp_path / "bomb.pth.tar"
    path.write_bytes(b"cposix\nsystem\n(S'touch " + str(tmp_path / "exploded").encode() + b"'\ntR.")
    assert_stops(tmp_path, "bomb.pth.tar", "CheckpointError", **SYNTHETIC | {"checkpoint": str(path)})
    assert not (tmp_path / "exploded").exists()


@pytest.mark.slow
def test_full_output_folder_is_a_clear_error(tmp_path):
    exports = tmp_path / "exports"
    exports.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(exports)], check=False)
    if mounted.returncode:
        pytest.skip("a small file system can be mounted by root only; tests of staging cover it without")
    try:
        assert_stops(tmp_path, "space", "PackagingError", **SYNTHETIC)
    finally:
        subprocess.run(["umount", str(exports)], check=True)


@pytest.mark.slow
def test_failed_parity_stops_with_the_numbers_and_leaves_nothing(tmp_path):
    """The fault is planted in a copy of the notebook: tanh GELU in the exported graph."""
    fault = [
        "from utils.export import torch_to_onnx",
        "export_onnx = torch_to_onnx.export_onnx",
        "def faulty(*given):",
        "    graph = export_onnx(*given)",
        "    for node in graph.graph.node:",
        "        if node.op_type == 'Gelu':",
        "            node.attribute[0].s = b'tanh'",
        "    return graph",
        "torch_to_onnx.export_onnx = faulty",
    ]
    faulty = notebooks.with_fault(NOTEBOOK, tmp_path, "show.Facts(conversion.export())", fault)
    notebooks.assert_stops(faulty, tmp_path, "logits", "ParityError", **SYNTHETIC)
