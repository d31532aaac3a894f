"""Speed and memory of a training step, export against source: `python -m benchmarks.training`.

A step is what fine-tuning does: forward, loss, gradients, SGD with momentum; of a new head alone, or of everything.
Every contender is a process of its own; those of one variant and part are alive together and take turns. Leaves
`training_convmixer` and `training_mixer` in assets/tables, as .md and .json. A target that is missed is a "no" there.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import command, latency, tables
from benchmarks.contenders import THREADS, import_tensorflow
from benchmarks.conversion import count_peak_memory, memory_mb
from benchmarks.exports import SEED, WEIGHTS, flax_model, noise, torch_model
from benchmarks.steps import JaxStep, Step, tensorflow_step, torch_step
from benchmarks.training_parity import MOMENTUM, PACKAGES, learning_rate
from utils.machine.cores import keep_to_cores
from utils.machine.measure import Stages
from utils.models.variants import VARIANTS, Variant, get_variant
from utils.tables import markdown

DEFAULT_VARIANTS = ["convmixer_1024_20", "mixer_b16_i1k"]
QUICK_VARIANTS = ["convmixer_tiny", "mixer_tiny"]
PARTS = ("head", "all")
CLASSES, BATCH = 10, 8
TITLES = {"convmixer": "ConvMixer", "mixer": "MLP-Mixer"}

# (contender, what TF_ENABLE_ONEDNN_OPTS is); the source comes first. XLA does not use TensorFlow's oneDNN.
# "xla compiled" is the same SavedModel with `jit_compile=True` around the whole step: a compiler that sees both passes
# at once, as JAX's does, may choose better than the export did what to keep of the forward one.
RUNS = {
    "convmixer": (("pytorch", None), ("onnx-tf", "1"), ("onnx-tf", "0")),
    "mixer": (("jax", None), ("xla", None), ("xla compiled", None), ("plain", "1"), ("plain", "0")),
}
TARGETS = {"convmixer": tables.Target(1.3), "mixer": tables.Target(1.1)}
LOSS_TOLERANCE = 1e-4  # of the second loss, which depends on the first step


def samples(names: Sequence[str], parts: Sequence[str], rounds: int, batch: int) -> Iterator[dict[str, Any]]:
    """Per variant, part and contender: a sample per round with `seconds`; the first has `first_seconds` and memory.

    Raises RuntimeError when a contender's loss after a step is not the source's: what is timed must be the same step.
    """
    for name in names:
        variant = get_variant(name)
        with tempfile.TemporaryDirectory() as scratch:
            folders = latency.exports(name, Path(scratch), "fe")
            for part in parts:
                yield from _turns(variant, part, folders, rounds, batch)


def _turns(
    variant: Variant, part: str, folders: Mapping[str, Path], rounds: int, batch: int
) -> Iterator[dict[str, Any]]:
    runs = RUNS[variant.family]
    with ExitStack() as stack:
        work = {run: (prepare, run[0], variant.name, part, folders.get(run[0].split()[0]), batch) for run in runs}
        workers = latency.started(stack, f"{variant.name}, training {part}", work)
        starts = {run: worker("start") for run, worker in workers.items()}
        reference = starts[runs[0]]["loss"]
        for (contender, _), found in starts.items():
            if abs(found["loss"] - reference) > LOSS_TOLERANCE * abs(reference):
                raise RuntimeError(
                    f"{contender} on {variant.name}, {part}: the loss after a step is {found['loss']}, and the "
                    f"source's {reference}: not the same step, so not timed"
                )

        def sample(run: latency.Run, number: int, **figures: float) -> dict[str, Any]:
            facts = {"variant": variant.name, "part": part, "contender": run[0], "onednn": run[1], "batch": batch}
            return facts | {"round": number} | figures

        for number, run in latency.turns(runs, range(rounds)):
            seconds = workers[run]("time")
            first = {"first_seconds": starts[run]["first_seconds"]} if number == 0 else {}
            yield sample(run, number, seconds=seconds, **first)
        for run, worker in workers.items():
            yield sample(run, -1, peak_mb=worker("memory"))


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

    import utils.models.mlp_mixer  # noqa: F401

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


BUILDERS: dict[str, tuple[Callable[[], None], Callable[..., Step]]] = {
    "pytorch": (_begin_torch, build_torch),
    "jax": (_begin_jax, build_jax),
    **dict.fromkeys(("onnx-tf", "xla", "plain"), (_begin_tensorflow, build_tensorflow)),
}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Medians: a row for each variant, part, contender and setting of oneDNN, with the ratio to the source."""
    headings = ["variant", "trained", "by", "oneDNN", "ms a step", "images / s", "first step, s", "peak memory, MB"]
    headings += ["step / source's", "target", "met"]
    lines = []
    groups = tables.grouped(rows, "variant", "part", "contender", "onednn")
    for (name, part, *run), group in groups.items():
        family = get_variant(name).family
        source = groups[name, part, *RUNS[family][0]]
        seconds, theirs = (tables.median_of(g, "seconds") for g in (group, source))
        first, peak = (tables.median_of(group, key) for key in ("first_seconds", "peak_mb"))
        verdict = ["", "", ""] if group is source else tables.verdict(seconds / theirs, TARGETS[family])
        figures = [f"{1000 * seconds:.1f}", f"{group[0]['batch'] / seconds:.1f}", f"{first:.1f}", f"{peak:.0f}"]
        what = {"head": "head only", "all": "everything"}[part]
        lines.append([name, what, run[0], tables.SWITCH[run[1]], *figures, *verdict])
    return markdown(headings, lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the table, print it."""
    quick, repeats = "the tiny variants, 3 steps", "timed steps of each (11)"
    parser = command.parser("training", __doc__, quick=quick, repeats=repeats)
    parser.add_argument("--variants", nargs="+", choices=sorted(VARIANTS), help=f"else {', '.join(DEFAULT_VARIANTS)}")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what is trained (both)")
    parser.add_argument("--batch", type=int, default=BATCH, help=f"images in a step ({BATCH})")
    options = parser.parse_args(arguments)
    names = options.variants or (QUICK_VARIANTS if options.quick else DEFAULT_VARIANTS)
    notes = command.notes("training", arguments, PACKAGES) | {
        "weights": WEIGHTS,
        "method": (
            f"forward, loss, gradients and SGD with momentum on {options.batch} images, {THREADS} threads, float32; "
            "one process per contender, taking turns; medians; losses compared after a step. The first step includes "
            "tracing and compilation. Peak memory is above what the imports take, from the first step on"
        ),
    }
    rounds = options.repeats or (3 if options.quick else 11)
    collected = command.shown(samples(names, options.parts, rounds, options.batch))
    for family, title in TITLES.items():
        if rows := [sample for sample in collected if get_variant(sample["variant"]).family == family]:
            command.leave(options, f"training_{family}", f"A training step of {title}", notes, table, rows)


if __name__ == "__main__":
    main()
