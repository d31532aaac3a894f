"""Latency of each artefact of a folder beside its source: `python -m benchmarks.release_latency FOLDER`.

A FOLDER holds unpacked artefacts, as `make release` leaves them; smaller and other files are not timed. One image of
the artefact's own size goes through its signature `serving_default`, with oneDNN, and through the source model of the
same head in its own framework. They take turns, round by round, each time in a process of their own. What counts is
either's fastest call, which for graphs that are alike differs less than their medians do.

Leaves `release_latency` in assets/tables, as .md and .json; the table in docs/releases.md takes its column from there.
And `batch/latency.json` in FOLDER, of which `python -m utils.release FOLDER` tells in the index:

    {"<SHA-256 of the tarball>": {"milliseconds": 115.2, "source_milliseconds": 109.7, "times": 1.05,
      "framework": "PyTorch", "machine": "<processor, cores, system>", "threads": 2}}

`times` is the artefact's time divided by its source's, which other machines can be compared by.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from gate.exports import noise

from benchmarks import command
from benchmarks.contenders import ONEDNN, THREADS, import_framework, jax_jit, keep_to_cores, pytorch, saved_model, turns
from benchmarks.processes import Worker
from utils.artefact.contents import preprocessing_of, read_manifest
from utils.errors import PackagingError
from utils.families.variants import get_variant
from utils.files import write_text
from utils.release.index import LATENCY
from utils.tables import markdown

WARM_UP, REPEATS, ROUNDS = 3, 5, 3
PACKAGES = ("torch", "jax", "jaxlib", "flax", "tensorflow", "numpy")
SOURCES = {"convmixer": ("PyTorch", pytorch), "mixer": ("JAX", jax_jit)}  # by family

Source = tuple[str, str, int]  # variant, head, pixels of the image


def prepare(source: Source, folder: Path | None = None) -> Callable[[], list[float]]:
    """For a `Worker`: gives the seconds of each timed call with one image of noise.

    What is called is the SavedModel in `folder`, or else the source model. The weights of that are synthetic: their
    values make it neither faster nor slower.
    """
    keep_to_cores()  # as JAX is, which has no setting for its threads: two threads may be faster on more cores
    name, head, image_size = source
    variant = get_variant(name)
    framework, source_model = SOURCES[variant.family]
    import_framework("SavedModel" if folder else framework)
    bind = saved_model(folder) if folder else source_model(variant, head)
    run = bind(noise(1, image_size))

    def measure() -> list[float]:
        seconds = []
        for _ in range(WARM_UP + REPEATS):
            started = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - started)
        return seconds[WARM_UP:]

    return measure


def samples(folder: Path) -> list[dict[str, Any]]:
    """One for each artefact in `folder`: the fastest and all calls' seconds, its source's, and their ratio.

    Where a process fails or is killed, stderr says so, and its source and all that is timed beside it are left out.
    PackagingError for a manifest that is not under its artefact's name, or is none.
    """
    sources: dict[Source, dict[str, str]] = defaultdict(dict)  # artefacts of each: a Mixer's twins share one
    for path in sorted(folder.glob("*.json")):
        if not (folder / path.stem / "saved_model.pb").is_file():
            continue
        manifest = read_manifest(path)
        if manifest["name"] != path.stem:
            raise PackagingError(f"{path} is of {manifest['name']!r}. Give it that name, or remove it.")
        source = manifest["variant"], manifest["head"], preprocessing_of(manifest).crop
        sources[source][path.stem] = manifest["tarball"]["sha256"]
    found = []
    for source, artefacts in sources.items():
        try:
            found += _beside_source(folder, source, artefacts)
        except RuntimeError as error:  # a conversion of hours need not be lost for a figure
            print(f"not timed: {', '.join(artefacts)}: {error}", file=sys.stderr, flush=True)
    return found


def _beside_source(folder: Path, source: Source, artefacts: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    framework, _ = SOURCES[get_variant(source[0]).family]
    own = f"{source[0]} in {framework}"
    folders = {own: None} | {name: folder / name for name in artefacts}
    calls: dict[str, list[float]] = {name: [] for name in folders}
    for _, name in turns([*folders], range(ROUNDS)):
        with Worker(name, prepare, source, folders[name], environment=ONEDNN) as worker:
            calls[name] += worker()
        print(f"{name}: {1000 * min(calls[name]):.0f} ms", file=sys.stderr, flush=True)
    fastest = {name: 1000 * min(seconds) for name, seconds in calls.items()}
    for name, sha256 in artefacts.items():
        yield {
            "name": name,
            "sha256": sha256,
            "milliseconds": round(fastest[name], 2),
            "source_milliseconds": round(fastest[own], 2),
            "times": round(fastest[name] / fastest[own], 4),
            "framework": framework,
            "calls": calls[name],
            "source_calls": calls[own],
        }


def table(found: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row for each artefact."""
    headings = ["artefact", "fastest, ms", "median, ms", "slowest, ms", "source", "its fastest, ms", "times the source"]
    rows = []
    for sample in found:
        figures = (sample["milliseconds"], 1000 * median(sample["calls"]), 1000 * max(sample["calls"]))
        source = [sample["framework"], f"{sample['source_milliseconds']:.0f}", f"{sample['times']:.2f}"]
        rows.append([f"`{sample['name']}`", *(f"{figure:.0f}" for figure in figures), *source])
    return markdown(headings, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write table and `latency.json`, print the table."""
    parser = command.parser("release_latency", __doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="with artefacts, unpacked")
    options = parser.parse_args(arguments)
    notes = command.notes("release_latency", ["FOLDER"], PACKAGES) | {
        "weights": f"{command.SYNTHETIC}; of the sources, always",
        "method": f"one image, {THREADS} threads, oneDNN on, the fastest of {ROUNDS} rounds of {REPEATS} calls after "
        f"{WARM_UP}; artefacts by serving_default, their source in PyTorch or by jax.jit, taking turns, each time in a "
        "process of their own",
    }
    found = samples(options.folder)
    if not found:
        expected = "expected <name>.json and the SavedModel <name>/"
        parser.error(f"{options.folder} has no unpacked artefact that could be timed: {expected}.")
    path = options.folder / LATENCY
    path.parent.mkdir(exist_ok=True)
    figures = ("milliseconds", "source_milliseconds", "times", "framework")
    where = {"machine": notes["machine"], "threads": THREADS}
    latencies = {sample["sha256"]: {key: sample[key] for key in figures} | where for sample in found}
    write_text(path, json.dumps(latencies, indent=1) + "\n")
    command.leave(options, "release_latency", "Latency of each artefact", notes, table, found)


if __name__ == "__main__":
    main()
