"""Answers for photographs as a table: `python -m utils.predict MODEL IMAGES ... --output answers.parquet`.

MODEL is a SavedModel's folder, its tarball or address, a .keras, .onnx or .tflite file of this project. A stopped run
leaves its parts beside the output; the same command goes on from there.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.command import positive, run_command
from utils.errors import ParameterError
from utils.text import printed

if TYPE_CHECKING:
    from utils.families.variants import Preprocessing
    from utils.predict.answers import Answers, Row
    from utils.predict.model import Model
    from utils.predict.photographs import Photograph, Photographs


def predict(
    model: str,
    images: Sequence[str],
    output: str,
    *,
    top_k: int = 5,
    batch_size: int = 32,
    split: str | None = None,
    data_dir: str | None = None,
    overwrite: bool = False,
) -> str:
    """Writes a row for each photograph; returns a line for people.

    Args:
        model: as of `load_model`.
        images: as of `open_photographs`, as `split` and `data_dir`.
        output: the file, whose ending says its format.
        top_k: how many classes a row has.
        batch_size: photographs at once.
        split: of a data set.
        data_dir: of a data set.
        overwrite: replace `output`.

    Raises:
        ConversionError: ParameterError for whatever the arguments name, PackagingError for a model or parts that are
            damaged, and where nothing can be written.
    """
    from utils.predict.answers import PART, Answers, schema_of
    from utils.predict.model import load_model
    from utils.predict.photographs import open_photographs

    photographs = open_photographs(images, split, data_dir)
    loaded = load_model(model)
    opened = loaded.opened
    binding = {
        "model": loaded.sha256,
        "list of photographs": photographs.sha256,
        "top_k": top_k,
        "batch_size": batch_size,
    }
    answers = Answers(output, schema_of(opened.output, opened.units), binding, overwrite)
    parts = -(-photographs.count // PART)
    _run(loaded, photographs, answers, range(parts), top_k, batch_size)
    errors = answers.finish(parts)
    synthetic = "SYNTHETIC WEIGHTS: the answers mean nothing. " if opened.weights == "synthetic" else ""
    notice = f"\n{photographs.notice}" if photographs.notice else ""
    return f"{synthetic}{photographs.count:,} rows, {errors:,} of them with an error: {answers.output}{notice}"


def _run(
    model: Model, photographs: Photographs, answers: Answers, parts: Sequence[int], top_k: int, batch_size: int
) -> None:
    """Writes the parts that are not there yet."""
    from tqdm import tqdm

    from utils.predict.answers import PART

    with tqdm(total=photographs.count, unit="image", desc=model.opened.name) as bar:
        for part in parts:
            start, stop = part * PART, min((part + 1) * PART, photographs.count)
            if answers.is_done(part):
                bar.update(stop - start)
                bar.initial = bar.n  # of an earlier run: no part of this one's speed
                continue
            rows = []
            for batch in answered(model, photographs.since(start, stop), top_k, batch_size):
                rows += batch
                bar.update(len(batch))
            answers.write(part, rows)


def answered(model: Model, photographs: Iterator[Photograph], top_k: int, batch_size: int) -> Iterator[list[Row]]:
    """The rows of the photographs, a batch at a time.

    The model always gets whole batches, the last filled up with zeros: some runtimes compile for each number of images,
    and the last digits of an answer may depend on it.
    """
    from utils.machine.ahead import made_ahead

    preprocessing = model.opened.preprocessing
    prepare = partial(_prepared, preprocessing=preprocessing)
    shape = batch_size, preprocessing.crop, preprocessing.crop, preprocessing.channels
    with closing(made_ahead(photographs, prepare, batch_size)) as batches:
        for batch in batches:
            good = [made for _, made in batch if not isinstance(made, str)]
            inputs = np.zeros(shape, np.float32)
            inputs[: len(good)] = good or 0
            outputs = iter(np.asarray(model.run(inputs)) if good else ())
            yield [_row(model, photograph, made, outputs, top_k) for photograph, made in batch]


def _prepared(photograph: Photograph, preprocessing: Preprocessing) -> np.ndarray | str:
    """The model's input, float32 [crop, crop, C], or why there is none."""
    from utils.images.photographs import load_image, pillow_preprocess

    try:
        return pillow_preprocess(load_image(io.BytesIO(photograph.read()), photograph.path), preprocessing)
    except ParameterError as error:
        return str(error)
    except OSError as error:
        return f"image {printed(photograph.path)} cannot be read: {error.strerror}"


def _row(
    model: Model, photograph: Photograph, made: np.ndarray | str, outputs: Iterator[np.ndarray], top_k: int
) -> dict[str, Any]:
    path = photograph.path.encode(errors="backslashreplace").decode()  # a file's name need not be text
    row = {"path": path, "error": made if isinstance(made, str) else None}
    if isinstance(made, str):
        return row
    output = next(outputs)
    if not np.isfinite(output).all():
        return row | {"error": "the model gives NaN or infinity for it"}
    if model.opened.output == "features":
        return row | {"features": output.astype(np.float32)}
    probabilities = np.exp(output.astype(np.float64) - output.max())
    probabilities /= probabilities.sum()
    best = np.argsort(-output, kind="stable")[:top_k]
    labels, names = model.opened.labels, model.opened.names
    return row | {
        "classes": best,
        "ids": [labels[i].wordnet_id for i in best] if labels else None,
        "names": [names[i] for i in best],
        "probabilities": probabilities[best],
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m utils.predict", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("model", metavar="MODEL", help="a SavedModel's folder, tarball or address; a .keras, .onnx or .tflite file")
    add(
        "images",
        metavar="IMAGES",
        nargs="+",
        help="folders, files, zip files, .txt files with a path per line, or a data set of TensorFlow Datasets",
    )
    add("--output", required=True, help="the table: a name that ends in .parquet, .csv or .jsonl")
    add("--top-k", type=positive, default=5, help="classes in a row, of a classifier (default: 5)")
    add("--batch-size", type=positive, default=32, help="images at once (default: 32)")
    add("--split", help="of a TensorFlow data set (default: test, else validation, else train)")
    add("--data-dir", help="where TensorFlow Datasets keeps its files (default: ~/tensorflow_datasets)")
    add("--overwrite", action="store_true", help="replace an output that is there")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 the table is there, 1 an error whose message was printed, 130 interrupted."""
    options = vars(_parser().parse_args(arguments))
    model, images, output = (options.pop(name) for name in ("model", "images", "output"))
    return run_command(
        lambda: predict(model, images, output, **options),
        "Interrupted. The same command goes on where this one stopped.",
    )
