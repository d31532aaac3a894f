"""Runs a notebook as a stranger's papermill would, and looks at what comes of it."""

import json
import os
from contextlib import contextmanager
from unittest.mock import patch

import papermill
import pytest
import tiny

from utils.artefact.tarball import extract_tarball
from utils.convert import ROOT
from utils.families.variants import get_variant
from utils.parity.judge import RATIO


def run(notebook, folder, **parameters):
    """Executes `notebook` of the repository, or a path, in `folder`; returns the executed notebook.

    Whatever a cell warns of would stand in red among what is to be read: that fails.
    """
    written = folder / "executed.ipynb"
    with patch.dict(os.environ):
        # As anybody's kernel: ipykernel shows what C code writes outside of pytest only, and the log level is its own.
        for name in ("PYTEST_CURRENT_TEST", "TF_CPP_MIN_LOG_LEVEL"):
            os.environ.pop(name, None)
        papermill.execute_notebook(
            str(ROOT / notebook),
            str(written),
            {"output_dir": str(folder / "exports"), **parameters},
            kernel_name="python3",
            cwd=str(folder),
            progress_bar=False,
        )
    executed = json.loads(written.read_text(encoding="utf-8"))
    outputs = [output for cell in executed["cells"] for output in cell.get("outputs", [])]
    assert [output["text"] for output in outputs if output.get("name") == "stderr"] == [], outputs
    return executed


@contextmanager
def offline(cache):
    """Inside, no address answers, those of this machine neither, and nothing was downloaded before."""
    nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")
    places = {"MIXERS_CACHE": "checkpoints", "TFHUB_CACHE_DIR": "hub", "TFDS_DATA_DIR": "tfds"}
    changed = nowhere | {name: str(cache / folder) for name, folder in places.items()}
    with patch.dict(os.environ, changed):
        yield


def assert_stops(notebook, folder, message, error="Error", **parameters):
    """The notebook ends in an error of that name, which says `message`, and leaves nothing in output_dir."""
    with pytest.raises(papermill.PapermillExecutionError) as caught:
        run(notebook, folder, **parameters)
    assert caught.value.ename.endswith(error), caught.value
    assert message in caught.value.evalue
    exports = folder / "exports"
    assert not exports.is_dir() or os.listdir(exports) == []


def text_of(notebook):
    """Everything that the cells of an executed notebook put out, as one text."""
    return json.dumps([output for cell in notebook["cells"] for output in cell.get("outputs", [])])


def manifest_of(folder, name, *more):
    """The manifest of an artefact in `folder`'s exports, which hold nothing else but features and `more` endings."""
    there = {path for path in os.listdir(folder / "exports") if not path.startswith(".features-")}
    assert there == {name, *(f"{name}{end}" for end in (".json", ".tar.gz", *more))}
    return json.loads((folder / "exports" / f"{name}.json").read_text(encoding="utf-8"))


def labels_of(folder, name):
    """The class names of an artefact in `folder`'s exports."""
    lines = (folder / "exports" / name / "assets.extra" / "labels.tsv").read_text(encoding="utf-8").splitlines()
    return [line.split("\t")[1] for line in lines]


def load(folder, name):
    """The model of an artefact in `folder`'s exports, from its tarball."""
    import tensorflow as tf

    return tf.saved_model.load(str(extract_tarball(folder / "exports" / f"{name}.tar.gz", folder / "unpacked")))


def assert_computes_what_upstream_computed(folder, notebook, name, variant, head):
    """What a conversion of a golden checkpoint leaves and shows; returns its manifest and its model."""
    manifest, model, output = manifest_of(folder, name), load(folder, name), tiny.OUTPUTS[head]
    golden = tiny.expected(variant)
    assert tiny.relative_error(model(golden["inputs"], training=False).numpy(), golden[output]) <= 1e-5
    assert manifest["weights"] == "custom"
    assert manifest["parity"]["passed"]
    rows = manifest["parity"]["rows"]
    compared = {"variables", output, "gradients", *(f"{output}, {s}" for s in ("training mode", *SIGNATURES))}
    compared |= {"maps"} if output == "features" else set()
    assert {row["output"] for row in rows} - {"moving statistics"} == compared  # which a Mixer has none of
    assert {row["batch"] for row in rows} == {0, 1, 2, 3}
    assert manifest["preprocessing_parity"]["passed"]
    shown = text_of(notebook)
    assert "image/png" in shown
    assert "SYNTHETIC" not in shown
    assert '"name": "stderr"' not in shown  # no warnings
    return manifest, model


SIGNATURES = ("serving_image", "serving_image_bytes")


def assert_full_size(folder, notebook, name, variant):
    """What the conversion of a full-size synthetic checkpoint leaves and shows; returns its manifest."""
    manifest, record = manifest_of(folder, name), get_variant(variant)
    assert manifest["weights"] == "synthetic"
    assert manifest["parameters"] == record.parameters
    assert 0 < manifest["parity"]["ratio"]["logits"] <= RATIO
    assert len(labels_of(folder, name)) == record.architecture.classes
    shown = text_of(notebook)
    assert manifest["parity"]["sentence"] in shown.replace("&#x27;", "'")
    assert "Passed: " in shown
    assert shown.count("SYNTHETIC WEIGHTS") >= 2
    return manifest
