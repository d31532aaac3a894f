"""Which way from image bytes to a batch is fastest? `python -m benchmarks.decoding`, in one run, side by side.

Every contender prepares the same files, of different sizes, with the same decoder and resampling; their results are
compared before anything is timed. Leaves `decoding` in assets/tables.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import machine, tables
from utils.machine.cores import usable_cores
from utils.models.variants import Preprocessing, get_variant
from utils.tables import markdown

ROOT = Path(__file__).resolve().parent.parent
TABLES = ROOT / "assets" / "tables"
OURS = "in the SavedModel: `tf.map_fn`, 32 at a time"
FILES = 32
CAMERA = (4000, 3000)  # pixels: 12 megapixels, what a telephone takes
BATCHES = ("web", "camera")

Contender = Callable[[Sequence[bytes]], np.ndarray]


def files(batch: str) -> list[bytes]:
    """32 JPEG files: the shipped photographs in turn, as they are ("web"), or every fourth at 12 megapixels."""
    from PIL import Image

    found = [path.read_bytes() for path in sorted((ROOT / "assets" / "images").glob("*.jpg"))]
    chosen = [found[number % len(found)] for number in range(FILES)]
    if batch == "camera":
        large = io.BytesIO()
        Image.open(io.BytesIO(found[0])).resize(CAMERA).save(large, "JPEG", quality=90)
        chosen[::4] = [large.getvalue()] * len(chosen[::4])
    return chosen


def contenders(settings: Preprocessing) -> Mapping[str, Contender]:
    """By name: what makes float32 [files, crop, crop, 3] of JPEG files."""
    import tensorflow as tf
    from PIL import Image

    from utils.images import photographs, preprocessing

    def one(encoded: tf.Tensor) -> tf.Tensor:
        return preprocessing.preprocess(preprocessing.decode(encoded)[tf.newaxis], settings)[0]

    def graph(function: Callable[[tf.Tensor], tf.Tensor]) -> Contender:
        compiled = tf.function(function, autograph=False, input_signature=[tf.TensorSpec([None], tf.string)])
        return lambda encoded: compiled(tf.constant(encoded)).numpy()

    def mapped(encoded: tf.Tensor, together: int) -> tf.Tensor:
        signature = tf.TensorSpec([settings.crop, settings.crop, 3], tf.float32)
        return tf.map_fn(one, encoded, fn_output_signature=signature, parallel_iterations=together)

    def dataset(encoded: tf.Tensor) -> tf.Tensor:
        prepared = tf.data.Dataset.from_tensor_slices(encoded).map(one, num_parallel_calls=tf.data.AUTOTUNE)
        return prepared.batch(tf.size(encoded, tf.int64)).get_single_element()

    def pillow(encoded: Sequence[bytes]) -> np.ndarray:
        return np.stack([photographs.pillow_preprocess(Image.open(io.BytesIO(file)), settings) for file in encoded])

    ours = graph(lambda encoded: preprocessing.preprocess_bytes(encoded, settings))
    return {
        OURS: ours,
        "`tf.map_fn`, 10 at a time (its default)": graph(lambda encoded: mapped(encoded, 10)),
        "`tf.map_fn`, one at a time": graph(lambda encoded: mapped(encoded, 1)),
        "`tf.data` inside the graph": graph(dataset),
        "a call for each file": lambda encoded: np.concatenate([ours([file]) for file in encoded]),
        "Pillow and NumPy": pillow,
    }


def samples(repeats: int, settings: Preprocessing, batches: Sequence[str] = BATCHES) -> list[dict[str, Any]]:
    """`seconds` and `cpu_seconds` by batch, contender and round; contenders take turns.

    Raises AssertionError when one of TensorFlow's differs from ours by more than rounding, or Pillow's by more than
    two levels.
    """
    rows = []
    for batch in batches:
        encoded, found = files(batch), contenders(settings)
        expected = found[OURS](encoded)
        for name, prepare in found.items():
            level = 2 / min(settings.std) if name.startswith("Pillow") else 0.0
            np.testing.assert_allclose(prepare(encoded), expected, rtol=0, atol=level + 1e-6, err_msg=name)
        for number in range(repeats):
            for name, prepare in found.items():
                started, cpu = time.perf_counter(), time.process_time()
                prepare(encoded)
                seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
                row = {"batch": batch, "contender": name, "round": number}
                rows.append({**row, "seconds": seconds, "cpu_seconds": cpu_seconds})
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: medians, a row for each batch and contender."""
    headings = ["batch", "way", "ms an image", "processor time, ms an image", "ours / this"]
    lines = []
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["batch"], row["contender"]), []).append(row)
    for (batch, name), group in groups.items():
        seconds, cpu = (median(row[key] for row in group) for key in ("seconds", "cpu_seconds"))
        ours = median(row["seconds"] for row in groups[batch, OURS])
        lines.append(
            [batch, name, f"{1000 * seconds / FILES:.1f}", f"{1000 * cpu / FILES:.1f}", f"{ours / seconds:.2f}"]
        )
    return markdown(headings, lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the table, print it."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decoding", description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, help="rounds (9)")
    parser.add_argument("--quick", action="store_true", help="one round, into exports/tables")
    parser.add_argument("--output-dir", type=Path, help="where the table goes (assets/tables)")
    options = parser.parse_args(arguments)
    notes = machine.description("decoding", arguments, ("tensorflow", "pillow", "numpy")) | {
        "method": (
            f"{FILES} JPEG files to float32 [{FILES}, 224, 224, 3] on {usable_cores()} cores, medians, "
            "taking turns, results compared before; web: the shipped photographs (0.2 megapixels); "
            "camera: every fourth of them at 12 megapixels"
        )
    }
    collected = samples(options.repeats or (1 if options.quick else 9), get_variant("mixer_b16_i1k").preprocessing)
    folder = options.output_dir or (Path("exports", "tables") if options.quick else TABLES)
    path = tables.write(folder, "decoding", "From image bytes to a batch", notes, table(collected), collected)
    print(f"{table(collected)}\n\n{path}")


if __name__ == "__main__":
    main()
