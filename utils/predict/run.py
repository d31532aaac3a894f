"""One run: a model, photographs and a table, part by part."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from utils.artefact.manifest import installed_versions
from utils.artefact.opening import Pretrained
from utils.errors import ParameterError
from utils.families.variants import Preprocessing
from utils.images.photographs import load_image, pillow_preprocess
from utils.machine.ahead import made_ahead
from utils.notebook.display import softmax
from utils.predict.answers import Parts, Row, check_output, schema_of
from utils.predict.model import Model, load_model
from utils.predict.photographs import Photograph, Photographs, open_photographs
from utils.text import printed

NOT_FINITE = "the model gives NaN or infinity for it"


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


# From photographs and the model's inputs, of which the first are theirs, to a row each, without its `path`.
Answer = Callable[[Sequence[Photograph], np.ndarray], Iterable[Row]]


@dataclass(frozen=True)
class Run:
    """Photographs, and what answers for them; done part by part, by any process that is given the same.

    Attributes:
        photographs: All.
        opened: The model's facts.
        answer: Gets float32 [batch_size, crop, crop, C]: the photographs' inputs, then zeros. Some runtimes compile for
            each number of images, and the last digits of an answer may depend on it.
        parts: Where the rows go.
        batch_size: Photographs at once.
        part: Rows of a part.
    """

    photographs: Photographs
    opened: Pretrained
    answer: Answer
    parts: Parts
    batch_size: int
    part: int

    @property
    def count(self) -> int:
        """How many parts there are."""
        return -(-self.photographs.count // self.part)

    @property
    def left(self) -> list[int]:
        """The parts that are to be done, by number."""
        return [part for part in range(self.count) if not self.parts.is_done(part)]

    @property
    def rows_done(self) -> int:
        """How many photographs an earlier run answered for."""
        return self.photographs.count - sum(map(self.rows_in, self.left))

    def rows_in(self, part: int) -> int:
        """How many photographs that part has."""
        return min(self.part, self.photographs.count - part * self.part)

    def work(self, part: int) -> Iterator[list[Row]]:
        """Answers a part and writes it; yields the rows of each batch."""
        start, rows = part * self.part, []
        for batch in self._answered(self.photographs.since(start, start + self.rows_in(part))):
            rows += batch
            yield batch
        self.parts.write(part, rows)

    def _answered(self, photographs: Iterator[Photograph]) -> Iterator[list[Row]]:
        preprocessing = self.opened.preprocessing
        prepare = partial(_prepared, preprocessing=preprocessing)
        shape = self.batch_size, preprocessing.crop, preprocessing.crop, preprocessing.channels
        with closing(made_ahead(photographs, prepare, self.batch_size)) as batches:
            for batch in batches:
                good = [(photograph, made) for photograph, made in batch if not isinstance(made, str)]
                inputs = np.zeros(shape, np.float32)
                inputs[: len(good)] = [made for _, made in good] or 0
                rows = iter(self.answer([photograph for photograph, _ in good], inputs) if good else ())
                yield [_row(photograph, made, rows) for photograph, made in batch]


def _row(photograph: Photograph, made: np.ndarray | str, rows: Iterator[Row]) -> Row:
    path = photograph.path.encode(errors="backslashreplace").decode()  # a file's name need not be text
    return {"path": path, **({"error": made} if isinstance(made, str) else next(rows))}


def open_run(plan: Plan) -> Run:
    """What the plan names, opened; raises as `open_photographs`, `load_model`, `check_output` and `Parts`."""
    photographs = open_photographs(plan.images, plan.split, plan.data_dir)
    model = load_model(plan.model)
    binding = {
        **binding_of(model, photographs),
        **{key: getattr(plan, key) for key in ("top_k", "batch_size", "part")},
    }
    schema = schema_of(model.opened.output, model.opened.units)
    parts = Parts(check_output(plan.output, plan.overwrite), schema, binding)
    answer = partial(_answers, model, plan.top_k)
    return Run(photographs, model.opened, answer, parts, plan.batch_size, plan.part)


def binding_of(model: Model, photographs: Photographs) -> dict[str, Any]:
    """What every answer depends on."""
    versions = {"runtime": model.runtime, **installed_versions(("pillow", "numpy"))}
    return {"model": model.sha256, "list of photographs": photographs.sha256, "versions": versions}


def _answers(model: Model, top_k: int, photographs: Sequence[Photograph], inputs: np.ndarray) -> Iterator[Row]:
    opened = model.opened
    for _, output in zip(photographs, np.asarray(model.run(inputs)), strict=False):  # the zeros' answers are left
        if not np.isfinite(output).all():
            yield {"error": NOT_FINITE}
        elif opened.output == "features":
            yield {"features": output.astype(np.float32)}
        else:
            best = np.argsort(-output, kind="stable")[:top_k]  # of equals, the lower index first
            yield {
                "classes": best,
                "ids": [opened.labels[i].wordnet_id for i in best] if opened.labels else None,
                "names": [opened.names[i] for i in best],
                "probabilities": softmax(output)[best],
            }


def _prepared(photograph: Photograph, preprocessing: Preprocessing) -> np.ndarray | str:
    """The model's input, float32 [crop, crop, C], or why there is none."""
    try:
        return pillow_preprocess(load_image(io.BytesIO(photograph.read()), photograph.path), preprocessing)
    except ParameterError as error:
        return str(error)
    except OSError as error:
        return f"image {printed(photograph.path)} cannot be read: {error.strerror}"
