"""TensorFlow's two numbers of threads, for one caller and for several: `python -m benchmarks.threads`.

Inter-op threads run operations beside each other, intra-op threads share the work of one. Every setting is a process of
its own, since TensorFlow reads both once; they are alive together and take turns. Leaves `threads` in assets/tables,
as .md and .json.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import command, latency, tables
from benchmarks.contenders import BATCHES
from benchmarks.exports import WEIGHTS, noise
from benchmarks.processes import Worker
from utils.families.variants import get_variant
from utils.tables import markdown

DEFAULT_VARIANTS = ["convmixer_1024_20"]
QUICK_VARIANTS = ["convmixer_tiny"]
# (TF_NUM_INTEROP_THREADS, TF_NUM_INTRAOP_THREADS); the empty one is TensorFlow's default, as many as there are cores.
SETTINGS = (("", ""), ("1", ""), ("", "1"), ("1", "1"))
NAMES = ("TF_NUM_INTEROP_THREADS", "TF_NUM_INTRAOP_THREADS")
CLIENTS, CALLS = 2, 3  # callers at a time, and calls of each


def prepare(folder: Path, image_size: int) -> Callable[[str, int], float]:
    """For a `Worker`: `command("batch", size)` gives seconds of one call, "clients" images a second of so many."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder))
    serve = loaded.signatures["serving_default"]
    inputs = {batch: tf.constant(noise(batch, image_size)) for batch in BATCHES}

    def call(batch: int, _loaded: object = loaded) -> None:  # a signature alone does not keep its variables alive
        serve(inputs=inputs[batch])["logits"].numpy()

    def command(what: str, number: int) -> float:
        started = time.perf_counter()
        if what == "batch":
            call(number)
            return time.perf_counter() - started
        with ThreadPoolExecutor(number) as clients:
            list(clients.map(call, [1] * number * CALLS))
        return number * CALLS / (time.perf_counter() - started)

    return command


def samples(variants: Sequence[str], rounds: int) -> Iterator[dict[str, Any]]:
    """Per variant, setting and round: `seconds_1` and `seconds_8` of a call, `images_per_second` of two callers."""
    for name in variants:
        variant = get_variant(name, "convmixer")
        with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
            (folder,) = latency.exports(name, Path(scratch)).values()
            workers = {}
            for setting in SETTINGS:
                numbers = {key: value for key, value in zip(NAMES, setting, strict=True) if value}
                worker = Worker(
                    f"{name} with {numbers}", prepare, folder, variant.image_size, environment=latency.ONEDNN | numbers
                )
                workers[setting] = stack.enter_context(worker)
            for worker in workers.values():
                worker.ready()
            for number, setting in latency.turns(SETTINGS, range(-1, rounds)):  # the first warms up
                figures = {f"seconds_{batch}": workers[setting]("batch", batch) for batch in BATCHES}
                figures["images_per_second"] = workers[setting]("clients", CLIENTS)
                if number >= 0:
                    facts = {"variant": name, "inter": setting[0], "intra": setting[1], "round": number}
                    yield facts | figures


def table(found: Sequence[dict[str, Any]]) -> str:
    """Markdown, medians: a row for each variant, machine and setting."""
    rows = []
    for (name, run, *setting), group in tables.grouped(found, "variant", "run", "inter", "intra").items():
        one, eight = (f"{1000 * tables.median_of(group, f'seconds_{batch}'):.1f}" for batch in BATCHES)
        rate = f"{tables.median_of(group, 'images_per_second'):.1f}"
        rows.append([name, *(value or "default" for value in setting), one, eight, rate, run])
    headings = ["variant", "inter-op", "intra-op", "one image, ms", "eight images, ms"]
    return markdown([*headings, f"{CLIENTS} callers, images / s", "run"], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the table, print it."""
    parser = command.parser("threads", __doc__, quick="convmixer_tiny, few repeats", repeats="rounds (11)")
    command.add_variants(parser, DEFAULT_VARIANTS, "convmixer")
    options = parser.parse_args(arguments)
    variants = command.chosen(options, DEFAULT_VARIANTS, QUICK_VARIANTS)
    notes = command.notes("threads", arguments, ("tensorflow", "numpy")) | {
        "weights": WEIGHTS,
        "method": f"{' and '.join(NAMES)}, default: as many as cores; oneDNN on, serving_default, medians; one process "
        f"per setting, all alive at a time and taking turns; {CLIENTS} callers: threads that each send one image after "
        f"the other, {CALLS} each",
    }
    found = command.shown(samples(variants, options.repeats or (3 if options.quick else 11)))
    command.leave(options, "threads", "Threads", notes, table, found, ("variant", "machine"))


if __name__ == "__main__":
    main()
