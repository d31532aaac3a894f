"""Top-1 and top-5 of a SavedModel, and of its source framework on the same batches.

A stopped run leaves its progress beside the output; the same command goes on from there, to the same figures.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from utils.command import positive, run_command
from utils.errors import EvaluationError, ParameterError
from utils.families import FAMILIES

if TYPE_CHECKING:
    from utils.checkpoints.loading import Checkpoint
    from utils.evaluate.data import Data
    from utils.evaluate.model import Classifier
    from utils.evaluate.results import Progress


def _evaluate(options: argparse.Namespace) -> str:
    """Evaluates, and writes the JSON file; returns what to print. Raises ConversionError for whatever is wrong."""
    # Not at the top: they load frameworks, and a mistake in the command should show at once.
    from utils.artefact.manifest import installed_versions
    from utils.evaluate.data import open_data
    from utils.evaluate.model import find_checkpoint, load_classifier
    from utils.evaluate.results import Progress, result_of, table, write_json

    classifier = load_classifier(options.model)
    opened = classifier.opened
    if options.preprocessing == "graph" and classifier.predict_image is None:
        raise ParameterError(
            f"--preprocessing graph: {options.model} has no signature serving_image. Use pillow, or convert again."
        )
    data = open_data(options.data, opened.labels, opened.units, options.limit, options.split, options.data_dir)
    source = find_checkpoint(opened, options.checkpoint) if options.checkpoint is not None else None
    path = _output(options.output, f"{opened.name}_on_{_short(options.data)}.json")
    binding = {
        "model": classifier.sha256,
        "checkpoint": source.sha256 if source else None,
        "data": data.sha256,
        "files": data.state,
        "images": data.count,
        "batch_size": options.batch_size,
        "preprocessing": options.preprocessing,
        "versions": installed_versions(("tensorflow", "pillow", "numpy", *FAMILIES[opened.variant.family].packages)),
    }
    progress = Progress.load(path.with_name(f"{path.name}.progress"), binding)
    if progress.corrupt and not options.skip_corrupt:
        raise EvaluationError(
            f"{progress.path} left out {len(progress.corrupt)} corrupt files so far: {', '.join(progress.corrupt)}. "
            f"Go on with --skip-corrupt; or get them again, and remove {progress.path.name}."
        )
    progress.save()  # where nothing can be written, say so now
    _run(classifier, source, data, progress, options.skip_corrupt)
    if not progress.tally.images:
        raise EvaluationError(f"--data {options.data}: not one of {data.count} files can be decoded.")
    result = result_of(classifier, source, data, progress, options.limit)
    write_json(path, result)
    progress.path.unlink(missing_ok=True)
    return f"{table(result)}\n\nResult  {path}"


def _run(classifier: Classifier, source: Checkpoint | None, data: Data, progress: Progress, skip_corrupt: bool) -> None:
    """Takes `progress` to the end of the data, saving it after every batch."""
    import numpy as np
    from tqdm import tqdm

    from utils.evaluate.data import batches
    from utils.evaluate.model import load_source

    opened, binding, expected = classifier.opened, progress.binding, None
    if source and progress.done < data.count:
        expected = load_source(opened, source)
    since = time.monotonic()
    upcoming = batches(data, progress.done, binding["batch_size"], opened.preprocessing, skip_corrupt)
    bar = tqdm(total=data.count, initial=progress.done, unit="image", desc=opened.name)
    with bar, closing(upcoming):
        for batch in upcoming:
            if batch.images:
                if binding["preprocessing"] == "graph":
                    logits = np.concatenate([classifier.predict_image(image[None]) for image in batch.images])
                else:
                    logits = classifier.predict(batch.inputs)
                progress.tally.add(batch.labels, logits, expected(batch.inputs) if expected else None)
            taken = len(batch.images) + len(batch.corrupt)
            progress.done += taken
            progress.corrupt |= batch.corrupt
            now = time.monotonic()
            progress.seconds, since = progress.seconds + now - since, now
            progress.save()
            bar.update(taken)
            if progress.tally.images:
                bar.set_postfix({"top-1": f"{100 * progress.tally.top1 / progress.tally.images:.2f} %"})


def _output(output: str | None, name: str) -> Path:
    """Where the result goes; a file that is there already is replaced only if it is a result."""
    path = Path(output or name).expanduser().absolute()
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
    add("--model", required=True, help="a classifier's SavedModel folder, its tarball, or an address for TF Hub")
    add(
        "--data",
        required=True,
        help="a folder with a sub-folder per class, all named by WordNet id, by class name or by index; "
        "or a name in TensorFlow Datasets, such as imagenet_v2 or imagenet2012",
    )
    add("--checkpoint", help="evaluate the source framework too: a file, official (downloads it), or synthetic")
    add("--batch-size", type=positive, default=32, help="images at once (default: 32)")
    add("--limit", type=positive, help="images at most; of a folder, spread evenly over its classes")
    add("--output", help="JSON file of the result (default: <model>_on_<data>.json)")
    add("--skip-corrupt", action="store_true", help="leave out, and count, files that cannot be decoded")
    add(
        "--preprocessing",
        choices=("pillow", "graph"),
        default="pillow",
        help="who resizes and normalises: pillow (default), or graph, the SavedModel's signature serving_image, one "
        "image at a time; the source framework gets Pillow's in either case",
    )
    add("--split", help="of a TensorFlow data set, or a folder with train and val (default: validation, else test)")
    add("--data-dir", help="where TensorFlow Datasets keeps its files (default: ~/tensorflow_datasets)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 evaluated, 1 an error whose message was printed, 130 interrupted."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: _evaluate(options), "Interrupted. The same command goes on where this one stopped.")
