"""The Mixer notebook by papermill: from golden and full-size files to tarballs, and what must stop it."""

import functools
import zipfile

import notebooks
import numpy as np
import pytest
import tiny
from notebooks import load, manifest_of, text_of

from utils.export import saved_model
from utils.models.mlp_mixer import without_influence
from utils.models.variants import OPERATIONS, artefact_name, get_variant

NOTEBOOK = "conversion_mlpmixer.ipynb"
CHECKPOINT = tiny.GOLDEN / "mixer_tiny.npz"
pytestmark = pytest.mark.slow

run = functools.partial(notebooks.run, NOTEBOOK)
assert_stops = functools.partial(notebooks.assert_stops, NOTEBOOK)


@pytest.mark.parametrize("operations", OPERATIONS)
@pytest.mark.parametrize("head", tiny.OUTPUTS)
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


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"variant": "mixer_b16_sam_i21k"}, "mixer_b16_sam"),
        ({"variant": "convmixer_768_32"}, "conversion_convmixer.ipynb"),
        ({"variant": "mixer_b16_i1k", "image_size": 256}, "trained on: 224"),
        ({"image_size": 0}, "trained on: 48"),
        ({"operations": "onnx"}, "operations is 'onnx'"),
        ({"head": "segmentation"}, "head is 'segmentation'"),
        ({"checkpoint": "nowhere.npz"}, "no such file"),
        ({"checkpoint": "official"}, "without an official file"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_parameter_is_an_error_before_anything_is_made(tmp_path, wrong, message):
    good = {"variant": "mixer_tiny", "checkpoint": "synthetic", "image_size": 48}
    error = assert_stops(tmp_path, message, **{**good, **wrong})
    assert error.ename == "ParameterError"


def damaged(kind, folder):
    """A file that is no proper checkpoint of mixer_tiny, in the way that `kind` says."""
    path = folder / f"{kind}.npz"
    if kind == "truncated":
        path.write_bytes(CHECKPOINT.read_bytes()[:5000])
    elif kind == "html":
        path.write_bytes(b"<!DOCTYPE html><html><body>404</body></html>")
    elif kind == "bomb":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            header = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little")
            shape = "{'descr': '<f4', 'fortran_order': False, 'shape': (100000000,), }"
            archive.writestr("head/bias.npy", header + shape.ljust(117).encode() + b"\n" + bytes(400_000_000))
    elif kind == "other variant":
        return tiny.GOLDEN / "convmixer_tiny.timm.pth.tar"
    else:
        with np.load(CHECKPOINT, allow_pickle=False) as file:
            arrays = dict(file)
        if kind == "missing":
            del arrays["stem/bias"]
        elif kind == "extra":
            arrays["MixerBlock_9/LayerNorm_0/scale"] = np.ones(3, np.float32)
        elif kind == "misshapen":
            arrays["head/kernel"] = arrays["head/kernel"].T
        elif kind == "integers":
            arrays["stem/bias"] = arrays["stem/bias"].astype(np.int32)
        elif kind == "nan":
            arrays["head/bias"][2] = np.nan
        elif kind == "pickled":
            arrays["stem/bias"] = np.array([Exploding(folder / "exploded")], dtype=object)
        np.savez(path, **arrays)
    return path


class Exploding:
    """Unpickling one makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", "truncated.npz"),
        ("html", "html"),
        ("bomb", "bomb.npz"),
        ("other variant", "conversion_convmixer.ipynb"),
        ("missing", "stem/bias"),
        ("extra", "MixerBlock_9/LayerNorm_0/scale"),
        ("misshapen", "head/kernel"),
        ("integers", "stem/bias"),
        ("nan", "head/bias"),
        ("pickled", "stem/bias"),
    ],
)
def test_bad_file_is_an_error_that_names_it_and_nothing_is_executed(tmp_path, kind, message):
    path = damaged(kind, tmp_path)
    error = assert_stops(tmp_path, message, variant="mixer_tiny", checkpoint=str(path), image_size=48)
    assert error.ename == "CheckpointError"
    assert not (tmp_path / "exploded").exists()


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
