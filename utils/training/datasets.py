"""Labelled images for fine-tuning: `tf_flowers` (TFDS), `digits` (scikit-learn), or a folder with a folder per class.

"auto" is the first of the first two that is available.

Every image is read through Pillow to an upright RGB array: any size, uint8 [height, width, 3]. What is wrong with the
data is said here, before a model is loaded.
"""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from utils.errors import ParameterError
from utils.images.photographs import SUFFIXES, images_by_class, load_image
from utils.images.tfds import is_within_reach, open_tfds, read_tfds

VALIDATION_SHARE = 0.2
_FLOWERS = "http://download.tensorflow.org/example_images/flower_photos.tgz"  # where tensorflow-datasets fetches it
_NAMED = 5  # files that an error message names


@dataclass(frozen=True)
class Augmentation:
    """Share of the image's area that a crop may have, and whether to mirror."""

    area: tuple[float, float]
    flip: bool


# The Mixer authors': vit_jax/input_pipeline.py in google-research/vision_transformer, `inception_crop`.
STANDARD = Augmentation(area=(0.05, 1.0), flip=True)
# For digits and letters: a small part does not show the class, and a mirror image is another one or none.
GENTLE = Augmentation(area=(0.7, 1.0), flip=False)


@dataclass(frozen=True)
class Split:
    """Images by index, each uint8 [height, width, 3] when it is read, and their classes, int64 [count]."""

    read: Callable[[int], np.ndarray]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class LabelledImages:
    """A data set, split; `classes` are the names, in the order of the labels.

    skipped: files left out because they cannot be decoded. fingerprint: a hash of names, labels and split. notice: what
    to show with them, or nothing.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    augmentation: Augmentation
    fingerprint: str
    skipped: tuple[str, ...] = ()
    notice: str = ""


def load_dataset(dataset: str, batch_size: int, seed: int, corrupt_images: str = "refuse") -> LabelledImages:
    """The data set that the notebook's `dataset` names, split into training and validation.

    Args:
        dataset: a folder, a name, or "auto".
        batch_size: images in a batch.
        seed: of the split.
        corrupt_images: "refuse", or "skip" to leave out files that cannot be decoded.

    Raises:
        ParameterError: for corrupt files, an empty folder, fewer than two classes, a class with a single image, fewer
            training images than `batch_size`, or data that cannot be downloaded.
    """
    if dataset == "auto":
        images = _flowers_or_digits(seed)
    elif dataset == "digits":
        images = _digits(seed)
    elif dataset == "tf_flowers":
        images = _tfds("tf_flowers", seed)
    else:
        images = _folder(Path(dataset).expanduser(), seed, corrupt_images)
    if len(images.train) < batch_size:
        raise ParameterError(
            f"dataset = {dataset}: {len(images.train)} images to train on are fewer than batch_size = {batch_size}. "
            f"Use a batch_size of at most {len(images.train)}, or more images."
        )
    return images


def _flowers_or_digits(seed: int) -> LabelledImages:
    reason = f"{_FLOWERS} does not answer"
    if is_within_reach("tf_flowers", _FLOWERS):
        try:
            return _tfds("tf_flowers", seed)
        except ParameterError as error:
            reason = str(error.__cause__ or error).splitlines()[0][:300]
    return replace(_digits(seed), notice=f"dataset = auto: digits, since tf_flowers is not available: {reason}")


def _digits(seed: int) -> LabelledImages:
    """1,797 handwritten digits of 8 x 8 pixels with 17 grey levels, from scikit-learn: no download."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images[..., None].repeat(3, axis=3) * (255 / 16)).astype(np.uint8)
    return _assembled("digits", map(str, digits.target_names), pixels.__getitem__, digits.target, seed, GENTLE)


