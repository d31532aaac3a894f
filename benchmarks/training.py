"""Speed and memory of a training step, beside the source: `python -m benchmarks.training`, or `make bench`.

A step is what fine-tuning does: forward, loss, gradients, SGD with momentum; of a new head alone, or of everything.
Every contender is a process of its own; those of one variant and part are alive together and take turns. Leaves the
tables that are named in assets/tables, each as .md and .json (all samples).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from gate.exports import SEED, WEIGHTS, flax_model, noise, torch_model
from gate.steps import JaxStep, Step, tensorflow_step, torch_step

from benchmarks import command, contenders, latency
from benchmarks.contenders import PLAIN, THREADS, Run, Table
from benchmarks.conversion import count_peak_memory, memory_mb
from benchmarks.processes import Worker
from utils.families.variants import Variant, get_variant
from utils.machine.measure import Stages
from utils.tables import markdown

PARTS = {"head": "head only", "all": "everything"}  # what is trained
BATCH, CLASSES = 8, 10  # images in a step, classes of the new head
MOMENTUM = 0.9
# A full-size model learns a few images by heart in larger steps, and of a loss near 0 no relative error can be told.
LEARNING_RATE, LEARNING_RATE_OF_TINY = 3e-5, 3e-3
LOSS_TOLERANCE = 1e-4  # of the second loss, which depends on the first step
PACKAGES = ("torch", "jax", "flax", "optax", "tensorflow", "tf_keras", "keras", "onnx-tf", "numpy")

# "SavedModel, compiled" has `jit_compile=True` around the whole step: a compiler that sees both passes at once, as
# JAX's does, may choose better than the export did what to keep of the forward one.
TABLES = {
    "training_convmixer": Table(
        "A training step of ConvMixer",
        ("convmixer_1024_20",),
        {"convmixer": (("PyTorch", None), ("SavedModel", "1"), ("SavedModel", "0"))},
    ),
    "training_mixer": Table(
        "A training step of MLP-Mixer",
        ("mixer_b16_i1k",),
        {
            "mixer": (
                *(("JAX", None), ("SavedModel", None), ("SavedModel, compiled", None)),
                *((PLAIN, "1"), (PLAIN, "0")),
            )
        },
    ),
    "keras_training": latency.TABLES["keras_latency"]._replace(title="A training step of Keras models"),
}


def samples(name: str, runs: Sequence[Run], parts: Sequence[str], rounds: int, batch: int) -> Iterator[dict[str, Any]]:
    """Per part and contender: a sample per round with `seconds`, and one with `first_seconds` and `peak_mb`.

    Args:
        name: of the variant.
        runs: the contenders, the source first.
        parts: what is trained, keys of `PARTS`.
        rounds: timed steps of each.
        batch: images in a step.

    Raises:
        RuntimeError: a contender's loss after a step is not the source's; what is timed must be the same step.
    """
    with tempfile.TemporaryDirectory() as scratch:
        contenders.save(name, Path(scratch), runs, "fe")
        for part in parts:
            with ExitStack() as stack:
                workers = contenders.started(stack, name, runs, prepare, name, part, Path(scratch), batch)
                for (contender, onednn), figures in _measured(workers, runs, rounds, f"{name}, {part}"):
                    facts = {"variant": name, "part": part, "contender": contender, "onednn": onednn, "batch": batch}
                    yield facts | figures


def _measured(
    workers: Mapping[Run, Worker], runs: Sequence[Run], rounds: int, what: str
) -> Iterator[tuple[Run, dict[str, float]]]:
    starts = {run: worker("start") for run, worker in workers.items()}
    reference = starts[runs[0]]["loss"]
    for (contender, _), found in starts.items():
        if abs(found["loss"] - reference) > LOSS_TOLERANCE * abs(reference):
            raise RuntimeError(
                f"{contender} on {what}: the loss after a step is {found['loss']}, and the source's {reference}: not "
                "the same step, so not timed"
            )
    for number, run in contenders.turns(runs, range(rounds)):
        yield run, {"round": number, "seconds": workers[run]("time")}
    for run, worker in workers.items():
        yield run, {"first_seconds": starts[run]["first_seconds"], "peak_mb": worker("memory")}


def prepare(contender: str, name: str, part: str, folder: Path, batch: int) -> Callable[[str], Any]:
    """For a contender's process: `command("start")` makes two steps, "time" one more, "memory" tells the peak.

    The peak is in MB above what is resident after the frameworks' imports, and counts from the first step on.
    """
    variant, file = get_variant(name), contenders.file_of(contender, folder)
    contenders.import_framework(contender)
    builders = {"PyTorch": build_torch, "JAX": build_jax} | dict.fromkeys(contenders.KERAS_BACKENDS, build_keras)
    build = builders.get(contender, build_tensorflow)
    for module in IMPORTS.get(build, ()):
        import_module(module)
    imports_mb = memory_mb()
    step = build(contender, variant, part, file)
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


def learning_rate(variant: Variant) -> float:
    """Of every step."""
    return LEARNING_RATE_OF_TINY if variant.testing else LEARNING_RATE


def _head(width: int) -> tuple[np.ndarray, np.ndarray]:
    """The same new head for all, not zero: then the backbone has gradients in the first step."""
    kernel = np.random.default_rng(SEED).standard_normal((width, CLASSES)).astype(np.float32) * width**-0.5
    return kernel, np.zeros(CLASSES, np.float32)


def build_tensorflow(contender: str, variant: Variant, part: str, folder: Path) -> Step:
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
        jit_compile=contender.endswith("compiled"),
    )


def build_torch(_contender: str, variant: Variant, part: str, _file: Path) -> Step:
    """The source ConvMixer and a head under torch.optim.SGD; for the head alone, the backbone keeps no graph."""
    import torch

    backbone = torch_model(variant, "fe").train(part == "all")
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


def build_jax(_contender: str, variant: Variant, part: str, _file: Path) -> Step:
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


def build_keras(contender: str, variant: Variant, part: str, file: Path) -> Step:
    """The reloaded `.keras` file and a head, by `train_on_batch`."""
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
        jit_compile=contenders.jit_compile(contender),
    )
    return lambda images, labels: float(model.train_on_batch(images, labels))


# What they import beside their framework.
IMPORTS = {build_tensorflow: ("tf_keras",), build_jax: ("optax", "utils.families.mlp_mixer.source")}


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: medians, a row for each variant, part and contender, and how many times the source's they are."""
    headings = ["variant", "trained", "by", "oneDNN", "ms a step", "/ source's", "first step, s", "peak memory, MB"]
    lines = []
    groups = command.grouped(found, "variant", "part", "contender", "onednn")
    for (name, part, contender, onednn), group in groups.items():
        source = next(group for key, group in groups.items() if key[:2] == (name, part))
        seconds, theirs = (command.median_of(each, "seconds") for each in (group, source))
        first, peak = (command.median_of(group, key) for key in ("first_seconds", "peak_mb"))
        ratio = "" if group is source else f"{seconds / theirs:.2f}"
        figures = [f"{1000 * seconds:.1f}", ratio, f"{first:.1f}", f"{peak:.0f}"]
        lines.append([name, PARTS[part], contender, command.SWITCH[onednn], *figures])
    return markdown(headings, lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the tables, print them."""
    parser = command.parser("training", __doc__, quick="the tiny variants, 3 steps", repeats="timed steps of each (5)")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES), help="which to write (all)")
    command.add_variants(parser, "each table's own")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="what is trained (both; of Keras models, all)")
    parser.add_argument("--batch", type=int, default=BATCH, help=f"images in a step ({BATCH})")
    options = parser.parse_args(arguments)
    notes = command.notes("training", arguments, PACKAGES) | {
        "weights": WEIGHTS,
        "method": f"forward, loss, gradients and SGD with momentum on {options.batch} images, {THREADS} threads, "
        "float32, of Keras by train_on_batch; one process per row, taking turns; medians; losses compared after a "
        "step. The first step includes tracing and compilation. Peak memory is above what the imports take, from the "
        "first step on",
    }
    rounds = options.repeats or (3 if options.quick else 5)
    for kept in options.tables:
        parts = options.parts or (["all"] if kept == "keras_training" else list(PARTS))
        runs = TABLES[kept].chosen(options)
        steps = (samples(name, runs[name], parts, rounds, options.batch) for name in runs)
        if found := command.shown(sample for each in steps for sample in each):
            command.leave(options, kept, TABLES[kept].title, notes, table, found)


if __name__ == "__main__":
    main()
