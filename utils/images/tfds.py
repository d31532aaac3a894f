"""Labelled images of TensorFlow Datasets, read as the files that they were, in one fixed order."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from utils.errors import ParameterError

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder

PIN = "tensorflow-datasets==4.9.10"
NAME = re.compile(r"[a-z][a-z0-9_]*(/[A-Za-z0-9_.-]+)?(:[0-9.*]+)?")  # name/config:version


def is_within_reach(name: str, address: str) -> bool:
    """Whether a data set was prepared here, or the address that TFDS fetches it from answers.

    TFDS itself asks for minutes before it gives up.
    """
    import requests
    import tensorflow_datasets as tfds

    try:
        with _quiet():
            prepared = tfds.builder(name, data_dir=None).is_prepared()
        return prepared or requests.head(address, timeout=10, allow_redirects=True).ok
    except Exception:  # as in `open_tfds`, which says what is wrong
        return False


def open_tfds(name: str, data_dir: str | None = None) -> DatasetBuilder:
    """The data set of that name, downloaded and prepared if it was not; `data_dir`: where TFDS keeps its files.

    Raises ParameterError if it is not available, or has no images with labels.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ParameterError(f"{name} is no folder, and TensorFlow Datasets (pip install {PIN}) is missing.") from error
    try:
        with _quiet():
            builder = tfds.builder(name, data_dir=data_dir)
            builder.download_and_prepare()
    except Exception as error:  # each data set fails in its own way, ImageNet without its archives by AssertionError
        said = f"{type(error).__name__}: {error}"
        raise ParameterError(f"{name}: TensorFlow Datasets cannot provide it ({said}).") from error
    features = dict(builder.info.features.items())
    kinds = {"image": tfds.features.Image, "label": tfds.features.ClassLabel}
    if not all(isinstance(features.get(key), kind) for key, kind in kinds.items()):
        raise ParameterError(f"{name} has no features `image` and `label`, but: {', '.join(features)}.")
    return builder


@contextmanager
def _quiet() -> Iterator[None]:
    """TFDS warns that a data set was not prepared yet, as on every new machine. What is an error, it raises."""
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def read_tfds(builder: DatasetBuilder, split: str) -> Iterator[tuple[str, bytes, int]]:
    """Name, encoded image and label of each example, in the order of the files; `split` such as "test[10:20]"."""
    import tensorflow_datasets as tfds

    dataset = builder.as_dataset(
        split=split,
        shuffle_files=False,
        decoders={"image": tfds.decode.SkipDecoding()},
        read_config=tfds.ReadConfig(add_tfds_id=True, interleave_cycle_length=1),
    )
    for record in tfds.as_numpy(dataset):
        yield record["tfds_id"].decode(), bytes(record["image"]), int(record["label"])
