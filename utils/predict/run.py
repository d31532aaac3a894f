"""One run: a model, photographs and a table, part by part. Another process that is given the same does the same."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from utils.errors import ParameterError
from utils.families.variants import Preprocessing
from utils.images.photographs import load_image, pillow_preprocess
from utils.machine.ahead import made_ahead
from utils.notebook.display import softmax
from utils.predict.answers import Answers, Row, schema_of
from utils.predict.model import Model, load_model
from utils.predict.photographs import Photograph, Photographs, open_photographs
from utils.text import printed


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run is asked to do.

    Attributes:
        model: As of `load_model`.
        images: As of `open_photographs`, as `split` and `data_dir`.
        output: The file, whose ending says its format.
        top_k: How many classes a row of a classifier has.
        batch_size: Photographs at once.
        part: Rows that are written at once.
        split: Of a data set.
        data_dir: Of a data set.
        overwrite: Replace `output`.
    """

    model: str
    images: Sequence[str]
    output: str
    top_k: int = 5
    batch_size: int = 32
    part: int = 10_000
    split: str | None = None
    data_dir: str | None = None
    overwrite: bool = False


class Run:
    """A plan with what it names opened; raises as `open_photographs`, `load_model` and `Answers`."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.photographs: Photographs = open_photographs(plan.images, plan.split, plan.data_dir)
        self.model: Model = load_model(plan.model)
        self.binding = {
            "model": self.model.sha256,
            "list of photographs": self.photographs.sha256,
            **{key: getattr(plan, key) for key in ("top_k", "batch_size", "part")},
        }
        opened = self.model.opened
        schema = schema_of(opened.output, opened.units)
        self.answers = Answers(plan.output, schema, self.binding, plan.overwrite)

    @property
    def parts(self) -> range:
        """All, by number."""
        return range(-(-self.photographs.count // self.plan.part))

    def rows_in(self, part: int) -> int:
        """How many photographs that part has."""
        return min(self.plan.part, self.photographs.count - part * self.plan.part)

    def work(self, part: int) -> Iterator[int]:
        """Answers a part and writes it; yields the number of rows that each batch adds."""
        start, rows = part * self.plan.part, []
        for batch in self._answered(self.photographs.since(start, start + self.rows_in(part))):
            rows += batch
            yield len(batch)
        self.answers.write(part, rows)

    def _answered(self, photographs: Iterator[Photograph]) -> Iterator[list[Row]]:
        """The rows of the photographs, a batch at a time.

        The model always gets whole batches, the last filled up with zeros: some runtimes compile for each number of
        images, and the last digits of an answer may depend on it.
        """
        preprocessing = self.model.opened.preprocessing
        prepare = partial(_prepared, preprocessing=preprocessing)
        shape = self.plan.batch_size, preprocessing.crop, preprocessing.crop, preprocessing.channels
        with closing(made_ahead(photographs, prepare, self.plan.batch_size)) as batches:
            for batch in batches:
                good = [made for _, made in batch if not isinstance(made, str)]
                inputs = np.zeros(shape, np.float32)
                inputs[: len(good)] = good or 0
                outputs = iter(np.asarray(self.model.run(inputs)) if good else ())
                yield [self._row(photograph, made, outputs) for photograph, made in batch]

    def _row(self, photograph: Photograph, made: np.ndarray | str, outputs: Iterator[np.ndarray]) -> dict[str, Any]:
        path = photograph.path.encode(errors="backslashreplace").decode()  # a file's name need not be text
        row = {"path": path, "error": made if isinstance(made, str) else None}
        if isinstance(made, str):
            return row
        output = next(outputs)
        if not np.isfinite(output).all():
            return row | {"error": "the model gives NaN or infinity for it"}
        opened = self.model.opened
        if opened.output == "features":
            return row | {"features": output.astype(np.float32)}
        probabilities = softmax(output)
        best = np.argsort(-output, kind="stable")[: self.plan.top_k]
        return row | {
            "classes": best,
            "ids": [opened.labels[i].wordnet_id for i in best] if opened.labels else None,
            "names": [opened.names[i] for i in best],
            "probabilities": probabilities[best],
        }


def _prepared(photograph: Photograph, preprocessing: Preprocessing) -> np.ndarray | str:
    """The model's input, float32 [crop, crop, C], or why there is none."""
    try:
        return pillow_preprocess(load_image(io.BytesIO(photograph.read()), photograph.path), preprocessing)
    except ParameterError as error:
        return str(error)
    except OSError as error:
        return f"image {printed(photograph.path)} cannot be read: {error.strerror}"
