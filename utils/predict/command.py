"""Answers for photographs as a table: `python -m utils.predict MODEL IMAGES ... --output answers.parquet`.

MODEL is a SavedModel's folder, its tarball or address, a .keras, .onnx or .tflite file of this project. A stopped run
leaves its parts beside the output; the same command goes on from there.
"""

from __future__ import annotations

import argparse
from typing import Any

from utils.command import positive, run_command


def predict(model: str, images: list[str], output: str, ray: str = "", **options: Any) -> str:
    """Writes a row for each photograph; returns a line for people.

    Args:
        model: As of `load_model`.
        images: As of `open_photographs`.
        output: The file, whose ending says its format.
        ray: The address of a Ray cluster that does the work, or "local"; "" for this process.
        options: Other fields of `Plan`.

    Raises:
        ConversionError: ParameterError for what the arguments name, PackagingError for a model or parts that are
            damaged, and where nothing can be written.
    """
    from tqdm import tqdm

    from utils.predict.answers import check_output, put_together
    from utils.predict.cluster import on_cluster
    from utils.predict.run import Plan, open_run

    plan = Plan(model=model, images=tuple(images), output=output, **options)
    run = open_run(plan)
    if ray and run.left:
        counts = on_cluster(ray, plan, run)
    else:
        counts = (len(rows) for part in run.left for rows in run.work(part))
    with tqdm(total=run.photographs.count, initial=run.rows_done, unit="image", desc=run.opened.name) as bar:
        for count in counts:
            bar.update(count)
    path = check_output(output, overwrite=True)
    errors = put_together(run.parts, list(map(run.rows_in, range(run.count))), path)
    synthetic = "SYNTHETIC WEIGHTS: the answers mean nothing. " if run.opened.weights == "synthetic" else ""
    notice = f"\n{run.photographs.notice}" if run.photographs.notice else ""
    return f"{synthetic}{run.photographs.count:,} rows, {errors:,} of them with an error: {path}{notice}"


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
    add("--top-k", type=positive, help="classes in a row, of a classifier (default: 5)")
    add("--batch-size", type=positive, help="images at once (default: 32)")
    add("--part", type=positive, help="rows that are written at once (default: 10,000)")
    add("--split", help="of a TensorFlow data set (default: test, else validation, else train)")
    add("--data-dir", help="where TensorFlow Datasets keeps its files (default: ~/tensorflow_datasets)")
    add("--overwrite", action="store_true", help="replace an output that is there")
    add("--ray", nargs="?", const="local", default="", metavar="ADDRESS", help="on a Ray cluster; alone, on all cores")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 the table is there, 1 an error whose message was printed, 130 interrupted."""
    options = {name: value for name, value in vars(_parser().parse_args(arguments)).items() if value is not None}
    return run_command(lambda: predict(**options), "Interrupted. The same command goes on where this one stopped.")
