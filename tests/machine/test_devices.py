"""Accelerators are hidden before any framework looks for them, and taken by what trains."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from utils.machine import devices

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


@pytest.mark.slow
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
    if not first:
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


def test_on_a_cpu_there_is_nothing_to_distribute_and_no_float16():
    strategy = devices.choose_strategy({})
    assert strategy.num_replicas_in_sync == 1
    assert devices.describe(strategy) == "1 x CPU, no distribution"
    assert not devices.gains_from_float16()


@pytest.mark.parametrize(("capability", "gains"), [((7, 0), True), ((9, 0), True), ((6, 1), False)])
def test_float16_is_for_machines_whose_gpus_all_have_tensor_cores(monkeypatch, capability, gains):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["GPU:0", "GPU:1"])
    details = {"GPU:0": {"compute_capability": (8, 0)}, "GPU:1": {"compute_capability": capability}}
    monkeypatch.setattr(tf.config.experimental, "get_device_details", details.get)
    assert devices.gains_from_float16() is gains


def test_several_gpus_are_mirrored(monkeypatch):
    made = []
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind=None: ["GPU:0", "GPU:1"])
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda: made.append("mirrored") or "mirrored")
    assert devices.choose_strategy({}) == "mirrored"


def test_a_tpu_that_tensorflow_cannot_use_is_told_and_the_cpu_taken(monkeypatch, capsys):
    def refuse(*_, **__):
        raise tf.errors.NotFoundError(None, None, "Op type not registered 'ConfigureDistributedTPU'\nmore")

    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", lambda name: name)
    monkeypatch.setattr(tf.config, "experimental_connect_to_cluster", lambda resolver: None)
    monkeypatch.setattr(tf.tpu.experimental, "initialize_tpu_system", refuse)
    strategy = devices.choose_strategy({"TPU_NAME": "local"})
    assert devices.describe(strategy) == "1 x CPU, no distribution"
    said = capsys.readouterr().out
    assert "cannot use it (Op type not registered 'ConfigureDistributedTPU'): going on with the CPU" in said
