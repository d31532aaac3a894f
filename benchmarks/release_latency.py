"""How long each artefact of a folder takes for one image: `python -m benchmarks.release_latency FOLDER`.

A FOLDER holds unpacked artefacts, as `make release` leaves them. Each is loaded and called in a process of its own, one
after the other, by its signature `serving_default`, with oneDNN; then all of them again, twice. What counts is the
fastest call: on a shared machine medians of identical graphs differed by 67 %, their fastest calls by 8 %.

Leaves `release_latency` in assets/tables, as .md and .json; the table in docs/releases.md takes its column from there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import command
from benchmarks.contenders import THREADS, import_tensorflow
from benchmarks.processes import Worker
from utils.artefact.contents import read_manifest
from utils.tables import markdown

WARM_UP, REPEATS, ROUNDS = 3, 5, 3


def prepare(folder: Path) -> Callable[[], list[float]]:
    """For a `Worker`: gives the seconds of each timed call of the SavedModel in `folder` with one image of noise."""
    tf = import_tensorflow()
    model = tf.saved_model.load(str(folder))
    serve = model.signatures["serving_default"]
    _, *shape = serve.structured_input_signature[1]["inputs"].shape
    size = [length or 224 for length in shape]  # a ConvMixer may take any
    image = tf.constant(np.random.default_rng(0).standard_normal((1, *size)), tf.float32)

    def measure(_loaded: object = model) -> list[float]:  # a signature alone does not keep its variables alive
        seconds = []
        for _ in range(WARM_UP + REPEATS):
            started = time.perf_counter()
            for output in serve(inputs=image).values():
                output.numpy()
            seconds.append(time.perf_counter() - started)
        return seconds[WARM_UP:]

    return measure


def samples(folder: Path) -> list[dict[str, Any]]:
    """One for each artefact in `folder`, by name: the fastest and all calls' seconds."""
    unpacked = [path for path in sorted(folder.glob("*.json")) if (folder / path.stem / "saved_model.pb").is_file()]
    calls: dict[str, list[float]] = {read_manifest(path)["name"]: [] for path in unpacked}
    for name in [*calls] * ROUNDS:
        with Worker(name, prepare, folder / name, environment={"TF_ENABLE_ONEDNN_OPTS": "1"}) as worker:
            calls[name] += worker()
        print(f"{name}: {1000 * min(calls[name]):.0f} ms", file=sys.stderr, flush=True)
    return [{"name": name, "seconds": min(seconds), "calls": seconds} for name, seconds in calls.items()]


def table(found: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row for each artefact."""
    rows = []
    for sample in found:
        figures = (sample["seconds"], median(sample["calls"]), max(sample["calls"]))
        rows.append([f"`{sample['name']}`", *(f"{1000 * value:.0f}" for value in figures)])
    return markdown(["artefact", "fastest, ms", "median, ms", "slowest, ms"], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the table, print it."""
    parser = command.parser("release_latency", __doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="with artefacts, unpacked")
    options = parser.parse_args(arguments)
    notes = command.notes("release_latency", ["FOLDER"], ("tensorflow", "numpy")) | {
        "weights": command.SYNTHETIC,
        "method": f"one image through serving_default, {THREADS} threads, oneDNN on, the fastest of {ROUNDS} rounds "
        f"of {REPEATS} calls after {WARM_UP}; a process for each artefact, one after the other",
    }
    found = samples(options.folder)
    command.leave(options, "release_latency", "Latency of each artefact", notes, table, found)


if __name__ == "__main__":
    main()
