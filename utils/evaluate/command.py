"""Top-1 and top-5 of a model, and of its source framework on the same batches.

A stopped run leaves its answers beside the output; the same command goes on from there, to the same figures.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from utils.command import positive, run_command
from utils.errors import EvaluationError, PackagingError, ParameterError
from utils.files import user_path


def _evaluate(options: argparse.Namespace) -> str:
    """Evaluates, and writes the JSON file; returns what to print. Raises ConversionError for whatever is wrong."""
    # Not at the top: they load frameworks, and a mistake in the command should show at once.
    from utils.evaluate.answers import count_answers
    from utils.evaluate.data import open_data
    from utils.evaluate.results import result_of, table, write_json
    from utils.evaluate.run import count, open_run
    from utils.evaluate.source import find_checkpoint
    from utils.predict.model import load_model

    _check(options)
    model = load_model(options.model)
    opened = model.opened
    if opened.output != "logits":
        raise PackagingError(f"{opened.name} is a feature extractor: it gives no classes to evaluate.")
    if options.preprocessing == "graph" and model.run_image is None:
        raise ParameterError(
            f"--preprocessing graph: {options.model} has no signature serving_image. Use pillow, or convert again."
        )
    data = open_data(options.data, opened.labels, opened.units, options.limit, options.split, options.data_dir)
    path = _output(options.output, f"{opened.name}_on_{_short(options.data)}.json")
    source, run = None, None
    if options.answers is not None:
        tally, settings = count_answers(user_path(options.answers), model, data)
    else:
        source = find_checkpoint(opened, options.checkpoint) if options.checkpoint is not None else None
        run = open_run(model, source, data, path, options.batch_size, options.preprocessing)
        tally, settings = count(run), {key: run.parts.binding[key] for key in ("batch_size", "versions")}
    if tally.corrupt and not options.skip_corrupt:
        reasons = "\n".join(f"  {name}: {reason}" for name, reason in tally.corrupt.items())
        raise EvaluationError(
            f"{len(tally.corrupt):,} of {data.photographs.count:,} files cannot be evaluated:\n{reasons}\n"
            "Leave them out, counted: the same command with --skip-corrupt. Or get them again, and begin anew."
        )
    if not tally.images:
        raise EvaluationError(f"--data {options.data}: not one of {data.photographs.count} files can be decoded.")
    settings |= {"preprocessing": options.preprocessing, "limit": options.limit}
    write_json(path, result := result_of(model, source, data, tally, settings))
    if run:
        run.parts.remove()
    return f"{table(result)}\n\nResult  {path}"


def _check(options: argparse.Namespace) -> None:
    """ParameterError for what answers that are there already leave no choice of."""
    given = {"--checkpoint": options.checkpoint, "--limit": options.limit, "--preprocessing": options.preprocessing}
    idle = [name for name, value in given.items() if value not in (None, "pillow")]
    if options.answers is not None and idle:
        raise ParameterError(f"{idle[0]} needs a model that answers now. Leave it out, or --answers.")


def _output(output: str | None, name: str) -> Path:
    """Where the result goes; a file that is there already is replaced only if it is a result."""
    path = user_path(output or name).absolute()
    if path.exists():
        try:
            known = "evaluated" in json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError):
            known = False
        if not known:
            raise ParameterError(f"--output {path} is there, and no evaluation's result. Choose another file.")
    return path


def _short(data: str) -> str:
    """The data's name as part of a file name."""
    name = Path(data).resolve().name if Path(data).is_dir() else data
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m utils.evaluate",
        description=__doc__.splitlines()[0],
        epilog="Pillow and NumPy decode, resize, crop and normalise the images, as the source projects evaluated. "
        + " ".join(__doc__.split("\n\n")[1].split()),
    )
    add = parser.add_argument
    add(
        "--model",
        required=True,
        help="a classifier: SavedModel's folder, tarball or address for TF Hub; .keras, .onnx or .tflite file",
    )
    add(
        "--data",
        required=True,
        help="a folder with a sub-folder per class, all named by WordNet id, by class name or by index; "
        "or a name in TensorFlow Datasets, such as imagenet_v2 or imagenet2012",
    )
    add("--answers", metavar="FILE", help="count this model's answers in a .parquet file of utils.predict: run nothing")
    add("--checkpoint", help="evaluate the source framework too: a file, official (downloads it), or synthetic")
    add("--batch-size", type=positive, default=32, help="images at once (default: 32)")
    add("--limit", type=positive, help="images at most; of a folder, spread evenly over its classes")
    add("--output", help="JSON file of the result (default: <model>_on_<data>.json)")
    add("--skip-corrupt", action="store_true", help="leave out, and count, files that cannot be decoded")
    add(
        "--preprocessing",
        choices=("pillow", "graph"),
        default="pillow",
        help="who resizes and normalises: pillow (default), or graph, a SavedModel's signature serving_image, one "
        "image at a time; the source framework gets Pillow's in either case",
    )
    add("--split", help="of a TensorFlow data set, or a folder with train and val (default: validation, else test)")
    add("--data-dir", help="where TensorFlow Datasets keeps its files (default: ~/tensorflow_datasets)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 evaluated, 1 an error whose message was printed, 130 interrupted."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: _evaluate(options), "Interrupted. The same command goes on where this one stopped.")
