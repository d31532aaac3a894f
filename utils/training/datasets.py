"""Labelled images for fine-tuning: `tf_flowers` (TFDS), `digits` (scikit-learn), or a folder (or zip) of class folders.

"auto" is the first of the first two that is available. A folder with `train` and `val` is used as it is split.

Every image is read through Pillow to an upright RGB array: any size, uint8 [height, width, 3]. What is wrong with the
data is said here, before a model is loaded.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from utils.errors import ParameterError
from utils.files import hash_file
from utils.images.folders import TEST, TRAIN, VALIDATION, Labelled, read_folder
from utils.images.photographs import SUFFIXES, load_image
from utils.images.tfds import is_within_reach, open_tfds, read_tfds
from utils.images.zipped import Unpacked, is_zip
from utils.text import printed

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

    skipped: files left out because they cannot be decoded. fingerprint: a hash of classes, labels, split and the images
    themselves. notice: what to show with them, or nothing.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    augmentation: Augmentation
    fingerprint: str
    skipped: tuple[str, ...] = ()
    notice: str = ""
    unpacked: Unpacked | None = None


def load_dataset(dataset: str, seed: int, corrupt_images: str = "refuse") -> LabelledImages:
    """The data set that the notebook's `dataset` names, split into training and validation.

    Args:
        dataset: a folder, a zip file's path or URL, a name, or "auto".
        seed: of the split.
        corrupt_images: "refuse", or "skip" to leave out files that cannot be decoded.

    Raises:
        ParameterError: for corrupt files, an empty folder, fewer than two classes, a class with a single image, parts
            of other classes, or data that cannot be downloaded.
    """
    if dataset == "auto":
        return _flowers_or_digits(seed)
    if dataset == "digits":
        return _digits(seed)
    if dataset == "tf_flowers":
        return _tfds("tf_flowers", seed)
    if is_zip(dataset):
        return _zip(dataset, seed, corrupt_images)
    return _folder(Path(dataset).expanduser(), seed, corrupt_images)


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
    classes, hashes = map(str, digits.target_names), [hashlib.sha256(image).hexdigest() for image in pixels]
    parts = _stratified(digits.target, seed)
    return _assembled("digits", classes, pixels.__getitem__, digits.target, hashes, parts, GENTLE)


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
    hashes = [hashlib.sha256(file).hexdigest() for file in encoded]
    read = lambda i: load_image(io.BytesIO(encoded[i]))  # noqa: E731
    return _assembled(name, classes, read, labels, hashes, _stratified(labels, seed))


@dataclass(frozen=True)
class _File:
    """An image of a folder: its part and class, and the SHA-256 of its bytes, or else why it cannot be decoded."""

    path: Path
    part: str
    label: int
    sha256: str = ""
    reason: str = ""


def _folder(folder: Path, seed: int, corrupt_images: str) -> LabelledImages:
    labelled = read_folder(folder)
    training, validating = _chosen_parts(folder, labelled)
    classes = list(labelled.parts[training])
    files = _decoded(
        [
            _File(path, part, label)
            for part in dict.fromkeys((training, validating))
            for label, name in enumerate(classes)
            for path in labelled.parts[part].get(name, ())
        ]
    )
    if not files:
        raise ParameterError(
            f"dataset = {folder}: no images in it. Expected one sub-folder per class, with images ending in "
            f"{', '.join(SUFFIXES)}; found {len(classes)} sub-folders. {labelled.notice}"
        )
    corrupt, good = [file for file in files if file.reason], [file for file in files if not file.reason]
    reasons = [file.reason for file in corrupt[:_NAMED]] + (["…"] if len(corrupt) > _NAMED else [])
    named = "".join(f"\n  {reason}" for reason in reasons)
    if corrupt and corrupt_images == "refuse":
        raise ParameterError(
            f"dataset = {folder}: {len(corrupt)} of {len(files)} files cannot be decoded:{named}\n"
            'Replace or remove them, or set corrupt_images = "skip".'
        )
    labels = np.array([file.label for file in good], np.int64)
    if training == validating:
        parts = _stratified(labels, seed)
    else:
        parts = [np.flatnonzero([file.part == part for file in good]) for part in (training, validating)]
    images = _assembled(
        printed(folder.resolve().name),
        classes,
        lambda i: load_image(good[i].path),
        labels,
        [file.sha256 for file in good],
        parts,
    )
    notices = [
        labelled.notice,
        f"{len(corrupt)} files cannot be decoded and were left out:{named}" if corrupt else "",
        _of_parts(labelled, training, validating),
        _copies([{good[i].sha256 for i in part} for part in parts]),
    ]
    skipped = tuple(file.path.relative_to(folder).as_posix() for file in corrupt)
    return replace(images, skipped=skipped, notice="\n".join(filter(None, notices)))


def _zip(dataset: str, seed: int, corrupt_images: str) -> LabelledImages:
    unpacked = Unpacked(dataset)
    try:
        images = _folder(unpacked.folder, seed, corrupt_images)
    except ParameterError as error:
        raise ParameterError(str(error).replace(str(unpacked.folder), printed(dataset))) from error
    return replace(images, name=printed(unpacked.name), unpacked=unpacked)


def _chosen_parts(folder: Path, labelled: Labelled) -> tuple[str, str]:
    """The part to train on, and the one to validate with, which has the same classes."""
    parts = labelled.parts
    if "" in parts:
        return "", ""
    if TRAIN not in parts:
        raise ParameterError(f"dataset = {folder} has {' and '.join(parts)}, and no {TRAIN}. Add it.")
    validating = next((part for part in (VALIDATION, TEST) if part in parts), TRAIN)
    filled = [{name for name, files in parts[part].items() if files} for part in (TRAIN, validating)]
    if odd := sorted(filled[0] ^ filled[1]):
        raise ParameterError(
            f"dataset = {folder}: {TRAIN} and {validating} do not have images of the same classes. "
            f"In one of them only: {', '.join(odd[:_NAMED])}{', …' if len(odd) > _NAMED else ''}."
        )
    return TRAIN, validating


def _of_parts(labelled: Labelled, training: str, validating: str) -> str:
    if not training:
        return ""
    found = f"Trained on {training}; validated with {'a fifth of it' if validating == training else validating}"
    for part in labelled.parts.keys() - {training, validating}:
        found += f"; {sum(map(len, labelled.parts[part].values())):,} images of {part} are not used"
    return found


def _copies(hashes: list[set[str]]) -> str:
    count = len(set.intersection(*hashes))
    return f"{count} images to validate with are copies of images to train on, byte for byte" if count else ""


def _decoded(files: list[_File]) -> list[_File]:
    """The same with hash or reason, found by decoding all: Pillow lets other threads run while it does."""
    from tqdm.auto import tqdm

    def check(file: _File) -> _File:
        try:
            load_image(file.path)
            return replace(file, sha256=hash_file(file.path))
        except ParameterError as error:
            return replace(file, reason=str(error))
        except OSError as error:
            return replace(file, reason=f"image {printed(str(file.path))} cannot be read: {error.strerror}")

    with ThreadPoolExecutor() as pool:
        return list(tqdm(pool.map(check, files), total=len(files), desc="reading images", disable=len(files) < 500))


def _assembled(
    name: str,
    classes: Iterable[str],
    read: Callable[[int], Image.Image | np.ndarray],
    labels: Sequence[int],
    hashes: Sequence[str],
    parts: Sequence[np.ndarray],
    augmentation: Augmentation = STANDARD,
) -> LabelledImages:
    """Checks the classes and puts it together.

    Args:
        name: of the data set.
        classes: names, in the order of the labels.
        read: gives an image by its index.
        labels: by index.
        hashes: SHA-256 of each image.
        parts: indices of training and of validation.
        augmentation: what is done to the training images.
    """
    classes, labels = tuple(classes), np.array(labels, np.int64)
    counts = [np.bincount(labels[part], minlength=len(classes)) for part in parts]
    if len(classes) < 2:
        raise ParameterError(f"dataset = {name} has one class only ({', '.join(classes)}). Two or more are needed.")
    if few := [f"{title} ({sum(both)})" for title, *both in zip(classes, *counts, strict=True) if not all(both)]:
        raise ParameterError(
            f"dataset = {name}: every class needs two images or more, one to train on and one to validate with. "
            f"Too few in: {', '.join(few)}."
        )
    content = repr((classes, labels.tolist(), list(hashes), [part.tolist() for part in parts])).encode()
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
