"""Accelerators are hidden before any framework looks for them."""

import subprocess
import sys


def test_cpu_is_all_that_the_frameworks_see():
    code = (
        "from utils.devices import use_cpu; use_cpu();"
        "import os, jax;"
        "print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['JAX_PLATFORMS']);"
        "print([device.platform for device in jax.devices()])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "-1 cpu\n['cpu']"
