"""One file on TensorFlow, JAX and PyTorch, each in a process that can import no other framework, through the gate."""

import os
import subprocess
import sys

import keras_tiny
import proofs
import pytest
from keras_tiny import GELU, MIXER

from utils.errors import ParityError
from utils.keras_models import gate, saving
from utils.keras_models.gate import FRAMEWORKS
from utils.keras_models.saving import BACKENDS


def run(code, backend):
    environment = os.environ | {"KERAS_BACKEND": backend}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.slow
def test_file_passes_the_gate_on_every_backend(tmp_path):
    """A Mixer's; a ConvMixer's does in the notebook, see `test_artefact`."""
    path = saving.save(keras_tiny.built(MIXER), tmp_path / "a.keras", {})
    reports = gate.prove(proofs.proof(MIXER), path, keras_tiny.family(MIXER))
    assert set(reports) == set(BACKENDS)
    for report in reports.values():
        report.require()


def test_process_of_a_backend_finds_no_other_framework():
    code = """
import importlib.util
from utils.keras_models import gate
gate.hide_other_frameworks("jax")
print([name for names in gate.FRAMEWORKS.values() for name in names if importlib.util.find_spec(name)])
"""
    assert run(code, "jax").strip() == str(list(FRAMEWORKS["jax"]))


def test_backend_that_is_missing_is_named(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('No module named torch')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ParityError, match=r"a\.keras was not computed by Keras on torch: .*Install keras"):
        gate.prove(proofs.proof(GELU), tmp_path / "a.keras", "convmixer", backends=["torch"])
    block = "import sys\nsys.modules['jax'] = None\nfrom utils.keras_models.saving import import_keras\n"
    told = run(f"{block}try: import_keras()\nexcept Exception as e: print(type(e).__name__, e)", "jax")
    assert told.startswith("PackagingError Keras cannot be imported with the backend 'jax'")


def test_process_that_hangs_is_a_parity_error(tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "SECONDS", 0.1)
    with pytest.raises(ParityError, match=r"a\.keras was not computed by Keras on jax within 0\.1 seconds"):
        gate.prove(proofs.proof(GELU), tmp_path / "a.keras", "convmixer", backends=["jax"])
