"""Speed and memory of a training step, export against source: `python -m benchmarks.training`.

A step is what fine-tuning does: forward, loss, gradients, SGD with momentum; of a new head alone, or of everything.
Every contender is a process of its own; those of one variant and part are alive together and take turns. Leaves
`training_convmixer` and `training_mixer` in assets/tables, as .md and .json. A target that is missed is a "no" there.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import machine, tables
from benchmarks.contenders import THREADS
from benchmarks.conversion import SEED, WEIGHTS, memory_mb, noise
from benchmarks.latency import PAUSE_SECONDS
from benchmarks.processes import Worker
from benchmarks.training_parity import MOMENTUM, PACKAGES, learning_rate
from utils.checkpoints import loading
from utils.machine.cores import keep_to_cores
from utils.machine.measure import reset_peak_memory
from utils.models.variants import VARIANTS, Variant, get_variant
from utils.tables import markdown

TABLES = Path(__file__).resolve().parent.parent / "assets" / "tables"
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

# (images float32 [B, H, W, 3], labels int64 [B]) -> the loss before the step
Step = Callable[[np.ndarray, np.ndarray], float]


def samples(names: Sequence[str], parts: Sequence[str], rounds: int, batch: int) -> Iterator[dict[str, Any]]:
    """Per variant, part and contender: a sample per round with `seconds`; the first has `first_seconds` and memory.

    Raises RuntimeError when a contender's loss after a step is not the source's: what is timed must be the same step.
    """
    for name in names:
        variant = get_variant(name)
        runs = RUNS[variant.family]
        with tempfile.TemporaryDirectory() as scratch:
            folders = {kind: Path(scratch, kind) for kind in {contender.split()[0] for contender, _ in runs[1:]}}
            for kind, folder in folders.items():
                with Worker(f"{kind} export of {name}", prepare_export, kind, name) as worker:
                    worker(folder)
            for part in parts:
                yield from _turns(variant, part, folders, rounds, batch)


def _turns(
    variant: Variant, part: str, folders: Mapping[str, Path], rounds: int, batch: int
) -> Iterator[dict[str, Any]]:
    with ExitStack() as stack:
        workers = {}
        for contender, onednn in RUNS[variant.family]:
            environment = {} if onednn is None else {"TF_ENABLE_ONEDNN_OPTS": onednn}
            arguments = (contender, variant.name, part, folders.get(contender.split()[0]), batch)
            name = f"{contender} training {part} of {variant.name}"
            worker = Worker(name, prepare, *arguments, environment=environment)
            workers[contender, onednn] = stack.enter_context(worker).ready()
        starts = {key: worker("start") for key, worker in workers.items()}
        (_, reference), *others = starts.items()
        for (contender, _), found in others:
            if abs(found["loss"] - reference["loss"]) > LOSS_TOLERANCE * abs(reference["loss"]):
                raise RuntimeError(
                    f"{contender} on {variant.name}, {part}: the loss after a step is {found['loss']}, and the "
                    f"source's {reference['loss']}: not the same step, so not timed"
                )
        order = list(workers)
        for number in range(rounds):
            first = number % len(order)
            for contender, onednn in order[first:] + order[:first]:
                time.sleep(PAUSE_SECONDS)
                sample = {"variant": variant.name, "part": part, "contender": contender, "onednn": onednn}
                seconds = workers[contender, onednn]("time")
                facts = {k: v for k, v in starts[contender, onednn].items() if k != "loss"} if number == 0 else {}
                yield {**sample, "batch": batch, "round": number, "seconds": seconds, **facts}
        for (contender, onednn), worker in workers.items():
            sample = {"variant": variant.name, "part": part, "contender": contender, "onednn": onednn}
            yield {**sample, "batch": batch, "round": -1, "peak_mb": worker("memory")}


def prepare(contender: str, name: str, part: str, folder: Path | None, batch: int) -> Callable[[str], Any]:
    """For a contender's process: `command("start")` makes two steps, "time" one more, "memory" tells the peak.

    The peak is in MB above what is resident after the frameworks' imports, and counts from the first step on.
    """
    variant = get_variant(name)
    compiled = functools.partial(build_tensorflow, jit_compile=contender.endswith("compiled"))
    importer, builder = _BUILDERS.get(contender, (_import_tensorflow, compiled))
    importer()
    imports_mb = memory_mb("VmRSS")
    step = builder(variant, part, folder)
    images = noise(batch, variant.image_size)
    labels = np.random.default_rng(SEED).integers(0, CLASSES, batch)

    def command(what: str) -> Any:
        if what == "memory":
            return memory_mb("VmHWM") - imports_mb
        if what == "start" and not reset_peak_memory():
            raise RuntimeError("peak memory cannot be measured here: /proc/self/clear_refs, of Linux, is needed")
        started = time.perf_counter()
        step(images, labels)
        seconds = time.perf_counter() - started
        return seconds if what == "time" else {"first_seconds": seconds, "loss": step(images, labels)}

    return command


def _head(width: int) -> tuple[np.ndarray, np.ndarray]:
    """The same new head for all, not zero: then the backbone has gradients in the first step."""
    kernel = np.random.default_rng(SEED).standard_normal((width, CLASSES)).astype(np.float32) * width**-0.5
    return kernel, np.zeros(CLASSES, np.float32)


def _import_tensorflow() -> None:
    import tensorflow as tf
    import tf_keras  # noqa: F401

    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(THREADS)
    tf.constant(0.0)


def build_tensorflow(variant: Variant, part: str, folder: Path, jit_compile: bool = False) -> Step:
    """The reloaded SavedModel and a head, under tf_keras's SGD, in one `tf.function`."""
    import tensorflow as tf
    import tf_keras

    from utils.export.saved_model import load_model

    model = load_model(folder)
    width = model.signatures["serving_default"].structured_outputs["features"].shape[-1]
    kernel, bias = (tf.Variable(value) for value in _head(width))
    variables = [kernel, bias, *(model.trainable_variables if part == "all" else ())]
    optimizer = tf_keras.optimizers.SGD(learning_rate(variant), momentum=MOMENTUM)
    optimizer.build(variables)

    @tf.function(autograph=False, jit_compile=jit_compile)
    def step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            logits = tf.matmul(model(images, training=part == "all"), kernel) + bias
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    return lambda images, labels: float(step(tf.constant(images), tf.constant(labels)))


