"""The compatibility table: its probe on a real SavedModel, and what it says of one that does not run."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tiny

from benchmarks import compat, compat_probe
from utils.export import saved_model


@pytest.fixture(scope="module")
def artefact(tmp_path_factory):
    """(SavedModel folder, reference) of the tiny feature extractor."""
    scratch = tmp_path_factory.mktemp("compat")
    folder = saved_model.save_model(tiny.mixer("fe", "plain")[0], scratch / "mixer_tiny_fe_plain")
    return folder, compat._reference(folder, scratch)


def probe(folder, reference):
    done = subprocess.run(
        [sys.executable, compat_probe.__file__, str(folder), str(reference)],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_probe_finds_the_artefact_running_in_a_fresh_process(artefact):
    found = probe(*artefact)
    assert found["gradients"] <= 1e-6
    assert compat.verdict(found).startswith("yes")


@pytest.mark.slow
@pytest.mark.parametrize("part", ["output", "gradient:stem/kernel"])
def test_probe_finds_a_changed_figure(artefact, part, tmp_path):
    folder, reference = artefact
    arrays = dict(np.load(reference, allow_pickle=False))
    arrays[part] = 1.01 * arrays[part]
    np.savez(tmp_path / "changed.npz", **arrays)
    assert compat.verdict(probe(folder, tmp_path / "changed.npz")).startswith("no")


@pytest.mark.slow
def test_probe_reports_what_cannot_be_loaded(artefact, tmp_path):
    assert compat.verdict(probe(tmp_path, artefact[1])).startswith("load: ")


def test_table_has_a_row_for_each_version_and_says_why_one_fails():
    good = {"load": 0.0, "output": 1e-7, "one image": 1e-7, "gradients": 2e-7}
    samples = [
        {"version": "2.1", "artefact": "a", "load": 0.0, "output": "Cannot | deserialize", "gradients": 0.0},
        {"version": "2.2", "artefact": "a", **good},
    ]
    assert compat.table(samples).splitlines()[2:] == [
        "| 2.1 | output: Cannot \\| deserialize |",
        "| 2.2 | yes (1e-07, 2e-07) |",
    ]
    assert [compat.failures(samples, version) for version in ("2.1", "2.2")] == [["a"], []]
