"""Runs a notebook as a stranger's papermill would, and looks at what comes of it."""

import json
import os

import papermill
import pytest

from utils.artefact.tarball import extract_tarball
from utils.convert import ROOT


def run(notebook, folder, **parameters):
    """Executes `notebook` of the repository, or a path, in `folder`; returns the executed notebook."""
    written = folder / "executed.ipynb"
    papermill.execute_notebook(
        str(ROOT / notebook),
        str(written),
        {"output_dir": str(folder / "exports"), **parameters},
        kernel_name="python3",
        cwd=str(folder),
        progress_bar=False,
    )
    return json.loads(written.read_text(encoding="utf-8"))


def assert_stops(notebook, folder, message, **parameters):
    """The notebook ends in one of our errors, which says `message`, and leaves nothing in output_dir."""
    with pytest.raises(papermill.PapermillExecutionError) as error:
        run(notebook, folder, **parameters)
    assert error.value.ename.endswith("Error")
    assert message in error.value.evalue
    exports = folder / "exports"
    assert not exports.is_dir() or os.listdir(exports) == []
    return error.value


def text_of(notebook):
    """Everything that the cells of an executed notebook put out, as one text."""
    return json.dumps([output for cell in notebook["cells"] for output in cell.get("outputs", [])])


def manifest_of(folder, name):
    """The manifest of an artefact in `folder`'s exports, which hold nothing else."""
    assert sorted(os.listdir(folder / "exports")) == [name, f"{name}.json", f"{name}.tar.gz"]
    return json.loads((folder / "exports" / f"{name}.json").read_text(encoding="utf-8"))


def load(folder, name):
    """The model of an artefact in `folder`'s exports, from its tarball."""
    import tensorflow as tf

    return tf.saved_model.load(str(extract_tarball(folder / "exports" / f"{name}.tar.gz", folder / "unpacked")))


def with_fault(notebook, folder, line, fault):
    """A copy of `notebook` in `folder` with `fault`, lines of code, in front of the line that starts with `line`."""
    content = json.loads((ROOT / notebook).read_text(encoding="utf-8"))
    planted = 0
    for cell in content["cells"]:
        lines = "".join(cell["source"]).split("\n")
        for position, found in enumerate(lines):
            if found.startswith(line):
                cell["source"] = "\n".join([*lines[:position], *fault, *lines[position:]])
                planted += 1
    assert planted == 1, f"{notebook} has {planted} lines that start with {line!r}"
    path = folder / "faulty.ipynb"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
