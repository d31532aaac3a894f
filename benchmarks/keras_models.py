"""A `.keras` file on each backend, beside its source and its SavedModel: `python -m benchmarks.keras_models`.

One inference, and a training step of everything. On TensorFlow, `jit_compile` is off and on. Each contender is a
process of its own, and they take turns as in `benchmarks.latency` and `benchmarks.training`. Leaves `keras_latency` and
`keras_training` in assets/tables, each as .md (the table) and .json (all samples). No target is set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import command, latency, tables, training
from benchmarks.contenders import THREADS, Folders
from benchmarks.exports import WEIGHTS, weights_of
from benchmarks.processes import Worker
from utils.families.variants import get_variant
from utils.tables import markdown

PARTS = ("latency", "training")
DEFAULT_VARIANTS = ["convmixer_1024_20", "mixer_b16_i1k"]
QUICK_VARIANTS = ["convmixer_tiny", "mixer_tiny"]
PACKAGES = ("keras", "torch", "jax", "flax", "optax", "tensorflow", "tf_keras", "onnx-tf", "numpy")

# oneDNN is on for TensorFlow, as it is by itself on newer CPUs: the other tables have it off, too. XLA does not use it.
KERAS = (
    *(("keras tensorflow", "1"), ("keras tensorflow compiled", None)),
    *(("keras jax", None), ("keras torch", None)),
)
RUNS: dict[str, tuple[latency.Run, ...]] = {
    "convmixer": (("pytorch", None), ("onnx-tf", "1"), *KERAS),
    "mixer": (("jax", None), ("xla", None), ("plain", "1"), *KERAS),
}
TITLES = {
    "pytorch": "PyTorch, the source",
    "jax": "JAX, the source",
    "onnx-tf": "SavedModel",
    "xla": "SavedModel, XLA operations",
    "plain": "SavedModel, plain operations",
    "keras tensorflow": "Keras on TensorFlow, `jit_compile=False`",
    "keras tensorflow compiled": "Keras on TensorFlow, `jit_compile=True`",
    "keras jax": "Keras on JAX",
    "keras torch": "Keras on PyTorch",
}


def saved(name: str, scratch: Path, head: str = "classification") -> Folders:
    """The SavedModels of `latency.exports`, and the `.keras` file."""
    file = scratch / "model.keras"
    with Worker(f"Keras model of {name}", prepare_file, name, head, environment={"KERAS_BACKEND": "jax"}) as worker:
        worker(file)
    return latency.exports(name, scratch, head) | {"keras": file}


def prepare_file(name: str, head: str) -> Callable[[Path], None]:
    """For a `Worker`: the function that writes the `.keras` file."""
    from utils.keras_models import conversion

    def write(file: Path) -> None:
        variant = get_variant(name)
        conversion.write(file, variant, weights_of(variant), head, variant.image_size, record={})

    return write


def latency_table(samples: Sequence[Mapping[str, Any]]) -> str:
    """Median milliseconds of one inference, a row for each variant, batch and contender."""
    rows = []
    groups = tables.grouped(samples, "variant", "batch", "contender")
    for variant, batch, contender in groups:
        seconds, ratio = _to_source(groups, variant, batch, contender)
        rows.append([variant, str(batch), TITLES[contender], f"{1000 * seconds:.1f}", ratio])
    return markdown(["variant", "batch", "by", "ms", "/ source's"], rows)


def training_table(samples: Sequence[Mapping[str, Any]]) -> str:
    """Median milliseconds of a step, a row for each variant and contender, and what the first one took."""
    rows = []
    groups = tables.grouped(samples, "variant", "part", "contender")
    for (variant, part, contender), group in groups.items():
        seconds, ratio = _to_source(groups, variant, part, contender)
        first, peak = (tables.median_of(group, key) for key in ("first_seconds", "peak_mb"))
        rows.append([variant, TITLES[contender], f"{1000 * seconds:.1f}", ratio, f"{first:.1f}", f"{peak:.0f}"])
    return markdown(["variant", "by", "ms a step", "/ source's", "first step, s", "peak memory, MB"], rows)


def _to_source(groups: Mapping[tuple, list], variant: str, what: Any, contender: str) -> tuple[float, str]:
    """Median seconds, and their ratio to the source's; for the source itself no ratio."""
    source = RUNS[get_variant(variant).family][0][0]
    seconds, theirs = (tables.median_of(groups[variant, what, each], "seconds") for each in (contender, source))
    return seconds, "" if contender == source else f"{seconds / theirs:.2f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the tables, print them."""
    quick, repeats = "the tiny variants, 3 rounds", "rounds of inferences (7), timed steps of each (5)"
    parser = command.parser("keras_models", __doc__, quick=quick, repeats=repeats)
    command.add_variants(parser, DEFAULT_VARIANTS)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure (both)")
    options = parser.parse_args(arguments)
    names = command.chosen(options, DEFAULT_VARIANTS, QUICK_VARIANTS)
    notes = command.notes("keras_models", arguments, PACKAGES) | {"weights": WEIGHTS}
    turns = (
        f"{THREADS} threads, medians; one process per contender, taking turns; oneDNN on in TensorFlow, as it is by "
        "itself on CPUs with AVX-512 VNNI or newer; Keras compiles by itself on JAX, and not on PyTorch"
    )
    if "latency" in options.parts:
        notes["method"] = f"one inference, of Keras by `predict_on_batch`; {turns}; logits compared before"
        rounds = options.repeats or (3 if options.quick else 7)
        samples = command.shown(latency.samples(names, rounds, RUNS, saved))
        command.leave(options, "keras_latency", "Latency of Keras models", notes, latency_table, samples)
    if "training" in options.parts:
        notes["method"] = (
            f"forward, loss, gradients and SGD with momentum on {training.BATCH} images, everything trained, of Keras "
            f"by `train_on_batch`; {turns}; losses compared after a step. The first step includes tracing and "
            "compilation. Peak memory is above what the imports take, from the first step on"
        )
        rounds = options.repeats or (3 if options.quick else 5)
        samples = command.shown(training.samples(names, ["all"], rounds, training.BATCH, RUNS, saved))
        command.leave(options, "keras_training", "A training step of Keras models", notes, training_table, samples)


if __name__ == "__main__":
    main()
