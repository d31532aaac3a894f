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

import numpy as np
from gate.exports import WEIGHTS

from benchmarks import command, contenders
from benchmarks.contenders import BATCHES, PLAIN, THREADS, Run, Table, turns
from benchmarks.processes import Worker
from utils.errors import ParityError
from utils.parity.judge import OUTPUT_TOLERANCE
from utils.tables import markdown

WARM_UPS = 2  # TensorFlow optimises the graph at the first call, PyTorch and ONNX Runtime allocate
PACKAGES = (*command.PACKAGES, "jax", "flax", "keras")
TABLES = {
    "convmixer_latency": Table(
        "Latency of ConvMixer",
        ("convmixer_1024_20", "convmixer_768_32"),
        {
            "convmixer": (
                *(("PyTorch", None), ("ONNX Runtime", None)),
                *((name, on) for on in ("1", "0") for name in ("SavedModel", "SavedModel, frozen", "plain onnx-tf")),
            )
        },
    ),
    "mixer_latency": Table(
        "Latency of MLP-Mixer",
        ("mixer_b16_i1k", "mixer_l16_i1k"),
        {"mixer": (("JAX", None), ("SavedModel", None), (PLAIN, "1"), (PLAIN, "0"))},
    ),
    "keras_latency": Table(
        "Latency of Keras models",
        ("convmixer_1024_20", "mixer_b16_i1k"),
        {
            "convmixer": (("PyTorch", None), ("SavedModel", "1"), *contenders.KERAS),
            "mixer": (("JAX", None), ("SavedModel", None), (PLAIN, "1"), *contenders.KERAS),
        },
    ),
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
    for batch in BATCHES:
        expected = workers[source]("logits", batch)
        for (contender, _), worker in workers.items():
            error = np.abs(worker("logits", batch) - expected).max() / np.abs(expected).max()
            if not error <= OUTPUT_TOLERANCE:
                raise ParityError(f"the logits of {contender} are {error:.1e} off their source's: not timed")


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
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES), help="which to write (all)")
    command.add_variants(parser, "each table's own")
    options = parser.parse_args(arguments)
    notes = command.notes("latency", arguments, PACKAGES) | {
        "weights": WEIGHTS,
        "method": f"one inference, {THREADS} threads, medians; SavedModels by serving_default, of a Mixer in XLA "
        "operations unless it says otherwise, Keras by predict_on_batch; one process per row, all alive at a time and "
        "taking turns; logits compared before; oneDNN is TF_ENABLE_ONEDNN_OPTS, which TensorFlow sets by itself on "
        "CPUs with AVX-512 VNNI or newer",
    }
    rounds = options.repeats or (3 if options.quick else 9)
    for kept in options.tables:
        runs = TABLES[kept].chosen(options)
        found = command.shown(each for name in runs for each in samples(name, runs[name], rounds))
        if found:
            command.leave(options, kept, TABLES[kept].title, notes, table, found, ("variant", "machine"))


if __name__ == "__main__":
    main()
