"""The Mixer notebook by papermill: from golden and full-size files to tarballs, and what must stop it."""

import functools

import notebooks
import numpy as np
import pytest
import tiny
from notebooks import load, manifest_of, text_of

from utils.export import saved_model
from utils.models.mlp_mixer import without_influence
from utils.models.variants import artefact_name, get_variant

NOTEBOOK = "conversion_mlpmixer.ipynb"
CHECKPOINT = tiny.GOLDEN / "mixer_tiny.npz"

run = functools.partial(notebooks.run, NOTEBOOK)
assert_stops = functools.partial(notebooks.assert_stops, NOTEBOOK)


@pytest.mark.parametrize(
    ("head", "operations"),
    [
        ("classification", "xla"),
        pytest.param("classification", "plain", marks=pytest.mark.slow),
        pytest.param("fe", "xla", marks=pytest.mark.slow),
        pytest.param("fe", "plain", marks=pytest.mark.slow),
    ],
)
def test_golden_checkpoint_through_the_notebook_computes_what_upstream_computed(tmp_path, head, operations):
    notebook = run(
        tmp_path,
        variant="mixer_tiny",
        head=head,
        checkpoint=str(CHECKPOINT),
        image_size=48,
        operations=operations,
    )
    name = artefact_name("mixer_tiny", head, "custom", operations)
    manifest, model = manifest_of(tmp_path, name), load(tmp_path, name)
    golden, output = tiny.expected("mixer_tiny"), tiny.OUTPUTS[head]
    assert tiny.relative_error(model(golden["inputs"], training=False).numpy(), golden[output]) <= 1e-5

    assert manifest["weights"] == "custom"
    assert manifest["parity"]["passed"]
    assert manifest["settings"]["operations"] == operations
    assert manifest["versions"]["minimum_tensorflow"] == "2.14"
    assert ("stablehlo_version" in manifest["versions"]) == (operations == "xla")
    rows = manifest["parity"]["rows"]
    assert {row["output"] for row in rows} == {
        "variables",
        output,
        "gradients",
        f"{output}, training mode",
        f"{output}, serving_image",
        f"{output}, serving_image_bytes",
    }
    assert manifest["preprocessing_parity"]["passed"]
    assert {row["batch"] for row in rows} == {0, 1, 3}
    # Every variable's gradient is compared, those that are rounding only with their kernels'.
    names = [saved_model.name_of(variable) for variable in model.trainable_variables]
    gradients = {row["variable"] for row in rows if row["output"] == "gradients"}
    assert len(gradients) == len(names) - sum(map(without_influence, names)) > 0
    modes = {row["input"] for row in rows if row["output"] == "gradients"}
    assert modes == {"noise", "noise, training mode"}
    shown = text_of(notebook)
    assert "image/png" in shown
    assert "SYNTHETIC" not in shown
    assert '"name": "stderr"' not in shown  # no warnings


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
    manifest, record = manifest_of(folder, name), get_variant(variant)
    assert manifest["weights"] == "synthetic"
    assert manifest["parameters"] == record.parameters
    assert 0 < manifest["parity"]["ratio"]["logits"] < 10
    assert manifest["parity"]["sentence"] in text_of(notebook).replace("&#x27;", "'")
    labels = folder / "exports" / name / "assets.extra" / "labels.tsv"
    assert len(labels.read_text(encoding="utf-8").splitlines()) == record.architecture.classes
    shown = text_of(notebook)
    assert "parity passed" in shown
    assert shown.count("SYNTHETIC WEIGHTS") >= 2


def test_bad_parameter_is_an_error_before_anything_is_made(tmp_path):
    good = {"variant": "mixer_tiny", "checkpoint": "synthetic", "image_size": 48}
    error = assert_stops(tmp_path, "operations is 'onnx'", **good, operations="onnx")
    assert error.ename == "ParameterError"


def test_bad_file_is_an_error_that_names_it(tmp_path):
    with np.load(CHECKPOINT, allow_pickle=False) as file:
        arrays = {key: array for key, array in file.items() if key != "stem/bias"}
    np.savez(tmp_path / "own.npz", **arrays)
    settings = {"variant": "mixer_tiny", "checkpoint": str(tmp_path / "own.npz"), "image_size": 48}
    assert assert_stops(tmp_path, "stem/bias", **settings).ename == "CheckpointError"


@pytest.mark.slow
def test_failed_parity_stops_with_the_numbers_and_leaves_nothing(tmp_path):
    """The fault is planted in a copy of the notebook: the plain operations get erf GELU."""
    fault = [
        "    import tensorflow as tf",
        "    tf.nn.gelu = (lambda gelu: lambda x, approximate: gelu(x, approximate=False))(tf.nn.gelu)",
    ]
    faulty = notebooks.with_fault(NOTEBOOK, tmp_path, "    if operations ==", fault)
    parameters = {"variant": "mixer_tiny", "checkpoint": "synthetic", "image_size": 48, "operations": "plain"}
    error = notebooks.assert_stops(faulty, tmp_path, "logits", **parameters)
    assert error.ename == "ParityError"
