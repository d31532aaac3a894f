"""Which operations the time of a ConvMixer's inference goes into, with oneDNN: `python -m benchmarks.operations`.

TensorFlow itself times each operation that it executes, those among them that Grappler and oneDNN have made one of
several. The source beside it is timed whole: what the convolutions take alone, pointwise ones as products, tells how
much nearer to it less of the rest could come.
Leaves `operations` in assets/tables, as .md and .json.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import command, latency, tables
from benchmarks.contenders import BATCHES, THREADS, pytorch
from benchmarks.exports import WEIGHTS, noise
from benchmarks.processes import Worker
from utils.families.variants import get_variant
from utils.tables import markdown

DEFAULT_VARIANTS = ["convmixer_1024_20", "convmixer_768_32"]
QUICK_VARIANTS = ["convmixer_tiny"]
# Words in an operation's name -> what the table calls it. All convolutions but the depthwise ones are products.
KINDS = {"MatMul": "products", "Depthwise": "depthwise"}
OTHERS = "element by element"  # GELU, BatchNorm and residuals, where no operation of the above takes them in
COLUMNS = (*KINDS.values(), OTHERS)

Timed = Callable[[int], dict[str, Any]]


def kind(operation: str) -> str:
    """Of `COLUMNS`, the one for a TensorFlow operation."""
    return next((name for word, name in KINDS.items() if word in operation), OTHERS)


def prepare(folder: Path, image_size: int) -> Timed:
    """For a `Worker`: gives, of one inference of a batch, all `seconds`, and those `by_kind` of operation.

    In a session, since TensorFlow times operations for nothing newer.
    """
    import tensorflow as tf

    v1 = tf.compat.v1
    session = v1.Session(
        graph=tf.Graph(),
        config=v1.ConfigProto(intra_op_parallelism_threads=THREADS, inter_op_parallelism_threads=THREADS),
    )
    with session.graph.as_default():
        signature = v1.saved_model.load(session, ["serve"], str(folder)).signature_def["serving_default"]
    inputs, logits = signature.inputs["inputs"].name, signature.outputs["logits"].name

    def infer(batch: int) -> dict[str, Any]:
        timing, found = v1.RunOptions(trace_level=v1.RunOptions.SOFTWARE_TRACE), v1.RunMetadata()
        images = noise(batch, image_size)
        started = time.perf_counter()
        session.run(logits, {inputs: images}, timing, found)
        seconds, by_kind = time.perf_counter() - started, Counter(dict.fromkeys(COLUMNS, 0.0))
        for node in (node for device in found.step_stats.dev_stats for node in device.node_stats):
            # "name = operation(inputs)"
            operation = node.timeline_label.rpartition(" = ")[2].partition("(")[0]
            by_kind[kind(operation)] += 1e-6 * (node.op_end_rel_micros - node.op_start_rel_micros)
        return {"seconds": seconds, "by_kind": dict(by_kind)}

    return infer


def prepare_source(name: str) -> Timed:
    """For a `Worker`: the `seconds` of one inference of a batch in PyTorch."""
    variant = get_variant(name)
    bind = pytorch(variant)
    runs = {batch: bind(noise(batch, variant.image_size)) for batch in BATCHES}

    def infer(batch: int) -> dict[str, Any]:
        started = time.perf_counter()
        runs[batch]()
        return {"seconds": time.perf_counter() - started}

    return infer


def samples(variants: Sequence[str], rounds: int) -> Iterator[dict[str, Any]]:
    """Per variant, batch, framework and round: `seconds`, and TensorFlow's `by_kind`."""
    for name in variants:
        with tempfile.TemporaryDirectory() as scratch:
            (folder,) = latency.exports(name, Path(scratch)).values()
            ours = Worker(name, prepare, folder, get_variant(name).image_size, environment=latency.ONEDNN)
            with ours, Worker(f"{name} in PyTorch", prepare_source, name) as source:
                workers = {"tensorflow": ours.ready(), "pytorch": source.ready()}
                for batch in BATCHES:
                    for number, framework in latency.turns(list(workers), range(-latency.WARM_UPS, rounds)):
                        figures = workers[framework](batch)
                        if number >= 0:
                            yield {"variant": name, "batch": batch, "framework": framework, "round": number} | figures


def table(found: Sequence[dict[str, Any]]) -> str:
    """Markdown, medians: a row for each variant, batch and machine."""
    rows = []
    for (name, batch, run), group in tables.grouped(found, "variant", "batch", "run").items():
        sides = tables.grouped(group, "framework")
        whole, source = (1000 * tables.median_of(sides[key,], "seconds") for key in ("tensorflow", "pytorch"))
        parts = [sample["by_kind"] for sample in sides["tensorflow",]]
        cells = [1000 * tables.median_of(parts, column) for column in COLUMNS]
        shares = [f"{ms:.1f} ({100 * ms / sum(cells):.0f} %)" for ms in cells]
        rows.append([name, str(batch), f"{whole:.1f}", *shares, f"{source:.1f}", f"{sum(cells[:2]) / source:.2f}", run])
    headings = ["variant", "batch", "ours, ms", *(f"{column}, ms" for column in COLUMNS)]
    return markdown([*headings, "PyTorch, ms", "(products + depthwise) / PyTorch", "run"], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the table, print it."""
    parser = command.parser("operations", __doc__, quick="convmixer_tiny, few repeats", repeats="rounds (9)")
    command.add_variants(parser, DEFAULT_VARIANTS, "convmixer")
    options = parser.parse_args(arguments)
    variants = command.chosen(options, DEFAULT_VARIANTS, QUICK_VARIANTS)
    notes = command.notes("operations", arguments, ("torch", "tensorflow", "numpy")) | {
        "weights": WEIGHTS,
        "method": f"one inference, {THREADS} threads, oneDNN on, medians; each operation, with what is fused into it, "
        "as TensorFlow's own trace times it in a session, so that the whole is not to be compared with other tables; "
        "two processes, both alive and taking turns",
    }
    found = command.shown(samples(variants, options.repeats or (3 if options.quick else 9)))
    command.leave(
        options, "operations", "Operations of a ConvMixer's inference", notes, table, found, ("variant", "machine")
    )


if __name__ == "__main__":
    main()
