"""Where a conversion computes, what there is to train on, and what follows from it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow as tf

# Tensor cores, which float16 gains from, came with this compute capability.
_TENSOR_CORES = (7, 0)


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


def choose_strategy(environment: Mapping[str, str] = os.environ) -> tf.distribute.Strategy:
    """TPUStrategy where the environment names a TPU, MirroredStrategy for several GPUs, else the default one.

    That too, with a line that says so, where TensorFlow cannot use the TPU: packages differ in having its operations.
    """
    import tensorflow as tf

    if any(environment.get(name) for name in ("COLAB_TPU_ADDR", "TPU_NAME", "TPU_WORKER_ID")):
        try:
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver(environment.get("TPU_NAME") or "local")
            tf.config.experimental_connect_to_cluster(resolver)
            tf.tpu.experimental.initialize_tpu_system(resolver)
            return tf.distribute.TPUStrategy(resolver)
        except Exception as error:  # by TensorFlow's version and build: no such operation, no such library, no answer
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            print(f"There is a TPU, but this TensorFlow cannot use it ({reason[:200]}): going on with the CPU.")
            return tf.distribute.get_strategy()
    if len(tf.config.list_logical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def kind() -> str:
    """The fastest kind of device that TensorFlow has here: "TPU", "GPU" or "CPU"."""
    import tensorflow as tf

    devices = {device.device_type for device in tf.config.list_logical_devices()}
    return next(name for name in ("TPU", "GPU", "CPU") if name in devices)


def describe(strategy: tf.distribute.Strategy) -> str:
    """Such as "1 x CPU, no distribution"."""
    name = type(strategy).__name__
    return f"{strategy.num_replicas_in_sync} x {kind()}, {'no distribution' if name.startswith('_Default') else name}"


def gains_from_float16() -> bool:
    """Whether every GPU here has tensor cores; False without a GPU: CPUs compute float16 more slowly than float32."""
    import tensorflow as tf

    found = [
        tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    return bool(found) and all(tuple(capability) >= _TENSOR_CORES for capability in found)


def set_mixed_precision(on: bool) -> None:
    """Let Grappler put float16 into the graph where that is safe; the optimizer must then scale its loss.

    Keras's own policy cannot reach into a SavedModel, whose graph says float32; Grappler's rewrite can, but not into
    an `XlaCallModule`, which stays in float32.
    """
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"auto_mixed_precision": on})
