"""Accelerators are hidden before any framework looks for them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


TRITON = """
import os, sys
if "tensorflow" in sys.modules:
    os._exit(66)  # as the real one ends the process: two LLVMs
"""
EXPORT = """
import tensorflow
import tiny
from utils.export.torch_to_onnx import export_onnx
from utils.machine.devices import use_cpu
{first}
import torch
export_onnx(tiny.source("convmixer_tiny"), "logits")
model = torch.nn.Linear(2, 2)
torch.optim.SGD(model.parameters(), 0.1).step()
print("done")
"""


@pytest.mark.parametrize("first", ["", "use_cpu(); import torch._dynamo"])
def test_triton_is_not_loaded_after_tensorflow(tmp_path, first):
    """PyTorch's CUDA builds come with it, and look for it when a model is exported or trained."""
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / "__init__.py").write_text(TRITON)
    places = [str(tmp_path), str(ROOT), str(ROOT / "tests")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
    command = [sys.executable, "-c"]
    done = subprocess.run([*command, EXPORT.format(first=first)], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()[-1:]) == (0, ["done"]), done.stderr[-2000:]
    unguarded = "import tensorflow, torch._dynamo"  # the test would see it
    assert subprocess.run([*command, unguarded], env=environment, capture_output=True).returncode == 66


def test_cpu_is_all_that_the_frameworks_see():
    code = (
        "from utils.machine.devices import use_cpu; use_cpu();"
        "import os, jax;"
        "print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['JAX_PLATFORMS']);"
        "print([device.platform for device in jax.devices()])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "-1 cpu\n['cpu']"
