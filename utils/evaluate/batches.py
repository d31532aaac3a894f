"""Image files to batches: decoded and resized by Pillow, in threads, while the model computes the batch before.

Pillow, because the source projects evaluated with it; what a model's own graph does differently is another figure.
"""

from __future__ import annotations

import io
import warnings
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
from PIL import Image

from utils.errors import EvaluationError, ParameterError
from utils.evaluate.data import Data, Example
from utils.families.variants import Preprocessing
from utils.images.photographs import load_image, pillow_preprocess
from utils.machine.cores import usable_cores

_AHEAD = 2  # batches in preparation


@dataclass(frozen=True)
class Batch:
    """The next files: `inputs` float32 [B, crop, crop, 3], `labels` int64 [B], and why `corrupt` ones are no images.

    `images` are the B files as decoded, uint8 [H, W, 3] each, for a model that does the rest itself.
    """

    inputs: np.ndarray
    labels: np.ndarray
    images: list[np.ndarray]
    corrupt: dict[str, str]


def batches(
    data: Data, start: int, batch_size: int, preprocessing: Preprocessing, skip_corrupt: bool
) -> Generator[Batch]:
    """The files from position `start` on, `batch_size` at a time; corrupt ones leave a smaller batch behind.

    EvaluationError names the corrupt files of a batch, unless `skip_corrupt`, and any file that cannot be read.
    """
    examples = data.examples(start)
    waiting: deque[list[tuple[Example, Future]]] = deque()
    with warnings.catch_warnings(), ThreadPoolExecutor(usable_cores()) as pool:
        # `load_image` sets this too, but for the whole process, while other threads put back what was before.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            while True:
                while len(waiting) <= _AHEAD and (window := list(islice(examples, batch_size))):
                    waiting.append([(example, pool.submit(_prepare, example, preprocessing)) for example in window])
                if not waiting:
                    return
                yield _batch([(example, future.result()) for example, future in waiting.popleft()], skip_corrupt)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # of a stopped evaluation, nothing more is needed


def _prepare(example: Example, preprocessing: Preprocessing) -> tuple[np.ndarray, np.ndarray] | str:
    """The model's input, float32 [crop, crop, 3], and the decoded image, or why the file gives none."""
    data = _Named(example.read())
    data.name = example.name
    try:
        image = load_image(data)
        return pillow_preprocess(image, preprocessing), np.asarray(image)
    except ParameterError as error:
        return str(error)


class _Named(io.BytesIO):
    """Bytes that errors call by their file's name."""

    name = ""

    def __str__(self) -> str:
        return self.name


def _batch(prepared: list[tuple[Example, tuple[np.ndarray, np.ndarray] | str]], skip_corrupt: bool) -> Batch:
    corrupt = {example.name: found for example, found in prepared if isinstance(found, str)}
    if corrupt and not skip_corrupt:
        reasons = "\n".join(f"  {name}: {reason}" for name, reason in corrupt.items())
        raise EvaluationError(
            f"{len(corrupt)} of these {len(prepared)} files cannot be evaluated:\n{reasons}\n"
            "Get them again, or leave them out, counted, with --skip-corrupt."
        )
    good = [(found, example.label) for example, found in prepared if not isinstance(found, str)]
    inputs = np.stack([array for (array, _), _ in good]) if good else np.zeros((0, 0, 0, 3), np.float32)
    labels = np.array([label for _, label in good], np.int64)
    return Batch(inputs, labels, [image for (_, image), _ in good], corrupt)
