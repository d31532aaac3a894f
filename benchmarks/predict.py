"""Is `predict` as fast as the model? `python -m benchmarks.predict`: photographs a second, beside prepared arrays.

For each model, size of the photographs and number of cores one process computes both in turns: the model on arrays that
are prepared already, and `predict` on the JPEG files that they were prepared from. Leaves `predict` in assets/tables.
"""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gate.exports import WEIGHTS
from PIL import Image

from benchmarks import command
from benchmarks.processes import Worker
from utils.conversion import convert
from utils.families.variants import get_variant
from utils.images.photographs import load_image, pillow_preprocess, sample_photographs
from utils.machine.cores import usable_cores
from utils.tables import markdown

MODELS = ("convmixer_768_32", "mixer_b16_i1k")
SIZES = {"0.2": (512, 384), "12": (4000, 3000)}  # megapixels -> width, height
BATCH = 8


def samples(names: Sequence[str], batches: int, rounds: int) -> Iterator[dict[str, Any]]:
    """Per model, size, number of cores and round: photographs a second of the `model` alone, and of `predict`."""
    with tempfile.TemporaryDirectory() as scratch:
        for megapixels, size in SIZES.items():
            photographs(Path(scratch, megapixels), size, batches * BATCH)
        for name in names:
            model = convert(name, checkpoint="synthetic", output_dir=scratch).folder
            for cores in sorted({1, usable_cores()}):
                with Worker(f"{name} on {cores} cores", prepare, str(model), cores) as work:
                    for megapixels in SIZES:
                        for number in range(rounds):
                            found = work(str(Path(scratch, megapixels)), get_variant(name).preprocessing)
                            facts = {"variant": name, "megapixels": megapixels, "cores": cores, "round": number}
                            yield facts | found


def photographs(folder: Path, size: tuple[int, int], count: int) -> None:
    """JPEG files of that size: the sample photographs, each shifted by another number of pixels."""
    folder.mkdir()
    sources = [picture.resize(size) for picture in sample_photographs().values()]
    for number in range(count):
        shifted = np.roll(np.asarray(sources[number % len(sources)]), 3 * number, axis=1)
        Image.fromarray(shifted).save(folder / f"{number:04}.jpg", quality=90)


def prepare(model: str, cores: int) -> Callable[..., dict[str, float]]:
    """In a process of its own: the function that times both ways."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])  # before TensorFlow counts them
    from utils.predict.run import Plan, open_run

    def timed(folder: str, preprocessing: Any) -> dict[str, float]:
        with tempfile.TemporaryDirectory() as output:
            plan = Plan(model=model, images=[folder], output=f"{output}/answers.parquet", batch_size=BATCH)
            run = open_run(plan)
            files = list(run.photographs.since(0, run.photographs.count))
            few = [
                pillow_preprocess(load_image(io.BytesIO(each.read()), each.path), preprocessing)
                for each in files[:BATCH]
            ]
            arrays, batches = np.stack(few), len(files) // BATCH
            answer = lambda: list(run.answer(files[:BATCH], arrays))  # noqa: E731
            answer()
            alone = _seconds(lambda: [answer() for _ in range(batches)])
            whole = _seconds(lambda: list(run.work(0)))
        return {"model": len(files) / alone, "predict": len(files) / whole}

    return timed


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: median photographs a second of both, and the share."""
    rows = []
    for (variant, megapixels, cores), group in command.grouped(found, "variant", "megapixels", "cores").items():
        model, predict = command.median_of(group, "model"), command.median_of(group, "predict")
        rows.append([variant, megapixels, str(cores), f"{model:.1f}", f"{predict:.1f}", f"{predict / model:.2f}"])
    headings = ["variant", "megapixels", "cores", "model alone, images a second", "predict", "share"]
    return markdown(headings, rows, right=(1, 2, 3, 4, 5))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the table, print it."""
    parser = command.parser("predict", __doc__, quick="a tiny model, 1 round", repeats="rounds (3)")
    command.add_variants(parser, ", ".join(MODELS))
    options = parser.parse_args(arguments)
    names = options.variants or (("convmixer_tiny",) if options.quick else MODELS)
    notes = command.notes("predict", arguments, ("tensorflow", "numpy", "pillow")) | {
        "weights": WEIGHTS,
        "method": f"batches of {BATCH}, Pillow's decoding and resizing on the same cores as the model, medians",
    }
    rounds = options.repeats or (1 if options.quick else 3)
    found = command.shown(samples(names, 4, rounds))
    command.leave(options, "predict", "Answers for a folder of photographs", notes, table, found)


if __name__ == "__main__":
    main()
