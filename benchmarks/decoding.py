"""Which way from image bytes to a batch is fastest? `python -m benchmarks.decoding`, in one run, side by side.

Every contender prepares the same files, of different sizes, with the same decoder and resampling; their results are
compared before anything is timed. Leaves `decoding` in assets/tables.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import command, tables
from utils.families.variants import Preprocessing, get_variant
from utils.images.photographs import sample_files
from utils.machine.cores import usable_cores
from utils.tables import markdown

OURS = "in the SavedModel: `tf.map_fn`, 32 at a time"
FILES = 32
CAMERA = (4000, 3000)  # pixels: 12 megapixels, what a telephone takes
BATCHES = ("web", "camera")

Contender = Callable[[Sequence[bytes]], np.ndarray]


def files(batch: str) -> list[bytes]:
    """32 JPEG files: the shipped photographs in turn, as they are ("web"), or every fourth at 12 megapixels."""
    from PIL import Image

    found = list(sample_files().values())
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
    groups = tables.grouped(rows, "batch", "contender")
    for (batch, name), group in groups.items():
        seconds, cpu = (tables.median_of(group, key) for key in ("seconds", "cpu_seconds"))
        milliseconds = [f"{1000 * each / FILES:.1f}" for each in (seconds, cpu)]
        ours = tables.median_of(groups[batch, OURS], "seconds")
        lines.append([batch, name, *milliseconds, f"{ours / seconds:.2f}"])
    return markdown(headings, lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the table, print it."""
    parser = command.parser("decoding", __doc__, quick="one round", repeats="rounds (9)")
    options = parser.parse_args(arguments)
    notes = command.notes("decoding", arguments, ("tensorflow", "pillow", "numpy")) | {
        "method": (
            f"{FILES} JPEG files to float32 [{FILES}, 224, 224, 3] on {usable_cores()} cores, medians, "
            "taking turns, results compared before; web: the shipped photographs (0.2 megapixels); "
            "camera: every fourth of them at 12 megapixels"
        )
    }
    rows = samples(options.repeats or (1 if options.quick else 9), get_variant("mixer_b16_i1k").preprocessing)
    command.leave(options, "decoding", "From image bytes to a batch", notes, table, rows)


if __name__ == "__main__":
    main()
