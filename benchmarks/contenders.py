"""What runs the same model: our SavedModel, as it is and frozen, plain onnx-tf's, PyTorch, ONNX Runtime.

Each in a process of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.conversion import AXES, ONNX_FILE, SAVED_MODEL, load, noise
from utils.models.variants import get_variant

THREADS = 2  # for each contender, whatever the machine has


@dataclass(frozen=True)
class Artefacts:
    """A variant's name, and the folders that each side's conversion has left."""

    variant: str
    ours: Path
    plain: Path


# images, float32 NHWC -> a function of nothing that computes their logits, float32 [B, classes]
Bind = Callable[[np.ndarray], Callable[[], np.ndarray]]


def saved_model(folder: Path, side: str, frozen: bool = False) -> Bind:
    """TensorFlow, through the signature that TensorFlow Serving would call; frozen: its variables made constants."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(THREADS)
    loaded = tf.saved_model.load(str(folder / SAVED_MODEL))
    serve = loaded.signatures["serving_default"]
    if frozen:
        constant = convert_variables_to_constants_v2(serve)
        serve = lambda inputs: {"logits": constant(inputs)[0]}  # noqa: E731

    def bind(images: np.ndarray) -> Callable[[], np.ndarray]:
        inputs = tf.constant(np.ascontiguousarray(images.transpose(AXES[side])))
        # `loaded` in the default argument: a signature alone does not keep its variables alive.
        return lambda _loaded=loaded: serve(inputs=inputs)["logits"].numpy()

    return bind


def pytorch(variant: str) -> Bind:
    """PyTorch eager in inference mode, in its usual layout."""
    import torch

    torch.set_num_threads(THREADS)
    model, _ = load(get_variant(variant, "convmixer"))

    def bind(images: np.ndarray) -> Callable[[], np.ndarray]:
        inputs = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))

        def run() -> np.ndarray:
            with torch.inference_mode():
                return model(inputs).numpy()

        return run

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


CONTENDERS: dict[str, Callable[[Artefacts], Bind]] = {
    "ours": lambda artefacts: saved_model(artefacts.ours, "ours"),
    "frozen": lambda artefacts: saved_model(artefacts.ours, "ours", frozen=True),
    "plain": lambda artefacts: saved_model(artefacts.plain, "plain"),
    "pytorch": lambda artefacts: pytorch(artefacts.variant),
    "onnxruntime": lambda artefacts: onnx_runtime(artefacts.plain / ONNX_FILE),
}


def prepare(contender: str, artefacts: Artefacts, batches: tuple[int, ...]) -> Callable[[str, int], object]:
    """For a contender's process: the function `command("logits" or "time", batch)`.

    "logits" gives the array; "time" gives (seconds of one inference, input and output in NumPy's or the framework's
    own memory; seconds of processor time, of all threads, since the last command).
    """
    return timed(CONTENDERS[contender](artefacts), get_variant(artefacts.variant).image_size, batches)


def timed(bind: Bind, image_size: int, batches: tuple[int, ...]) -> Callable[[str, int], object]:
    """The function that `prepare` returns, for a model that is ready: images of noise, square, `image_size` pixels."""
    images = noise(max(batches), image_size)
    runs = {batch: bind(images[:batch]) for batch in batches}
    last = time.process_time()

    def command(what: str, batch: int) -> object:
        nonlocal last
        idle = time.process_time() - last
        started = time.perf_counter()
        logits = runs[batch]()
        seconds = time.perf_counter() - started
        last = time.process_time()
        return logits if what == "logits" else (seconds, idle)

    return command
