"""The Mixer notebook by papermill: from golden and full-size files to tarballs, and what must stop it."""

import functools

import notebooks
import numpy as np
import pytest
import tiny

from utils.export import saved_model
from utils.families.mlp_mixer.source import without_influence
from utils.families.variants import artefact_name

NOTEBOOK = "conversion_mlpmixer.ipynb"
CHECKPOINT = tiny.GOLDEN / "mixer_tiny.npz"
SYNTHETIC = {"variant": "mixer_tiny", "checkpoint": "synthetic", "image_size": 48}

run = functools.partial(notebooks.run, NOTEBOOK)
assert_stops = functools.partial(notebooks.assert_stops, NOTEBOOK)


@pytest.mark.parametrize(
    ("head", "operations"),
    [
        ("classification", "xla"),
        tiny.slow("classification", "plain"),
        tiny.slow("fe", "xla"),
        tiny.slow("fe", "plain"),
    ],
)
def test_golden_checkpoint_through_the_notebook_computes_what_upstream_computed(tmp_path, head, operations):
    notebook = run(tmp_path, **SYNTHETIC | {"checkpoint": str(CHECKPOINT)}, head=head, operations=operations)
    name = artefact_name("mixer_tiny", head, "custom", operations)
    manifest, model = notebooks.assert_computes_what_upstream_computed(tmp_path, notebook, name, "mixer_tiny", head)
    assert manifest["settings"]["operations"] == operations
    assert manifest["minimum_tensorflow"] == "2.14"
    assert ("stablehlo_version" in manifest["versions"]) == (operations == "xla")
    # Every variable's gradient is compared, those that are rounding only with their kernels'.
    names = [saved_model.name_of(variable) for variable in model.trainable_variables]
    rows = [row for row in manifest["parity"]["rows"] if row["output"] == "gradients"]
    assert len({row["variable"] for row in rows}) == len(names) - sum(map(without_influence, names)) > 0
    assert {row["input"] for row in rows} == {"noise", "noise, training mode"}


@pytest.mark.parametrize(("variant", "operations"), [("mixer_b16_i1k", "xla"), ("mixer_b16_i21k", "plain")])
@pytest.mark.slow
def test_full_size_checkpoint_of_the_official_format_is_converted_and_verified(
    tmp_path, full_size, variant, operations
):
    if operations == "xla":
        folder, notebook = full_size(NOTEBOOK, variant)
    else:
        folder, notebook = tmp_path, run(tmp_path, variant=variant, checkpoint="synthetic", operations=operations)
    name = artefact_name(variant, "classification", "synthetic", operations)
    notebooks.assert_full_size(folder, notebook, name, variant)


def test_bad_parameter_is_an_error_before_anything_is_made(tmp_path):
    assert_stops(tmp_path, "operations is 'onnx'", "ParameterError", **SYNTHETIC, operations="onnx")


def test_bad_file_is_an_error_that_names_it(tmp_path):
    with np.load(CHECKPOINT, allow_pickle=False) as file:
        arrays = {key: array for key, array in file.items() if key != "stem/bias"}
    np.savez(tmp_path / "own.npz", **arrays)
    assert_stops(tmp_path, "stem/bias", "CheckpointError", **SYNTHETIC | {"checkpoint": str(tmp_path / "own.npz")})


@pytest.mark.slow
def test_failed_parity_stops_with_the_numbers_and_leaves_nothing(tmp_path):
    """The fault is planted in a copy of the notebook: the plain operations get erf GELU."""
    fault = [
        "import tensorflow as tf",
        "tf.nn.gelu = (lambda gelu: lambda x, approximate: gelu(x, approximate=False))(tf.nn.gelu)",
    ]
    faulty = notebooks.with_fault(NOTEBOOK, tmp_path, "show.Facts(conversion.export())", fault)
    notebooks.assert_stops(faulty, tmp_path, "logits", "ParityError", **SYNTHETIC, operations="plain")
