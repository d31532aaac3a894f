"""Where a conversion computes."""

from __future__ import annotations

import os
import sys


def use_cpu() -> None:
    """Hide accelerators from PyTorch, JAX and TensorFlow; to be called before they are imported.

    By default those compute float32 products in TF32 (ten bits of mantissa) or bfloat16, which no gate of 1e-5
    passes, and each framework has switches of its own. What was exported runs on accelerators all the same.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ["JAX_PLATFORMS"] = "cpu"
    keep_triton_out()


def keep_triton_out() -> None:
    """Have PyTorch do without Triton, its compiler for GPUs, for which nothing here has a use.

    Triton and TensorFlow bring an LLVM each. PyTorch loads Triton, which its CUDA builds install, when it first exports
    or trains; where TensorFlow was loaded before, that ends the process: "inconsistency in registered CommandLine
    options", or a segmentation fault. If Triton is loaded already, it came first, and nothing is changed.
    """
    sys.modules.setdefault("triton", None)  # type: ignore[arg-type]  # "do not import", says the language reference
