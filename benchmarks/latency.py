"""Latency of one inference, beside the source: `python -m benchmarks.latency`, or `make bench`.

SavedModels of both families, frozen ones, plain onnx-tf's, ONNX Runtime, and the `.keras` file on each backend. oneDNN
is chosen when TensorFlow is imported, so every contender is a process of its own, alive for the whole run. They compute
one batch each in turn, round by round, and the others sleep. Leaves the tables that are named in assets/tables, each as
.md and .json (all samples). `benchmarks.release_latency` times the artefacts of a folder.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from gate.exports import WEIGHTS

from benchmarks import command, contenders
from benchmarks.contenders import BATCHES, THREADS, Run, turns
from benchmarks.processes import Worker
from utils.families.variants import get_variant
from utils.parity.comparison import compare_arrays
from utils.parity.judge import OUTPUT_TOLERANCE
from utils.parity.report import Report
from utils.tables import markdown

WARM_UPS = 2  # TensorFlow optimises the graph at the first call, PyTorch and ONNX Runtime allocate
PACKAGES = (*command.PACKAGES, "jax", "flax", "keras")
TITLES = {
    "convmixer_latency": "Latency of ConvMixer",
    "mixer_latency": "Latency of MLP-Mixer",
    "keras_latency": "Latency of Keras models",
}
VARIANTS = {
    "convmixer_latency": ("convmixer_1024_20", "convmixer_768_32"),
    "mixer_latency": ("mixer_b16_i1k", "mixer_l16_i1k"),
    "keras_latency": ("convmixer_1024_20", "mixer_b16_i1k"),
}
QUICK = {
    "convmixer_latency": ("convmixer_tiny",),
    "mixer_latency": ("mixer_tiny",),
    "keras_latency": ("convmixer_tiny", "mixer_tiny"),
}
PLAIN = "SavedModel, plain operations"
# By table and family, the source first.
RUNS: dict[str, dict[str, tuple[Run, ...]]] = {
    "convmixer_latency": {
        "convmixer": (
            *(("PyTorch", None), ("ONNX Runtime", None)),
            *((name, on) for on in ("1", "0") for name in ("SavedModel", "SavedModel, frozen", "plain onnx-tf")),
        )
    },
    "mixer_latency": {"mixer": (("JAX", None), ("SavedModel", None), (PLAIN, "1"), (PLAIN, "0"))},
    "keras_latency": {
        "convmixer": (("PyTorch", None), ("SavedModel", "1"), *contenders.KERAS),
        "mixer": (("JAX", None), ("SavedModel", None), (PLAIN, "1"), *contenders.KERAS),
    },
}


def samples(name: str, runs: Sequence[Run], rounds: int) -> Iterator[dict[str, Any]]:
    """Per batch, contender and round: `seconds`. runs: the source first.

    Raises ParityError when a contender's logits are not the source's: nothing is timed that computes another thing.
    """
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        contenders.save(name, Path(scratch), runs)
        workers = contenders.started(stack, name, runs, contenders.prepare, name, Path(scratch))
        require_equal_logits(workers, runs[0])
        for batch in BATCHES:
            for number, (contender, onednn) in turns(runs, range(-WARM_UPS, rounds)):
                seconds = workers[contender, onednn]("time", batch)
                if number >= 0:
                    facts = {"variant": name, "batch": batch, "contender": contender, "onednn": onednn}
                    yield {**facts, "round": number, "seconds": seconds}


def require_equal_logits(workers: Mapping[Run, Worker], source: Run) -> None:
    """Raises ParityError when a contender's logits differ from the source's by more than rounding, at any batch."""
    rows = []
    for batch in BATCHES:
        logits = {f"{run[0]}, oneDNN {run[1]}": worker("logits", batch) for run, worker in workers.items()}
        expected = dict.fromkeys(logits, logits[f"{source[0]}, oneDNN {source[1]}"])
        rows += compare_arrays(
            expected, logits, output="logits", tolerance=OUTPUT_TOLERANCE, input_name="noise", batch=batch
        )
    Report(rows).require()


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: median milliseconds of one inference, and how many times the source's they are."""
    rows = []
    groups = command.grouped(found, "variant", "batch", "run", "contender", "onednn")
    for (variant, batch, run, contender, onednn), group in groups.items():
        source = next(group for key, group in groups.items() if key[:3] == (variant, batch, run))
        seconds, theirs = (command.median_of(each, "seconds") for each in (group, source))
        ratio = "" if group is source else f"{seconds / theirs:.2f}"
        rows.append([variant, str(batch), contender, command.SWITCH[onednn], f"{1000 * seconds:.1f}", ratio, run])
    return markdown(["variant", "batch", "by", "oneDNN", "ms", "/ source's", "run"], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the tables, print them."""
    parser = command.parser("latency", __doc__, quick="the tiny variants, 3 rounds", repeats="rounds of inferences (9)")
    parser.add_argument("--tables", nargs="+", choices=RUNS, default=list(RUNS), help="which to write (all)")
    command.add_variants(parser, "each table's own")
    options = parser.parse_args(arguments)
    notes = command.notes("latency", arguments, PACKAGES) | {
        "weights": WEIGHTS,
        "method": f"one inference, {THREADS} threads, medians; SavedModels by serving_default, of a Mixer in XLA "
        "operations unless it says otherwise, Keras by predict_on_batch; one process per row, all alive at a time and "
        "taking turns; logits compared before; oneDNN is TF_ENABLE_ONEDNN_OPTS, which TensorFlow sets by itself on "
        "CPUs with AVX-512 VNNI or newer",
    }
    for kept in options.tables:
        variants = options.variants or (QUICK if options.quick else VARIANTS)[kept]
        runs = {name: RUNS[kept].get(get_variant(name).family) for name in variants}
        rounds = options.repeats or (3 if options.quick else 9)
        found = command.shown(each for name in runs if runs[name] for each in samples(name, runs[name], rounds))
        if found:
            command.leave(options, kept, TITLES[kept], notes, table, found, ("variant", "machine"))


if __name__ == "__main__":
    main()
