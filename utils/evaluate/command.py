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
from typing import TYPE_CHECKING, Any

from utils.command import run_command
from utils.errors import EvaluationError, ParameterError

if TYPE_CHECKING:
    from utils.checkpoints.loading import Checkpoint
    from utils.evaluate.data import Data
    from utils.evaluate.model import Classifier
    from utils.evaluate.progress import Progress


def evaluate(
    model: str,
    data: str,
    checkpoint: str | None = None,
    batch_size: int = 32,
    limit: int | None = None,
    output: str | None = None,
    skip_corrupt: bool = False,
    split: str | None = None,
    data_dir: str | None = None,
    preprocessing: str = "pillow",
) -> tuple[dict[str, Any], Path]:
    """Evaluates a SavedModel, whatever `open_model` opens; returns the result and the JSON file that holds it.

    data: a folder with a sub-folder per class, or a name in TensorFlow Datasets, with `split` and `data_dir` for that.
    checkpoint: the source model's file, or "official" or "synthetic", to run it on the same batches; None: do not.
    limit: images to use at most. output: by default `<model>_on_<data>.json` in the current folder. skip_corrupt:
    leave out, and count, files that cannot be decoded. preprocessing: "pillow", or "graph": the SavedModel prepares its
    images itself, one by one, by its signature serving_image. Raises ConversionError for whatever is wrong.
    """
    # Not at the top: they load frameworks, and a mistake in the command should show at once.
    from utils.evaluate.data import open_data
    from utils.evaluate.model import find_checkpoint, load_classifier, versions_of
    from utils.evaluate.progress import Progress, write_json
    from utils.evaluate.report import result_of

    for option, value in (("--batch-size", batch_size), ("--limit", limit)):
        if value is not None and value < 1:
            raise ParameterError(f"{option} is {value}; expected a whole number above 0")
    classifier = load_classifier(model)
    if preprocessing == "graph" and classifier.predict_image is None:
        raise ParameterError(
            f"--preprocessing graph: {model} has no signature serving_image. Use pillow, or convert again."
        )
    found = open_data(data, classifier.labels, classifier.classes, limit, split, data_dir)
    source = find_checkpoint(classifier, checkpoint) if checkpoint is not None else None
    path = _output(output, f"{classifier.manifest['name']}_on_{_short(data)}.json")
    binding = {
        "model": classifier.sha256,
        "checkpoint": source.sha256 if source else None,
        "data": found.sha256,
        "images": found.count,
        "batch_size": batch_size,
        "preprocessing": preprocessing,
        "versions": versions_of(classifier.variant),
    }
    progress = Progress.load(path.with_name(f"{path.name}.progress"), binding)
    if progress.corrupt and not skip_corrupt:
        raise EvaluationError(
            f"{progress.path} left out {len(progress.corrupt)} corrupt files so far: {', '.join(progress.corrupt)}. "
            f"Go on with --skip-corrupt; or get them again, and remove {progress.path.name}."
        )
    progress.save()  # where nothing can be written, say so now
    _run(classifier, source, found, progress, skip_corrupt)
    if not progress.tally.images:
        raise EvaluationError(f"--data {data}: not one of {found.count} files can be decoded.")
    result = result_of(classifier, source, found, progress, limit)
    write_json(path, result)
    progress.path.unlink(missing_ok=True)
    return result, path


def _run(classifier: Classifier, source: Checkpoint | None, data: Data, progress: Progress, skip_corrupt: bool) -> None:
    """Takes `progress` to the end of the data, saving it after every batch."""
    import numpy as np
    from tqdm import tqdm

    from utils.evaluate.batches import batches
    from utils.evaluate.model import load_source

    use_ema = classifier.manifest.get("settings", {}).get("use_ema", False)
    expected = load_source(classifier.variant, source, use_ema) if source and progress.done < data.count else None
    since = time.monotonic()
    graph = progress.binding["preprocessing"] == "graph"
    upcoming = batches(data, progress.done, progress.binding["batch_size"], classifier.preprocessing, skip_corrupt)
    bar = tqdm(total=data.count, initial=progress.done, unit="image", desc=classifier.manifest["name"])
    with bar, closing(upcoming):
        for batch in upcoming:
            if len(batch.labels):
                if graph:
                    logits = np.concatenate([classifier.predict_image(image[None]) for image in batch.images])
                else:
                    logits = classifier.predict(batch.inputs)
                progress.tally.add(batch.labels, logits, expected(batch.inputs) if expected else None)
            progress.done += batch.taken
            progress.corrupt |= batch.corrupt
            now = time.monotonic()
            progress.seconds, since = progress.seconds + now - since, now
            progress.save()
            bar.update(batch.taken)
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
    add("--batch-size", type=int, default=32, help="images at once (default: 32)")
    add("--limit", type=int, help="images at most; of a folder, spread evenly over its classes")
    add("--output", help="JSON file of the result (default: <model>_on_<data>.json)")
    add("--skip-corrupt", action="store_true", help="leave out, and count, files that cannot be decoded")
    add(
        "--preprocessing",
        choices=("pillow", "graph"),
        default="pillow",
        help="who resizes and normalises: pillow (default), or graph, the SavedModel's signature serving_image, one "
        "image at a time; the source framework gets Pillow's in either case",
    )
    add("--split", help="of a TensorFlow data set (default: validation, else test)")
    add("--data-dir", help="where TensorFlow Datasets keeps its files (default: ~/tensorflow_datasets)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 evaluated, 1 an error whose message was printed, 130 interrupted."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: _evaluated(options), "Interrupted. The same command goes on where this one stopped.")


def _evaluated(options: argparse.Namespace) -> str:
    result, path = evaluate(**vars(options))
    from utils.evaluate.report import table

    return f"{table(result)}\n\nResult  {path}"
