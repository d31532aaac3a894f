"""Both kinds of exported Mixer against `jax.jit` of the model they come from: `python -m benchmarks.mixer`.

Each contender is a process of its own, and they take turns as in `benchmarks.latency`. Leaves `mixer_latency` in
assets/tables, as .md (the table) and .json (all samples). A target that is missed is a "no" in the table.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import machine, tables
from benchmarks.contenders import THREADS, Bind, timed
from benchmarks.conversion import SEED, WEIGHTS
from benchmarks.latency import BATCHES, take_turns
from benchmarks.processes import Worker
from utils.checkpoints import loading
from utils.machine.cores import keep_to_cores
from utils.models.variants import VARIANTS, get_variant
from utils.parity.comparison import OUTPUT_TOLERANCE, Report, compare_arrays
from utils.tables import markdown

TABLES = Path(__file__).resolve().parent.parent / "assets" / "tables"
LATENCY_VARIANTS = ["mixer_b16_i1k", "mixer_l16_i1k"]
QUICK_VARIANTS = ["mixer_tiny"]
PACKAGES = ("jax", "jaxlib", "flax", "tensorflow", "numpy")

# (contender, what TF_ENABLE_ONEDNN_OPTS is): XLA does not use TensorFlow's oneDNN, so one setting stands for both
RUNS = (("jax", None), ("xla", None), ("plain", "1"), ("plain", "0"))
TARGETS = {"xla": tables.Target(1.05), "plain": tables.Target(1.15)}


def samples(variants: Sequence[str], rounds: int) -> Iterator[dict[str, Any]]:
    """Per variant, batch, contender and round: `seconds`, and `idle_cpu_seconds` since its last turn.

    Raises ParityError when a contender's logits are not JAX's: nothing is timed that computes another thing.
    """
    for variant in variants:
        with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
            workers = {}
            for contender, onednn in RUNS:
                environment = {} if onednn is None else {"TF_ENABLE_ONEDNN_OPTS": onednn}
                name, folder = f"{contender} on {variant}", Path(scratch, f"{contender}_{onednn}")
                worker = Worker(name, prepare, contender, variant, folder, environment=environment)
                # One after the other: each holds the weights several times while it exports them.
                workers[contender, onednn] = stack.enter_context(worker).ready()
            require_equal_logits(workers)
            for sample in take_turns(workers, rounds):
                yield {"variant": variant, **sample}


def prepare(contender: str, variant: str, folder: Path) -> Callable[[str, int], object]:
    """For a contender's process: the function `command("logits" or "time", batch)`, as in `benchmarks.contenders`."""
    bind = bind_jax(variant) if contender == "jax" else bind_saved_model(contender, variant, folder)
    return timed(bind, get_variant(variant).image_size, BATCHES)


def bind_jax(variant: str) -> Bind:
    """`jax.jit` of the source model, weights and images in JAX's own memory."""
    # JAX has no setting for its threads: it takes as many as there are processors to run on.
    keep_to_cores(THREADS)
    import jax

    predict, parameters = _source(variant)
    predict, parameters = jax.jit(predict), jax.device_put(parameters)

    def bind(images: np.ndarray) -> Callable[[], np.ndarray]:
        inputs = jax.device_put(images)
        return lambda: np.asarray(predict(parameters, inputs))

    return bind