def _import_torch() -> None:
    import torch

    torch.set_num_threads(THREADS)


def build_torch(variant: Variant, part: str, _folder: Path | None) -> Step:
    """The source ConvMixer and a head under torch.optim.SGD; for the head alone, the backbone keeps no graph."""
    import torch

    from utils.models.convmixer import build_convmixer

    backbone = build_convmixer(variant.architecture, _weights(variant), "fe").train(part == "all")
    head = torch.nn.Linear(variant.architecture.dim, CLASSES)
    with torch.no_grad():
        kernel, bias = _head(variant.architecture.dim)
        head.weight.copy_(torch.from_numpy(kernel.T))
        head.bias.copy_(torch.from_numpy(bias))
    parameters = [*head.parameters(), *(backbone.parameters() if part == "all" else ())]
    optimizer = torch.optim.SGD(parameters, learning_rate(variant), momentum=MOMENTUM)

    def step(images: np.ndarray, labels: np.ndarray) -> float:
        inputs = torch.from_numpy(images).permute(0, 3, 1, 2)
        with torch.set_grad_enabled(part == "all"):
            features = backbone(inputs)
        loss = torch.nn.functional.cross_entropy(head(features), torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def _import_jax() -> None:
    # JAX has no setting for its threads: it takes as many as there are processors to run on.
    keep_to_cores(THREADS)
    import jax
    import optax  # noqa: F401

    import utils.models.mlp_mixer  # noqa: F401

    jax.numpy.zeros(1).block_until_ready()


def build_jax(variant: Variant, part: str, _folder: Path | None) -> Step:
    """The source Mixer and a head under optax.sgd, in one `jax.jit` that reuses the memory of what it replaces."""
    import jax
    import jax.numpy as jnp
    import optax

    from utils.models import mlp_mixer

    model = mlp_mixer.build(variant.architecture, "fe")
    predict = mlp_mixer.predict_function(model)
    fixed = {k: jnp.asarray(v) for k, v in mlp_mixer.select_parameters(model, _weights(variant)).items()}
    trained: dict[str, Any] = dict(
        zip(("kernel", "bias"), map(jnp.asarray, _head(variant.architecture.hidden_dim)), strict=True)
    )
    if part == "all":
        trained, fixed = trained | fixed, {}
    optimizer = optax.sgd(learning_rate(variant), momentum=MOMENTUM)
    state = optimizer.init(trained)

    def loss_of(trained: dict, fixed: dict, images: jax.Array, labels: jax.Array) -> jax.Array:
        weights = {k: v for k, v in (trained | fixed).items() if k not in ("kernel", "bias")}
        logits = predict(weights, images) @ trained["kernel"] + trained["bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def update(trained: dict, state: Any, fixed: dict, images: jax.Array, labels: jax.Array) -> tuple:
        loss, gradients = jax.value_and_grad(loss_of)(trained, fixed, images, labels)
        changes, state = optimizer.update(gradients, state)
        return optax.apply_updates(trained, changes), state, loss

    update = jax.jit(update, donate_argnums=(0, 1))

    def step(images: np.ndarray, labels: np.ndarray) -> float:
        nonlocal trained, state
        trained, state, loss = update(trained, state, fixed, images, labels)
        jax.block_until_ready(trained)
        return float(loss)

    return step


_BUILDERS = {"pytorch": (_import_torch, build_torch), "jax": (_import_jax, build_jax)}


def _weights(variant: Variant) -> dict[str, np.ndarray]:
    path = loading.resolve(variant, "synthetic", SEED, progress=False).path
    return (loading.read_convmixer if variant.family == "convmixer" else loading.read_mixer)(path, variant)


def prepare_export(kind: str, name: str) -> Callable[[Path], None]:
    """For the process that writes the feature extractor's SavedModel, whose memory is nobody's below."""
    from utils.export.saved_model import save_model

    variant = get_variant(name)

    def export(folder: Path) -> None:
        save_model(exported(variant, kind), folder)

    return export


def exported(variant: Variant, kind: str) -> Any:
    """The feature extractor as TensorFlow function: "onnx-tf" (ConvMixer), "xla" or "plain" (Mixer)."""
    weights = _weights(variant)
    if kind == "onnx-tf":
        from utils.export.onnx_to_tf import export_tensorflow
        from utils.export.torch_to_onnx import export_onnx
        from utils.models.convmixer import build_convmixer

        graph = export_onnx(build_convmixer(variant.architecture, weights, "fe"), "features")
        return export_tensorflow(graph, weights, variant.image_size, "features")
    from utils.export import jax_to_tf, plain_mixer
    from utils.models import mlp_mixer

    model = mlp_mixer.build(variant.architecture, "fe")
    parameters = mlp_mixer.select_parameters(model, weights)
    if kind == "plain":
        return plain_mixer.export(variant.architecture, "fe", parameters)
    shape = (variant.image_size, variant.image_size, 3)
    return jax_to_tf.export(mlp_mixer.predict_function(model), parameters, shape, "features")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Medians: a row for each variant, part, contender and setting of oneDNN, with the ratio to the source."""
    headings = ["variant", "trained", "by", "oneDNN", "ms a step", "images / s", "first step, s", "peak memory, MB"]
    headings += ["step / source's", "target", "met"]
    lines = []
    groups: dict[tuple, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["variant"], row["part"], row["contender"], row["onednn"]), []).append(row)
    for (name, part, contender, onednn), group in groups.items():
        family = get_variant(name).family
        seconds = median(row["seconds"] for row in group if "seconds" in row)
        source = median(r["seconds"] for r in groups[name, part, *RUNS[family][0]] if "seconds" in r)
        first = next(row["first_seconds"] for row in group if "first_seconds" in row)
        peak = next(row["peak_mb"] for row in group if "peak_mb" in row)
        verdict = ["", "", ""]
        if (contender, onednn) != RUNS[family][0]:
            target = TARGETS[family]
            verdict = [f"{seconds / source:.2f}", str(target), "yes" if target.met(seconds / source) else "no"]
        switch = {"1": "on", "0": "off", None: "n/a"}[onednn]
        figures = [f"{1000 * seconds:.1f}", f"{group[0]['batch'] / seconds:.1f}", f"{first:.1f}", f"{peak:.0f}"]
        lines.append([name, {"head": "head only", "all": "everything"}[part], contender, switch, *figures, *verdict])
    return markdown(headings, lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the table, print it."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__.splitlines()[0])
    parser.add_argument("--variants", nargs="+", choices=sorted(VARIANTS), help=f"else {', '.join(DEFAULT_VARIANTS)}")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what is trained (both)")
    parser.add_argument("--repeats", type=int, help="timed steps of each (11)")
    parser.add_argument("--batch", type=int, default=BATCH, help=f"images in a step ({BATCH})")
    parser.add_argument("--quick", action="store_true", help="the tiny variants, 3 steps, into exports/tables")
    parser.add_argument("--output-dir", type=Path, help="where the table goes (assets/tables)")
    options = parser.parse_args(arguments)
    names = options.variants or (QUICK_VARIANTS if options.quick else DEFAULT_VARIANTS)
    notes = machine.description("training", arguments, PACKAGES) | {
        "weights": WEIGHTS,
        "method": (
            f"forward, loss, gradients and SGD with momentum on {options.batch} images, {THREADS} threads, float32; "
            "one process per contender, taking turns; medians; losses compared after a step. The first step includes "
            "tracing and compilation. Peak memory is above what the imports take, from the first step on"
        ),
    }
    collected = []
    for sample in samples(names, options.parts, options.repeats or (3 if options.quick else 11), options.batch):
        collected.append(sample)
        if "seconds" in sample:
            labels = " ".join(str(sample[key]) for key in ("variant", "part", "contender", "onednn", "round"))
            print(f"{labels}: {sample['seconds']:.4f} s", flush=True)
    folder = options.output_dir or (Path("exports", "tables") if options.quick else TABLES)
    for family, title in TITLES.items():
        if rows := [sample for sample in collected if get_variant(sample["variant"]).family == family]:
            path = tables.write(folder, f"training_{family}", f"A training step of {title}", notes, table(rows), rows)
            print(f"\n{table(rows)}\n\n{path}")


if __name__ == "__main__":
    main()
