"""Image files to batches: decoded and resized by Pillow, in threads, while the model computes the batch before.

Pillow, because the source projects evaluated with it; what a model's own graph does differently is another figure.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np

from utils.errors import EvaluationError, ParameterError
from utils.evaluate.data import Data, Example
from utils.families.variants import Preprocessing
from utils.images.photographs import load_image, pillow_preprocess
from utils.machine.cores import usable_cores

_AHEAD = 3  # batches in preparation

Prepared = tuple[np.ndarray, np.ndarray]  # the model's input float32 [crop, crop, 3], the decoded image uint8 [H, W, 3]


@dataclass(frozen=True)
class ImageBatch:
    """The next files: `inputs` float32 [B, crop, crop, 3], `labels` int64 [B], and why `corrupt` ones are no images.

    `images` are the B files as decoded, uint8 [H, W, 3] each, for a model that does the rest itself.
    """

    inputs: np.ndarray
    labels: np.ndarray
    images: list[np.ndarray]
    corrupt: dict[str, str]


def batches(
    data: Data, start: int, batch_size: int, preprocessing: Preprocessing, skip_corrupt: bool
) -> Generator[ImageBatch]:
    """The files from position `start` on, `batch_size` at a time; corrupt ones leave a smaller batch behind.

    Raises:
        EvaluationError: names the corrupt files of a batch, unless `skip_corrupt`, and any file that cannot be read.
    """
    examples = data.examples(start)
    with ThreadPoolExecutor(usable_cores()) as pool:

        def begin() -> list[tuple[Example, Future]]:
            return [
                (example, pool.submit(_prepare, example, preprocessing)) for example in islice(examples, batch_size)
            ]

        waiting = deque(begin() for _ in range(_AHEAD))
        try:
            while begun := waiting.popleft():
                waiting.append(begin())
                yield _batch([(example, future.result()) for example, future in begun], skip_corrupt)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # of a stopped evaluation, nothing more is needed


def _prepare(example: Example, preprocessing: Preprocessing) -> Prepared | str:
    """What a model needs of the file, or why the file gives nothing."""
    data = io.BytesIO(example.read())
    try:
        image = load_image(data, example.name)
        return pillow_preprocess(image, preprocessing), np.asarray(image)
    except ParameterError as error:
        return str(error)


def _batch(prepared: list[tuple[Example, Prepared | str]], skip_corrupt: bool) -> ImageBatch:
    corrupt = {example.name: found for example, found in prepared if isinstance(found, str)}
    if corrupt and not skip_corrupt:
        reasons = "\n".join(f"  {name}: {reason}" for name, reason in corrupt.items())
        raise EvaluationError(
            f"{len(corrupt)} of these {len(prepared)} files cannot be evaluated:\n{reasons}\n"
            "Get them again, or leave them out, counted, with --skip-corrupt."
        )
    good = [(*found, example.label) for example, found in prepared if not isinstance(found, str)]
    inputs, images, labels = zip(*good, strict=True) if good else ((), (), ())
    return ImageBatch(np.array(inputs), np.array(labels, np.int64), list(images), corrupt)
