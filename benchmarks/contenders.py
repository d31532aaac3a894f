"""What runs the same model: its source, our SavedModels and other files, plain onnx-tf's. Each in its own process."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gate.exports import flax_model, noise, prepare_export, torch_model

from benchmarks import conversion
from benchmarks.processes import Worker
from utils.families.variants import Variant, get_variant

THREADS = 2  # for each contender, whatever the machine has
BATCHES = (1, 8)
PLAIN = "SavedModel, plain operations"
PAUSE_SECONDS = 0.1  # ONNX Runtime's threads were seen to spin for 0.05 s before they sleep, others' far less
ONEDNN = {"TF_ENABLE_ONEDNN_OPTS": "1"}

# A contender, and what TF_ENABLE_ONEDNN_OPTS is: None for those that have no such switch. XLA does not use TensorFlow's
# oneDNN, so one setting stands for both. The source comes first wherever several are compared.
Run = tuple[str, str | None]


class Table(NamedTuple):
    """What a table of assets/tables compares. variants: of full size. runs: by family, the source first."""

    title: str
    variants: tuple[str, ...]
    runs: dict[str, tuple[Run, ...]]

    def chosen(self, options: argparse.Namespace) -> dict[str, tuple[Run, ...]]:
        """The runs by variant, for the `--variants` and `--quick` of a command."""
        tiny = tuple(f"{family}_tiny" for family in self.runs)
        variants = options.variants or (tiny if options.quick else self.variants)
        families = {name: get_variant(name).family for name in variants}
        return {name: self.runs[family] for name, family in families.items() if family in self.runs}


# images, float32 NHWC -> a function of nothing that computes their logits or features, float32 [B, units]
Bind = Callable[[np.ndarray], Callable[[], np.ndarray]]

KERAS_BACKENDS = {
    "Keras on TensorFlow": "tensorflow",
    "Keras on TensorFlow, compiled": "tensorflow",
    "Keras on JAX": "jax",
    "Keras on PyTorch": "torch",
}
# oneDNN is on for TensorFlow, as it is by itself on newer CPUs.
KERAS: tuple[Run, ...] = tuple((name, "1" if name == "Keras on TensorFlow" else None) for name in KERAS_BACKENDS)
# What kind of file a contender loads, by its name; the sources load nothing.
_FILES = {
    "SavedModel": "xla",
    "SavedModel, frozen": "xla",
    "SavedModel, compiled": "xla",
    PLAIN: "plain",
    "plain onnx-tf": "onnx-tf",
    "ONNX Runtime": "onnx",
    **dict.fromkeys(KERAS_BACKENDS, "keras"),
}


def file_of(contender: str, folder: Path) -> Path:
    """What it loads, in the folder that `save` has filled."""
    return folder / f"model.{_FILES.get(contender)}"


def save(name: str, folder: Path, runs: Sequence[Run], head: str = "classification") -> None:
    """Writes what the contenders load, each file in a process of its own.

    Args:
        name: of the variant.
        folder: where `file_of` finds the files.
        runs: the contenders, the source first, which loads nothing.
        head: of the model, "classification" or "fe".
    """
    made_by = {_FILES[contender]: (prepare_export, _FILES[contender], name, head) for contender, _ in runs[1:]}
    if "onnx-tf" in made_by:
        made_by["onnx-tf"] = (conversion.prepare, "plain onnx-tf", name)
    for kind, prepare in made_by.items():
        environment = {"KERAS_BACKEND": "jax"} if kind == "keras" else {}  # any, but one without TensorFlow
        with Worker(f"{kind} of {name}", *prepare, environment=environment) as worker:
            worker(folder / f"model.{kind}")


def started(stack: ExitStack, name: str, runs: Sequence[Run], prepare: Callable, *arguments: Any) -> dict[Run, Worker]:
    """A process for each run, ready one after the other, as each may need much memory at first.

    Args:
        stack: ends them.
        name: of the variant, for messages.
        runs: the contenders.
        prepare: what each does first, with its contender and the `arguments`; see `Worker`.
        arguments: the same for all.
    """
    workers = {}
    for contender, onednn in runs:
        environment = {} if onednn is None else {"TF_ENABLE_ONEDNN_OPTS": onednn}
        if contender in KERAS_BACKENDS:
            environment["KERAS_BACKEND"] = KERAS_BACKENDS[contender]
        worker = Worker(f"{contender} on {name}", prepare, contender, *arguments, environment=environment)
        workers[contender, onednn] = stack.enter_context(worker).ready()
    return workers


def turns(runs: Sequence[Any], rounds: range) -> Iterator[tuple[int, Any]]:
    """Each run once a round, each round begun by another one, after a pause: what slows the machine meets all."""
    for number in rounds:
        first = number % len(runs)
        for run in (*runs[first:], *runs[:first]):
            time.sleep(PAUSE_SECONDS)
            yield number, run


def keep_to_cores() -> None:
    """Have this process run on THREADS of the processors that it may run on, which Linux alone can do."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])


