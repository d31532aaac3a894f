"""The ConvMixer notebook by papermill: from golden and full-size files to tarballs, and what must stop it."""

import json
import os
import subprocess

import numpy as np
import papermill
import pytest
import tiny

from utils.convert import ROOT
from utils.packaging import extract_tarball
from utils.variants import get_variant

NOTEBOOK = ROOT / "conversion_convmixer.ipynb"
pytestmark = pytest.mark.slow


def run(folder, **parameters):
    """Executes the notebook in `folder`, as a stranger's papermill would; returns the executed notebook."""
    written = folder / "executed.ipynb"
    papermill.execute_notebook(
        str(NOTEBOOK),
        str(written),
        {"output_dir": str(folder / "exports"), **parameters},
        kernel_name="python3",
        cwd=str(folder),
        progress_bar=False,
    )
    return json.loads(written.read_text(encoding="utf-8"))


def text_of(notebook):
    """Everything that the cells put out, as one text."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    return json.dumps(outputs)


def load(tarball, folder):
    import tensorflow as tf

    return tf.saved_model.load(str(extract_tarball(tarball, folder)))


def checkpoint_file(name, layout):
    return str(tiny.GOLDEN / f"{name}.{layout}.pth.tar")


@pytest.mark.parametrize("layout", tiny.LAYOUTS)
@pytest.mark.parametrize("head", tiny.OUTPUTS)
@pytest.mark.parametrize("name", tiny.NAMES)
def test_golden_checkpoint_through_the_notebook_computes_what_upstream_computed(tmp_path, name, head, layout):
    notebook = run(tmp_path, variant=name, head=head, checkpoint=checkpoint_file(name, layout), image_size=48)
    artefact, exports = f"{name}_{head}", tmp_path / "exports"
    assert sorted(os.listdir(exports)) == [artefact, f"{artefact}.json", f"{artefact}.tar.gz"]

    model = load(exports / f"{artefact}.tar.gz", tmp_path / "unpacked")
    golden = tiny.expected(name)
    found = model(golden["inputs"], training=False).numpy()
    expected = golden[tiny.OUTPUTS[head]]
    assert np.abs(found - expected).max() <= 1e-5 * max(1, np.abs(expected).max())

    manifest = json.loads((exports / f"{artefact}.json").read_text(encoding="utf-8"))
    assert manifest["weights"] == "custom"
    assert manifest["parity"]["passed"]
    assert {row["output"] for row in manifest["parity"]["rows"]} == {
        "variables",
        tiny.OUTPUTS[head],
        "gradients",
        f"{tiny.OUTPUTS[head]}, training mode",
        "moving statistics",
    }
    assert {row["batch"] for row in manifest["parity"]["rows"]} == {0, 1, 3, 4, 8}  # 4: the golden inputs
    shown = text_of(notebook)
    assert "image/png" in shown
    assert "SYNTHETIC" not in shown
    assert '"name": "stderr"' not in shown  # no warnings


def test_image_size_zero_takes_images_of_any_height_and_width(tmp_path):
    run(tmp_path, variant="convmixer_tiny", checkpoint=checkpoint_file("convmixer_tiny", "timm"), image_size=0)
    model = load(tmp_path / "exports" / "convmixer_tiny_classification.tar.gz", tmp_path / "unpacked")
    inputs = np.random.default_rng(3).normal(size=(2, 40, 64, 3)).astype(np.float32)
    from utils.convmixer import as_nhwc

    expected = as_nhwc(tiny.source("convmixer_tiny"))(inputs)
    assert np.abs(model(inputs).numpy() - expected).max() < 1e-5


def test_synthetic_weights_are_named_wherever_they_appear(tmp_path):
    notebook = run(tmp_path, variant="convmixer_tiny", checkpoint="synthetic", image_size=48, seed=7)
    exports = tmp_path / "exports"
    name = "convmixer_tiny_classification_synthetic"
    assert sorted(os.listdir(exports)) == [name, f"{name}.json", f"{name}.tar.gz"]
    assert json.loads((exports / f"{name}.json").read_text(encoding="utf-8"))["weights"] == "synthetic"
    assert "SYNTHETIC WEIGHTS" in (exports / name / "assets.extra" / "README.md").read_text(encoding="utf-8")
    assert text_of(notebook).count("SYNTHETIC WEIGHTS") >= 2


def test_full_size_checkpoint_of_the_official_format_is_converted_and_verified(tmp_path):
    notebook = run(tmp_path, variant="convmixer_768_32", checkpoint="synthetic")
    name = "convmixer_768_32_classification_synthetic"
    manifest = json.loads((tmp_path / "exports" / f"{name}.json").read_text(encoding="utf-8"))
    assert manifest["parameters"] == get_variant("convmixer_768_32").parameters
    assert manifest["parity"]["tolerance"]["logits"] == 1e-5
    gradients = [row for row in manifest["parity"]["rows"] if row["output"] == "gradients"]
    assert len(gradients) == 262
    labels = tmp_path / "exports" / name / "assets.extra" / "labels.tsv"
    assert len(labels.read_text(encoding="utf-8").splitlines()) == 1000
    assert (tmp_path / "exports" / f"{name}.tar.gz").stat().st_size > 70e6
    assert "parity passed" in text_of(notebook)


def assert_stops(folder, message, **parameters):
    """The notebook ends in one of our errors, which says `message`, and leaves nothing in output_dir."""
    with pytest.raises(papermill.PapermillExecutionError) as error:
        run(folder, **parameters)
    assert error.value.ename.endswith("Error")
    assert message in error.value.evalue
    exports = folder / "exports"
    assert not exports.is_dir() or os.listdir(exports) == []
    return error.value


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"variant": "convmixer_999"}, "convmixer_768_32"),
        ({"variant": "mixer_b16_sam"}, "conversion_mlpmixer.ipynb"),
        ({"head": "segmentation"}, "head is 'segmentation'"),
        ({"checkpoint": "nowhere.pth.tar"}, "no such file"),
        ({"image_size": 50}, "not a multiple"),
        ({"image_size": -4}, "image_size is -4"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"output_dir": ""}, "output_dir"),
    ],
)
def test_bad_parameter_is_an_error_before_anything_is_made(tmp_path, wrong, message):
    good = {"variant": "convmixer_tiny", "checkpoint": "synthetic", "image_size": 48}
    error = assert_stops(tmp_path, message, **{**good, **wrong})
    assert error.ename == "ParameterError"


def damaged(kind, folder):
    """A file that is no proper checkpoint of convmixer_tiny, in the way that `kind` says."""
    import torch

    whole = (tiny.GOLDEN / "convmixer_tiny.timm.pth.tar").read_bytes()
    path = folder / f"{kind}.pth.tar"
    bytes_by_kind = {
        "truncated": whole[: len(whole) // 2],
        "empty": b"",
        "html": b"<!DOCTYPE html><html><body>404</body></html>",
        "bomb": b"cposix\nsystem\n(S'touch " + str(folder / "exploded").encode() + b"'\ntR.",
    }
    if kind in bytes_by_kind:
        path.write_bytes(bytes_by_kind[kind])
        return path
    state = torch.load(tiny.GOLDEN / "convmixer_tiny.timm.pth.tar", weights_only=True)["state_dict"]
    if kind == "missing":
        del state["blocks.1.1.weight"]
    elif kind == "extra":
        state["blocks.9.1.weight"] = torch.zeros(3)
    elif kind == "misshapen":
        state["blocks.1.1.weight"] = state["blocks.1.1.weight"][:, :, 0]
    elif kind == "nan":
        state["blocks.1.1.weight"][3, 4] = float("nan")
    torch.save({"state_dict": state}, path)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", "truncated.pth.tar"),
        ("empty", "empty"),
        ("html", "html"),
        ("bomb", "bomb.pth.tar"),
        ("missing", "blocks.1.1.weight"),
        ("extra", "blocks.9.1.weight"),
        ("misshapen", "blocks.1.1.weight"),
        ("nan", "blocks.1.1.weight"),
    ],
)
def test_bad_file_is_an_error_that_names_it_and_nothing_is_executed(tmp_path, kind, message):
    path = damaged(kind, tmp_path)
    error = assert_stops(tmp_path, message, variant="convmixer_tiny", checkpoint=str(path), image_size=48)
    assert error.ename == "CheckpointError"
    assert not (tmp_path / "exploded").exists()


def test_full_output_folder_is_a_clear_error(tmp_path):
    exports = tmp_path / "exports"
    exports.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(exports)], check=False)
    if mounted.returncode:
        pytest.skip("a small file system can be mounted by root only; test_packaging.py covers it without")
    try:
        error = assert_stops(tmp_path, "space", variant="convmixer_tiny", checkpoint="synthetic", image_size=48)
        assert error.ename == "PackagingError"
    finally:
        subprocess.run(["umount", str(exports)], check=True)


def test_output_folder_that_is_a_file_is_a_clear_error(tmp_path):
    (tmp_path / "exports").write_text("in the way", encoding="utf-8")
    error = assert_stops(tmp_path, "exports", variant="convmixer_tiny", checkpoint="synthetic", image_size=48)
    assert error.ename == "ParameterError"


def test_failed_parity_stops_with_the_numbers_and_leaves_nothing(tmp_path):
    """The fault is planted in a copy of the notebook: tanh GELU in the exported graph."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        planted = source.replace(
            "    exported = export_tensorflow(",
            "    for node in graph.graph.node:\n"
            "        if node.op_type == 'Gelu':\n"
            "            node.attribute[0].s = b'tanh'\n"
            "    exported = export_tensorflow(",
        )
        if planted != source:
            cell["source"] = planted
    faulty = tmp_path / "faulty.ipynb"
    faulty.write_text(json.dumps(notebook), encoding="utf-8")
    with pytest.raises(papermill.PapermillExecutionError) as error:
        papermill.execute_notebook(
            str(faulty),
            str(tmp_path / "executed.ipynb"),
            {
                "variant": "convmixer_tiny",
                "checkpoint": "synthetic",
                "image_size": 48,
                "output_dir": str(tmp_path / "exports"),
            },
            kernel_name="python3",
            cwd=str(tmp_path),
            progress_bar=False,
        )
    assert error.value.ename == "ParityError"
    assert "logits" in error.value.evalue
    assert os.listdir(tmp_path / "exports") == []
