"""What runs the same model: our SavedModels, as they are and frozen, plain onnx-tf's, Keras, and the sources.

Each in a process of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np

from benchmarks.conversion import AXES, SAVED_MODEL
from benchmarks.exports import flax_model, noise, torch_model
from benchmarks.graphs import passes
from utils.families.variants import Variant, get_variant
from utils.machine.cores import keep_to_cores

THREADS = 2  # for each contender, whatever the machine has
BATCHES = (1, 8)

# images, float32 NHWC -> a function of nothing that computes their logits or features, float32 [B, units]
Bind = Callable[[np.ndarray], Callable[[], np.ndarray]]
Folders = Mapping[str, Path]  # of the SavedModels, by the side or kind of export; "keras", "onnx": such a file


def import_tensorflow() -> ModuleType:
    """With its threads set, which can be done before it has computed anything only."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(THREADS)
    return tf


def saved_model(folder: Path, axes: tuple[int, ...] = (0, 1, 2, 3), frozen: bool = False) -> Bind:
    """TensorFlow, through the signature that TensorFlow Serving would call; frozen: its variables made constants."""
    tf = import_tensorflow()
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    loaded = tf.saved_model.load(str(folder))
    serve = loaded.signatures["serving_default"]
    if frozen:
        constant = convert_variables_to_constants_v2(serve)
        serve = lambda inputs: {"output": constant(inputs)[0]}  # noqa: E731

    def bind(images: np.ndarray) -> Callable[[], np.ndarray]:
        inputs = tf.constant(np.ascontiguousarray(images.transpose(axes)))
        # `loaded` in the default argument: a signature alone does not keep its variables alive.
        return lambda _loaded=loaded: next(iter(serve(inputs=inputs).values())).numpy()

    return bind


def pytorch(variant: Variant, head: str = "classification") -> Bind:
    """PyTorch eager in inference mode, in its usual layout."""
    import torch

    torch.set_num_threads(THREADS)
    model, _ = torch_model(variant, head)

    def bind(images: np.ndarray) -> Callable[[], np.ndarray]:
        inputs = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        return torch.inference_mode()(lambda: model(inputs).numpy())

    return bind


def onnx_runtime(file: Path) -> Bind:
    """ONNX Runtime on the CPU, with all its graph optimisations (the default)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def bind(images: np.ndarray) -> Callable[[], np.ndarray]:
        feed = {"inputs": np.ascontiguousarray(images.transpose(0, 3, 1, 2))}
        return lambda: session.run(["logits"], feed)[0]

    return bind


def jax_jit(variant: Variant, head: str = "classification") -> Bind:
    """`jax.jit` of the source model, weights and images in JAX's own memory."""
    keep_to_cores(THREADS)  # JAX has no setting for its threads: it takes as many as there are processors to run on
    import jax

    predict, parameters = flax_model(variant, head)
    predict, parameters = jax.jit(predict), jax.device_put(parameters)

    def bind(images: np.ndarray) -> Callable[[], np.ndarray]:
        inputs = jax.device_put(images)
        return lambda: np.asarray(predict(parameters, inputs))

    return bind


def import_keras() -> ModuleType:
    """On the backend that KERAS_BACKEND names, which is given its threads first."""
    backend = os.environ["KERAS_BACKEND"]
    if backend == "tensorflow":
        import_tensorflow()
    elif backend == "jax":
        keep_to_cores(THREADS)  # as in `jax_jit`
    else:
        import torch

        torch.set_num_threads(THREADS)
    import keras

    return keras


def keras_model(file: Path, jit_compile: bool | str) -> Bind:
    """As Keras's users call it, images and logits in NumPy's memory.

    By `predict_on_batch`, not by a `tf.function` of one's own: `jit_compile` is then Keras's own switch, given where
    one gives it, and the call is the same on every backend. And not by `predict`, which begins each call by making an
    iterator and a progress bar.
    """
    import_keras()
    from utils.keras_models.saving import load

    model = load(file)
    model.compile(jit_compile=jit_compile)
    return lambda images: lambda: model.predict_on_batch(images)


# By KERAS_BACKEND. With "auto", Keras compiles on JAX, and on PyTorch it does not.
KERAS: dict[str, Callable[[Variant, Folders], Bind]] = {
    "keras tensorflow": lambda _, folders: keras_model(folders["keras"], jit_compile=False),
    "keras tensorflow compiled": lambda _, folders: keras_model(folders["keras"], jit_compile=True),
    "keras jax": lambda _, folders: keras_model(folders["keras"], jit_compile="auto"),
    "keras torch": lambda _, folders: keras_model(folders["keras"], jit_compile="auto"),
}
CONTENDERS: dict[str, dict[str, Callable[[Variant, Folders], Bind]]] = {
    "convmixer": {
        "onnx-tf": lambda _, folders: saved_model(folders["onnx-tf"]),
        "ours": lambda _, folders: saved_model(folders["ours"] / SAVED_MODEL),
        "frozen": lambda _, folders: saved_model(folders["ours"] / SAVED_MODEL, frozen=True),
        "plain": lambda _, folders: saved_model(folders["plain"] / SAVED_MODEL, AXES["plain"]),
        "pytorch": lambda variant, _: pytorch(variant),
        "onnxruntime": lambda _, folders: onnx_runtime(folders["onnx"]),
        **KERAS,
    },
    "mixer": {
        "xla": lambda _, folders: saved_model(folders["xla"]),
        "plain": lambda _, folders: saved_model(folders["plain"]),
        "jax": lambda variant, _: jax_jit(variant),
        **KERAS,
    },
}


def prepare(contender: str, name: str, folders: Folders) -> Callable[[str, int], object]:
    """For a contender's process: the function `command("logits", "time" or "passes", batch)`.

    "logits" gives the array, "time" the seconds of one inference, input and output in NumPy's or the framework's own
    memory; "passes", of TensorFlow's first inference, how many operations it ran over activations.
    """
    variant = get_variant(name)
    bind, images = CONTENDERS[variant.family][contender](variant, folders), noise(max(BATCHES), variant.image_size)
    runs = {batch: bind(images[:batch]) for batch in BATCHES}

    def command(what: str, batch: int) -> object:
        if what == "passes":
            return passes(runs[batch])
        started = time.perf_counter()
        logits = runs[batch]()
        return logits if what == "logits" else time.perf_counter() - started

    return command