def bind_saved_model(operations: str, variant: str, folder: Path) -> Bind:
    """The exported and reloaded SavedModel, through the signature that TensorFlow Serving would call."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(THREADS)
    from utils.export import saved_model

    loaded = saved_model.load_model(saved_model.save_model(_exported(operations, variant), folder))
    serve = loaded.signatures["serving_default"]

    def bind(images: np.ndarray) -> Callable[[], np.ndarray]:
        inputs = tf.constant(images)
        # `loaded` in the default argument: a signature alone does not keep its variables alive.
        return lambda _loaded=loaded: serve(inputs=inputs)["logits"].numpy()

    return bind


def _source(name: str) -> tuple[Callable, dict[str, np.ndarray]]:
    from utils.models import mlp_mixer

    variant = get_variant(name, "mixer")
    checkpoint = loading.resolve(variant, "synthetic", SEED, progress=False)
    model = mlp_mixer.build(variant.architecture)
    arrays = loading.read_mixer(checkpoint.path, variant)
    return mlp_mixer.predict_function(model), mlp_mixer.select_parameters(model, arrays)


def _exported(operations: str, name: str) -> Any:
    from utils.export import jax_to_tf, plain_mixer

    variant = get_variant(name, "mixer")
    predict, parameters = _source(name)
    if operations == "plain":
        return plain_mixer.export(variant.architecture, "classification", parameters)
    return jax_to_tf.export(predict, parameters, (variant.image_size, variant.image_size, 3), "logits")


def require_equal_logits(workers: Mapping[tuple[str, str | None], Worker]) -> None:
    """Raises ParityError when a contender's logits differ from JAX's by more than rounding, at any batch."""
    rows = []
    for batch in BATCHES:
        logits = {key: worker("logits", batch) for key, worker in workers.items()}
        for key, found in logits.items():
            name = f"{key[0]}, oneDNN {key[1]}"
            pair = {name: logits["jax", None]}, {name: found}
            rows += compare_arrays(*pair, output="logits", tolerance=OUTPUT_TOLERANCE, input_name="noise", batch=batch)
    Report(rows).require()


def table(samples: Sequence[Mapping[str, Any]]) -> str:
    """Median milliseconds of one inference, a row for each variant, batch, kind of operations and oneDNN."""
    headings = ["variant", "batch", "operations", "oneDNN", "ms", "`jax.jit`, ms", "ratio", "target", "met"]
    rows = []
    times: dict[tuple, list[float]] = {}
    for s in samples:
        times.setdefault((s["variant"], s["batch"], s["contender"], s["onednn"]), []).append(s["seconds"])
    for (variant, batch, contender, onednn), seconds in times.items():
        if contender == "jax":
            continue
        ours, theirs = median(seconds), median(times[variant, batch, "jax", None])
        target = TARGETS[contender]
        milliseconds = [f"{1000 * x:.1f}" for x in (ours, theirs)]
        verdict = [str(target), "yes" if target.met(ours / theirs) else "no"]
        switch = {"1": "on", "0": "off", None: "n/a"}[onednn]
        rows.append([variant, str(batch), contender, switch, *milliseconds, f"{ours / theirs:.2f}", *verdict])
    return markdown(headings, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the table, print it."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(arguments)
    variants = options.variants or (QUICK_VARIANTS if options.quick else LATENCY_VARIANTS)
    notes = machine.description("mixer", arguments, PACKAGES) | {
        "weights": WEIGHTS,
        "method": (
            f"one inference, {THREADS} threads, medians; one process per contender, taking turns; logits "
            "compared before; oneDNN is TF_ENABLE_ONEDNN_OPTS, which TensorFlow sets by itself on CPUs with AVX-512 "
            "VNNI or newer"
        ),
    }
    collected = []
    for sample in samples(variants, options.repeats or (3 if options.quick else 15)):
        collected.append(sample)
        labels = " ".join(str(sample[key]) for key in ("variant", "batch", "contender", "onednn", "round"))
        print(f"{labels}: {sample['seconds']:.4f} s", flush=True)
    folder = options.output_dir or (Path("exports", "tables") if options.quick else TABLES)
    path = tables.write(folder, "mixer_latency", "Latency of MLP-Mixer", notes, table(collected), collected)
    print(f"\n{table(collected)}\n\n{path}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mixer", description=__doc__.splitlines()[0])
    known = sorted(name for name, variant in VARIANTS.items() if variant.family == "mixer")
    parser.add_argument("--variants", nargs="+", choices=known, help=f"else {', '.join(LATENCY_VARIANTS)}")
    parser.add_argument("--repeats", type=int, help="rounds of inferences (15)")
    parser.add_argument("--quick", action="store_true", help="mixer_tiny, 3 rounds, into exports/tables")
    parser.add_argument("--output-dir", type=Path, help="where the table goes (assets/tables)")
    return parser


if __name__ == "__main__":
    main()
