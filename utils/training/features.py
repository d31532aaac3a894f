"""Features of every image, computed once and kept in `output_dir`, so that the next run reads them.

The file is called by a hash of images, split, model and preprocessing, and is written whole, after all of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from utils.artefact.opening import Pretrained
from utils.errors import ConversionError
from utils.files import written_whole
from utils.training.batches import plain_batches
from utils.training.datasets import LabelledImages, Split
from utils.training.estimate import Clock

Extractor = Callable[[np.ndarray], np.ndarray]  # float32 [B, crop, crop, C] -> float32 [B, units]


@dataclass(frozen=True)
class Features:
    """Of the training images, float32 [copies, images, units]; of those to validate with, [images, units].

    The second copy is of the mirrored images.

    rate: images a second, as measured; 0.0 if they were read. remark: what to say of the file, or nothing.
    """

    train: np.ndarray
    validation: np.ndarray
    rate: float = 0.0
    remark: str = ""


def cache_file(output_dir: Path, extractor: Pretrained, images: LabelledImages) -> Path:
    """Where the features of these images by this model are kept: another byte of either is another file."""
    facts = {
        "images": images.fingerprint,
        "mirrored": images.augmentation.flip,
        "model": dict(extractor.files),
        "preprocessing": dataclasses.asdict(extractor.preprocessing),
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return output_dir / f".features-{digest[:16]}.npz"


def features_of(
    extract: Extractor, extractor: Pretrained, images: LabelledImages, output_dir: Path, batch_size: int, clock: Clock
) -> Features:
    """Reads the features, or computes and keeps them. ConversionError if they are not numbers.

    Args:
        extract: the model, called with whole batches but for the last of each part.
        extractor: what it is, for the file's name.
        images: the data set; mirrored copies are added if it may be mirrored.
        output_dir: where the file is.
        batch_size: images in a batch.
        clock: measures, and tells how long it will take.
    """
    path = cache_file(output_dir, extractor, images)
    copies = 2 if images.augmentation.flip else 1
    shapes = (copies, len(images.train), extractor.units), (len(images.validation), extractor.units)
    if found := _read(path, shapes):
        return found
    clock.start(copies * len(images.train) + len(images.validation))
    with tqdm(total=clock.total, desc="features", unit="image", file=sys.stdout, mininterval=3) as bar:

        def part(split: Split, mirrored: tuple[bool, ...]) -> np.ndarray:
            batches: list[list[np.ndarray]] = []
            for pixels in plain_batches(split, extractor.preprocessing, batch_size):
                batches.append([])
                for mirror in mirrored:
                    batches[-1].append(extract(pixels[:, :, ::-1] if mirror else pixels))
                    clock.done(len(pixels), bar)
            return np.stack([np.concatenate(copy) for copy in zip(*batches, strict=True)])

        train = part(images.train, (False, True)[:copies])
        (validation,) = part(images.validation, (False,))
    if not (np.isfinite(train).all() and np.isfinite(validation).all()):
        raise ConversionError(
            f"{extractor.name} gives features that are not finite numbers, so no head can be fitted to them. "
            "Convert it again from a sound checkpoint."
        )
    return Features(train, validation, clock.rate, _written(path, train, validation))


def _read(path: Path, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> Features | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            found = Features(file["train"], file["validation"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # not there, or damaged: it is made anew
        return None
    arrays = found.train, found.validation
    good = all(a.shape == shape and a.dtype == np.float32 for a, shape in zip(arrays, shapes, strict=True))
    return found if good else None


def _written(path: Path, train: np.ndarray, validation: np.ndarray) -> str:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as file:
            np.savez(file, train=train, validation=validation)
    except OSError as error:
        return f"The features could not be kept ({error}), so the next run will compute them again."
    return ""
