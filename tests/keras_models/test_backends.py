"""One file on TensorFlow, JAX and PyTorch, each in a process that can import no other framework, through the gate."""

import functools
import subprocess
import sys
from pathlib import Path

import keras_tiny
import numpy as np
import proofs
import pytest
import tiny
from keras_tiny import GELU, MIXER, NAMES

from utils.artefact import extra_formats as beside
from utils.checkpoints import loading
from utils.errors import ParameterError, ParityError
from utils.families.convmixer import keras_model as convmixer
from utils.families.mlp_mixer import keras_model as mlp_mixer
from utils.families.variants import get_variant
from utils.keras_models import gate, processes, saving
from utils.keras_models.conventions import BACKENDS
from utils.keras_models.worker import FRAMEWORKS
from utils.parity.inputs import standard_inputs
from utils.parity.report import Report

CASES = [*((name, "classification") for name in NAMES), (GELU, "fe"), (MIXER, "fe")]
each = pytest.mark.parametrize("backend", [*map(tiny.slow, BACKENDS)])  # test_gate.py has TensorFlow's in this process


def not_square(name):
    return {} if name == MIXER else {"not square": standard_inputs(36, 60, 0)["noise"]}


def trains(case):
    """Whether training is compared too: a feature extractor's is the classifier's, and JAX compiles for seconds."""
    return case[1] == "classification"


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """What the files of `CASES` give, by case, on a backend."""
    folder = tmp_path_factory.mktemp("keras")

    @functools.cache
    def files():
        made = {case: folder / f"{'_'.join(case)}.keras" for case in CASES}
        for case, path in made.items():
            saving.save(keras_tiny.built(*case), path, {"name": path.stem})
        return made

    @functools.cache
    def run(backend):
        jobs = [
            gate.job_of(proofs.proof(*case), path, keras_tiny.family(case[0]), not_square(case[0]), trains(case))
            for case, path in files().items()
        ]
        return dict(zip(CASES, processes.compute(jobs, backend), strict=True))

    return run


@each
def test_file_passes_the_gate(computed, backend):
    for case, found in computed(backend).items():
        report = Report(proofs.proof(*case).compare(found, not_square(case[0]), trains(case)), "the source")
        assert report.passed, f"{case}\n{report.table()}"


@each
def test_process_has_no_other_framework(computed, backend):
    for found in computed(backend).values():
        assert backend in found.frameworks
        assert set(found.frameworks) <= set(FRAMEWORKS[backend])


@each
def test_variance_is_over_n_on_this_backend_and_over_n_minus_1_in_pytorch(computed, backend):
    """If a Keras moves its statistics by what PyTorch does, `with_keras_variances` is to go."""
    found, proof = computed(backend)[GELU, "classification"], proofs.proof(GELU)
    assert {row.output for row in proof.compare_training(found) if not row.passed} == set()
    found.expected_statistics = lambda statistics, before, count: dict(statistics)
    try:
        failed = [row for row in proof.compare_training(found) if not row.passed]
    finally:
        del found.expected_statistics
    assert failed
    assert all(row.output == "moving statistics" and row.variable.endswith("running_var") for row in failed)


def test_backend_that_is_missing_is_named(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('No module named torch')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    job = processes.Job(tmp_path / "a.keras", "convmixer", {})
    with pytest.raises(
        ParityError, match=r"a\.keras was not computed by Keras on torch: .*Install keras and that frame"
    ):
        processes.compute([job], "torch")
    with pytest.raises(ParameterError, match="backend = 'openvino' is not one of"):
        processes.compute([job], "openvino")


@pytest.mark.slow
def test_process_says_what_is_wrong_with_a_file(tmp_path):
    (tmp_path / "a.keras").write_bytes(b"PK\x03\x04 and no more")
    job = processes.Job(tmp_path / "a.keras", "convmixer", {"noise": np.zeros((1, 8, 8, 3), np.float32)})
    with pytest.raises(ParityError, match=r"a\.keras was not computed by Keras on torch: .*Expected a \.keras file"):
        processes.compute([job], "torch")


def test_file_needs_nothing_of_this_project(tmp_path):
    """Three lines of anybody's, with nothing but Keras to import."""
    path = saving.save(keras_tiny.built(MIXER), tmp_path / "a.keras", {})
    code = f"import keras; model = keras.saving.load_model({str(path)!r}, safe_mode=True); print(model.output_shape)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True, env=_plain(tmp_path)
    )
    assert done.stdout.strip() == "(None, 10)"


def _plain(folder):
    return {"HOME": str(folder), "KERAS_BACKEND": "torch", "TF_CPP_MIN_LOG_LEVEL": "3"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convmixer_1024_20", "mixer_b16_i1k"])
def test_full_size_passes_on_every_backend(name, tmp_path):
    variant = get_variant(name)
    loaded = loading.load(loading.resolve(variant, "synthetic", 0, tmp_path), variant)
    build = convmixer.build if variant.family == "convmixer" else mlp_mixer.build
    path = saving.save(build(variant.architecture, loaded.arrays), Path(tmp_path) / f"{name}.keras", {})
    reports = gate.prove(proofs.proof_of(variant, loaded.arrays), path, variant.family)
    assert set(reports) == set(BACKENDS)
    print({backend: report.ratios for backend, report in reports.items()})
    beside.require("keras", reports)
