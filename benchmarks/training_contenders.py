"""What makes the same training step: our SavedModels, PyTorch, JAX, Keras. Each in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders import THREADS, import_keras, import_tensorflow
from benchmarks.conversion import count_peak_memory, memory_mb
from benchmarks.exports import SEED, flax_model, noise, torch_model
from benchmarks.steps import JaxStep, Step, tensorflow_step, torch_step
from benchmarks.training_parity import MOMENTUM, learning_rate
from utils.families.variants import Variant, get_variant
from utils.machine.cores import keep_to_cores
from utils.machine.measure import Stages

CLASSES = 10  # of the new head


def prepare(contender: str, name: str, part: str, folder: Path | None, batch: int) -> Callable[[str], Any]:
    """For a contender's process: `command("start")` makes two steps, "time" one more, "memory" tells the peak.

    The peak is in MB above what is resident after the frameworks' imports, and counts from the first step on.
    """
    variant = get_variant(name)
    importer, builder = BUILDERS[contender.split()[0]]
    importer()
    imports_mb = memory_mb()
    options = {"jit_compile": True} if contender.endswith("compiled") else {}
    step = builder(variant, part, folder, **options)
    images = noise(batch, variant.image_size)
    labels = np.random.default_rng(SEED).integers(0, CLASSES, batch)

    def call(what: str) -> Any:
        if what == "memory":
            return Stages().peak_memory_mb - imports_mb
        if what == "start":
            count_peak_memory()
        started = time.perf_counter()
        step(images, labels)
        seconds = time.perf_counter() - started
        return seconds if what == "time" else {"first_seconds": seconds, "loss": step(images, labels)}

    return call


def _head(width: int) -> tuple[np.ndarray, np.ndarray]:
    """The same new head for all, not zero: then the backbone has gradients in the first step."""
    kernel = np.random.default_rng(SEED).standard_normal((width, CLASSES)).astype(np.float32) * width**-0.5
    return kernel, np.zeros(CLASSES, np.float32)


def _begin_tensorflow() -> None:
    import tf_keras  # noqa: F401

    import_tensorflow().constant(0.0)


def build_tensorflow(variant: Variant, part: str, folder: Path, jit_compile: bool = False) -> Step:
    """The reloaded SavedModel and a head."""
    import tensorflow as tf

    from utils.export.saved_model import load_model

    model = load_model(folder)
    width = model.signatures["serving_default"].structured_outputs["features"].shape[-1]
    kernel, bias = (tf.Variable(value) for value in _head(width))
    return tensorflow_step(
        lambda images: tf.matmul(model(images, training=part == "all"), kernel) + bias,
        [kernel, bias, *(model.trainable_variables if part == "all" else ())],
        learning_rate(variant),
        MOMENTUM,
        jit_compile,
    )


def _begin_torch() -> None:
    import torch

    torch.set_num_threads(THREADS)


def build_torch(variant: Variant, part: str, _folder: Path | None) -> Step:
    """The source ConvMixer and a head under torch.optim.SGD; for the head alone, the backbone keeps no graph."""
    import torch

    backbone = torch_model(variant, "fe")[0].train(part == "all")
    head = torch.nn.Linear(variant.architecture.dim, CLASSES)
    with torch.no_grad():
        kernel, bias = _head(variant.architecture.dim)
        head.weight.copy_(torch.from_numpy(kernel.T))
        head.bias.copy_(torch.from_numpy(bias))

    def predict(inputs: torch.Tensor) -> torch.Tensor:
        with torch.set_grad_enabled(part == "all"):
            features = backbone(inputs)
        return head(features)

    parameters = [*head.parameters(), *(backbone.parameters() if part == "all" else ())]
    return torch_step(predict, torch.optim.SGD(parameters, learning_rate(variant), momentum=MOMENTUM))


def _begin_jax() -> None:
    keep_to_cores(THREADS)  # JAX has no setting for its threads: it takes as many as there are processors to run on
    import jax
    import optax  # noqa: F401

    import utils.families.mlp_mixer.source  # noqa: F401

    jax.numpy.zeros(1).block_until_ready()


def build_jax(variant: Variant, part: str, _folder: Path | None) -> Step:
    """The source Mixer and a head under optax.sgd."""
    import jax
    import optax

    backbone, fixed = flax_model(variant, "fe")
    trained = dict(zip(("kernel", "bias"), _head(variant.architecture.hidden_dim), strict=True))
    if part == "all":
        trained, fixed = trained | fixed, {}

    def predict(trained: dict, fixed: dict, images: jax.Array) -> jax.Array:
        weights = {k: v for k, v in (trained | fixed).items() if k not in ("kernel", "bias")}
        return backbone(weights, images) @ trained["kernel"] + trained["bias"]

    return JaxStep(predict, trained, optax.sgd(learning_rate(variant), momentum=MOMENTUM), fixed)


def _begin_keras() -> None:
    keras = import_keras()
    keras.ops.convert_to_numpy(keras.ops.zeros(1))


def build_keras(variant: Variant, part: str, file: Path, jit_compile: bool = False) -> Step:
    """The reloaded `.keras` file and a head, by `train_on_batch`.

    jit_compile: on TensorFlow; on JAX, Keras compiles by itself, and on PyTorch it does not.
    """
    import keras

    from utils.keras_models.saving import load

    backbone = load(file)
    backbone.trainable = part == "all"
    head = keras.layers.Dense(CLASSES)
    model = keras.Sequential([backbone, head])
    head.set_weights(_head(backbone.output_shape[-1]))
    model.compile(
        keras.optimizers.SGD(learning_rate(variant), momentum=MOMENTUM),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit_compile if keras.backend.backend() == "tensorflow" else "auto",
    )
    return lambda images, labels: float(model.train_on_batch(images, labels))


BUILDERS: dict[str, tuple[Callable[[], None], Callable[..., Step]]] = {
    "pytorch": (_begin_torch, build_torch),
    "jax": (_begin_jax, build_jax),
    "keras": (_begin_keras, build_keras),
    **dict.fromkeys(("onnx-tf", "xla", "plain"), (_begin_tensorflow, build_tensorflow)),
}
