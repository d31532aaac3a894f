"""Where a conversion computes."""

from __future__ import annotations

import os


def use_cpu() -> None:
    """Hide accelerators from PyTorch, JAX and TensorFlow; to be called before they are imported.

    By default those compute float32 products in TF32 (ten bits of mantissa) or bfloat16, which no gate of 1e-5
    passes, and each framework has switches of its own. What was exported runs on accelerators all the same.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ["JAX_PLATFORMS"] = "cpu"