def _tfds(name: str, seed: int) -> LabelledImages:
    """A classification data set of TensorFlow Datasets, still encoded, all in memory (tf_flowers: 220 MB)."""
    try:
        builder = open_tfds(name)
    except ParameterError as error:
        raise ParameterError(
            f'dataset = {error} Without the internet use dataset = "digits", or a folder with one sub-folder of images '
            "per class."
        ) from error
    _, encoded, labels = zip(*read_tfds(builder, "all"), strict=True)
    classes = builder.info.features["label"].names
    return _assembled(name, classes, lambda i: load_image(io.BytesIO(encoded[i])), labels, seed)


def _folder(folder: Path, seed: int, corrupt_images: str) -> LabelledImages:
    by_class = images_by_class(folder)
    files = [(path, label) for label, paths in enumerate(by_class.values()) for path in paths]
    if not files:
        raise ParameterError(
            f"dataset = {folder}: no images in it. Expected one sub-folder per class, with images ending in "
            f"{', '.join(SUFFIXES)}; found {len(by_class)} sub-folders."
        )
    whole = _can_be_decoded([path for path, _ in files])
    skipped = [str(path.relative_to(folder)) for (path, _), good in zip(files, whole, strict=True) if not good]
    named = f"{'; '.join(skipped[:_NAMED])}{'; …' if len(skipped) > _NAMED else ''}"
    if skipped and corrupt_images == "refuse":
        raise ParameterError(
            f"dataset = {folder}: {len(skipped)} of {len(files)} files cannot be decoded: {named}. "
            'Replace or remove them, or set corrupt_images = "skip".'
        )
    paths, labels = zip(*itertools.compress(files, whole), strict=True) if any(whole) else ((), ())
    names = [str(path.relative_to(folder)) for path in paths]
    images = _assembled(folder.name, by_class, lambda i: load_image(paths[i]), labels, seed, files=names)
    notice = f"{len(skipped)} files cannot be decoded and were left out: {named}" if skipped else ""
    return replace(images, skipped=tuple(skipped), notice=notice)


def _can_be_decoded(paths: list[Path]) -> list[bool]:
    """Of each, found by decoding all: Pillow lets other threads run while it does."""
    from tqdm.auto import tqdm

    def check(path: Path) -> bool:
        try:
            return bool(load_image(path))
        except ParameterError:
            return False

    with ThreadPoolExecutor() as pool:
        return list(tqdm(pool.map(check, paths), total=len(paths), desc="reading images", disable=len(paths) < 500))


def _assembled(
    name: str,
    classes: Iterable[str],
    read: Callable[[int], Image.Image | np.ndarray],
    labels: Sequence[int],
    seed: int,
    augmentation: Augmentation = STANDARD,
    files: Sequence[str] = (),
) -> LabelledImages:
    classes, labels = tuple(classes), np.array(labels, np.int64)
    counts = np.bincount(labels, minlength=len(classes))
    if len(classes) < 2:
        raise ParameterError(f"dataset = {name} has one class only ({', '.join(classes)}). Two or more are needed.")
    if few := [f"{title} ({count})" for title, count in zip(classes, counts, strict=True) if count < 2]:
        raise ParameterError(
            f"dataset = {name}: every class needs two images or more, one to train on and one to validate with. "
            f"Too few in: {', '.join(few)}."
        )
    parts = _stratified(labels, seed)
    content = repr((classes, labels.tolist(), list(files), parts[0].tolist())).encode()
    train, validation = (Split(lambda i, part=part: np.asarray(read(part[i])), labels[part]) for part in parts)
    fingerprint = hashlib.sha256(content).hexdigest()
    return LabelledImages(name, classes, train, validation, augmentation, fingerprint)


def _stratified(labels: np.ndarray, seed: int) -> list[np.ndarray]:
    """Indices of training and of validation: a fifth of each class, and at least one image, to validate with."""
    rng = np.random.default_rng(seed)
    train, validation = [], []
    for label in np.unique(labels):
        shuffled = rng.permutation(np.flatnonzero(labels == label))
        held = max(1, round(VALIDATION_SHARE * len(shuffled)))
        train.append(shuffled[held:])
        validation.append(shuffled[:held])
    return [np.sort(np.concatenate(part)) for part in (train, validation)]
