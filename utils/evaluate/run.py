"""A run of `predict` whose rows have the right class, and the source framework's answer, too; counted as it goes."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from utils.artefact.manifest import installed_versions
from utils.checkpoints.loading import Checkpoint
from utils.evaluate.data import Data, Example
from utils.evaluate.results import Tally, compared, schema
from utils.evaluate.source import Predict, load_source
from utils.families import FAMILIES
from utils.images.photographs import load_image
from utils.predict.answers import Parts, Row
from utils.predict.model import Model
from utils.predict.run import Run, binding_of

PART = 1000  # photographs whose answers are written at once: a minute's, on a laptop


def open_run(
    model: Model, source: Checkpoint | None, data: Data, output: Path, batch_size: int, preprocessing: str
) -> Run:
    """A run of `predict` over the data; the source model is loaded if anything is left to do.

    Args:
        model: What is evaluated.
        source: The checkpoint of the source model, which answers, too; or None.
        data: The photographs.
        output: The result's file, beside which the parts lie.
        batch_size: Photographs at once.
        preprocessing: "pillow", or "graph" for the model's own.

    Raises:
        ParameterError: The parts there are of another run.
        PackagingError: They are damaged, or nothing can be written.
    """
    binding = binding_of(model, data.photographs)
    binding |= {
        "versions": binding["versions"] | installed_versions(FAMILIES[model.opened.variant.family].packages),
        "checkpoint": source.sha256 if source else None,
        "number of images": data.photographs.count,
        "batch_size": batch_size,
        "preprocessing": preprocessing,
        "part": PART,
    }
    expected = functools.cache(lambda: load_source(model.opened, source)) if source else None

    def answer(examples: Sequence[Example], inputs: np.ndarray) -> Iterator[Row]:
        return _rows(model, expected and expected(), preprocessing == "graph", examples, inputs)

    parts = Parts(output, schema(), binding)
    return Run(data.photographs, model.opened, answer, parts, batch_size, PART)


def _rows(
    model: Model, expected: Predict | None, in_graph: bool, examples: Sequence[Example], inputs: np.ndarray
) -> Iterator[Row]:
    """Rows of `results.compared`. in_graph: the model prepares the photographs itself, one at a time."""
    if in_graph:
        images = (np.asarray(load_image(io.BytesIO(example.read()), example.path)) for example in examples)
        logits = np.concatenate([model.run_image(image[None]) for image in images])
    else:
        logits = np.asarray(model.run(inputs))[: len(examples)]
    source = expected(inputs)[: len(examples)] if expected else None
    return compared([example.label for example in examples], logits, source)


def count(run: Run) -> Tally:
    """The counts over all photographs: of parts that are done, and of those that are done now."""
    tally = Tally()
    with tqdm(total=run.photographs.count, unit="image", desc=run.opened.name) as bar:
        for part in range(run.count):
            done = run.parts.is_done(part)
            batches = [run.parts.read(part, run.rows_in(part)).to_pylist()] if done else run.work(part)
            for rows in batches:
                for row in rows:
                    tally.add(row)
                bar.update(len(rows))
                if tally.images:
                    bar.set_postfix({"top-1": f"{100 * tally.top1 / tally.images:.2f} %"})
    return tally