def import_framework(contender: str) -> None:
    """Imports what it runs on, with its threads set, which can be done before it has computed anything only."""
    others = {"PyTorch": "torch", "JAX": "jax", "ONNX Runtime": ""}
    framework = (KERAS_BACKENDS | others).get(contender, "tensorflow")
    if framework == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(THREADS)
        tf.config.threading.set_inter_op_parallelism_threads(THREADS)
        tf.constant(0.0)
    elif framework == "torch":
        import torch

        torch.set_num_threads(THREADS)
    elif framework == "jax":
        keep_to_cores()  # JAX has no setting for its threads: it takes as many as there are processors to run on
        import jax

        jax.numpy.zeros(1).block_until_ready()
    if contender in KERAS_BACKENDS:
        import keras

        keras.ops.convert_to_numpy(keras.ops.zeros(1))


# Each of the following takes a framework that `import_framework` has imported.


def saved_model(folder: Path, axes: tuple[int, ...] = (0, 1, 2, 3), frozen: bool = False) -> Bind:
    """TensorFlow, through the signature that TensorFlow Serving would call; frozen: its variables made constants."""
    import tensorflow as tf
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

    model = torch_model(variant, head)

    def bind(images: np.ndarray) -> Callable[[], np.ndarray]:
        inputs = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        return torch.inference_mode()(lambda: model(inputs).numpy())

    return bind


def jax_jit(variant: Variant, head: str = "classification") -> Bind:
    """`jax.jit` of the source model, weights and images in JAX's own memory."""
    import jax

    predict, parameters = flax_model(variant, head)
    predict, parameters = jax.jit(predict), jax.device_put(parameters)

    def bind(images: np.ndarray) -> Callable[[], np.ndarray]:
        inputs = jax.device_put(images)
        return lambda: np.asarray(predict(parameters, inputs))

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


def keras_model(contender: str, file: Path) -> Bind:
    """As Keras's users call it, images and logits in NumPy's memory.

    By `predict_on_batch`, not by a `tf.function` of one's own: `jit_compile` is then Keras's own switch, and the call
    is the same on every backend. And not by `predict`, which begins each call by making an iterator and a progress bar.
    """
    from utils.keras_models.saving import load

    model = load(file)
    model.compile(jit_compile=jit_compile(contender))
    return lambda images: lambda: model.predict_on_batch(images)


def jit_compile(contender: str) -> bool | str:
    """Keras's switch; with "auto", Keras compiles on JAX, and on PyTorch it does not."""
    return contender.endswith("compiled") if KERAS_BACKENDS[contender] == "tensorflow" else "auto"


def prepare(contender: str, name: str, folder: Path) -> Callable[[str, int], Any]:
    """For a contender's process: the function `command("logits" or "time", batch)`.

    "logits" gives the array, "time" the seconds of one inference, input and output in NumPy's or the framework's own
    memory.
    """
    import_framework(contender)
    variant, file = get_variant(name), file_of(contender, folder)
    bind = _bind(contender, variant, file)
    images = noise(max(BATCHES), variant.image_size)
    runs = {batch: bind(images[:batch]) for batch in BATCHES}

    def command(what: str, batch: int) -> Any:
        started = time.perf_counter()
        logits = runs[batch]()
        return logits if what == "logits" else time.perf_counter() - started

    return command


def _bind(contender: str, variant: Variant, file: Path) -> Bind:
    if contender in KERAS_BACKENDS:
        return keras_model(contender, file)
    binds: Mapping[str, Callable[[], Bind]] = {
        "PyTorch": lambda: pytorch(variant),
        "JAX": lambda: jax_jit(variant),
        "ONNX Runtime": lambda: onnx_runtime(file),
        "plain onnx-tf": lambda: saved_model(file / conversion.SAVED_MODEL, conversion.AXES["plain onnx-tf"]),
    }
    return binds.get(contender, lambda: saved_model(file, frozen=contender == "SavedModel, frozen"))()
