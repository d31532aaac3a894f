"""What there is to train on, and what follows from it: a `tf.distribute` strategy and the precision."""

from __future__ import annotations

import os
from collections.abc import Mapping

import tensorflow as tf

# Tensor cores, which float16 gains from, came with this compute capability.
_TENSOR_CORES = (7, 0)


def choose_strategy(environment: Mapping[str, str] = os.environ) -> tf.distribute.Strategy:
    """TPUStrategy where the environment names a TPU, MirroredStrategy for several GPUs, else the default one."""
    if any(environment.get(name) for name in ("COLAB_TPU_ADDR", "TPU_NAME", "TPU_WORKER_ID")):
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(environment.get("TPU_NAME") or "local")
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    if len(tf.config.list_logical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def describe(strategy: tf.distribute.Strategy) -> str:
    """Such as "1 x CPU, no distribution"."""
    kind = type(strategy).__name__
    devices = {device.device_type for device in tf.config.list_logical_devices()}
    best = next(name for name in ("TPU", "GPU", "CPU") if name in devices)
    return f"{strategy.num_replicas_in_sync} x {best}, {'no distribution' if kind.startswith('_Default') else kind}"


def gains_from_float16() -> bool:
    """Whether every GPU here has tensor cores; False without a GPU: CPUs compute float16 more slowly than float32."""
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
    tf.config.optimizer.set_experimental_options({"auto_mixed_precision": on})
