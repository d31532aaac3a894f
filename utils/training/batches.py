"""Batches for training and for validation, as `tf.data`: the order and the augmentation depend on seed and epoch only.

So a run that is stopped and started again in a later epoch sees the very same batches as one that was not.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from utils.families.variants import Preprocessing
from utils.images.photographs import levels
from utils.images.preprocessing import grey, preprocess
from utils.training.datasets import Augmentation, LabelledImages, Split


def steps_per_epoch(images: LabelledImages, batch_size: int) -> int:
    """Whole batches in an epoch; which images make up the rest changes from epoch to epoch."""
    return len(images.train) // batch_size


def training_batches(
    images: LabelledImages, preprocessing: Preprocessing, batch_size: int, seed: int, epochs: range
) -> tf.data.Dataset:
    """The batches of some epochs, one epoch after the other, `steps_per_epoch` each.

    Args:
        images: the data set.
        preprocessing: the model's.
        batch_size: images in a batch.
        seed: of order and augmentation.
        epochs: which of the run.

    Yields:
        float32 [batch_size, crop, crop, C] and one-hot labels, float32 [batch_size, classes].
    """
    count, kept = len(images.train), steps_per_epoch(images, batch_size) * batch_size

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(tf.range(count, dtype=tf.int64), seed=tf.stack([seed, number]))
        # Each image of each epoch has a number of its own, from which its augmentation is drawn.
        numbers = number * count + tf.range(kept, dtype=tf.int64)
        return tf.data.Dataset.from_tensor_slices((order[:kept], numbers))

    def example(index: tf.Tensor, number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        seeds = tf.stack([tf.constant(seed, tf.int64), number])
        label = tf.one_hot(tf.gather(tf.constant(images.train.labels), index), len(images.classes))
        return augment(_image(images.train, index), images.augmentation, preprocessing, seeds), label

    order = tf.data.Dataset.range(epochs.start, epochs.stop).flat_map(epoch)
    batches = order.map(example, tf.data.AUTOTUNE, deterministic=True).batch(batch_size, drop_remainder=True)
    return batches.prefetch(tf.data.AUTOTUNE)


def validation_batches(images: LabelledImages, preprocessing: Preprocessing, batch_size: int) -> tf.data.Dataset:
    """Every validation image once, in order, preprocessed as the export does; shapes as of `training_batches`."""
    split = images.validation
    labels = tf.data.Dataset.from_tensor_slices(tf.one_hot(split.labels, len(images.classes))).batch(batch_size)
    return tf.data.Dataset.zip((_plain(split, preprocessing, batch_size), labels))


def plain_batches(split: Split, preprocessing: Preprocessing, batch_size: int) -> Iterator[np.ndarray]:
    """Every image once, in order, preprocessed as the export does: float32 [batch, crop, crop, C]."""
    yield from _plain(split, preprocessing, batch_size).as_numpy_iterator()


def _plain(split: Split, preprocessing: Preprocessing, batch_size: int) -> tf.data.Dataset:
    order = tf.data.Dataset.range(len(split))
    example = lambda index: preprocess(_image(split, index)[tf.newaxis], preprocessing)[0]  # noqa: E731
    return order.map(example, tf.data.AUTOTUNE, deterministic=True).batch(batch_size).prefetch(tf.data.AUTOTUNE)


def shown_examples(
    images: LabelledImages, preprocessing: Preprocessing, count: int, seed: int, augmented: bool
) -> tuple[np.ndarray, list[str]]:
    """Some `count` training images, RGB in [0, 1] for showing, and the names of their classes.

    augmented: as the first epoch begins; otherwise as the export sees them, chosen by `seed`.
    """
    count = min(count, len(images.train))
    if augmented:
        pixels, one_hot = next(training_batches(images, preprocessing, count, seed, range(1)).as_numpy_iterator())
        labels = one_hot.argmax(axis=1)
    else:
        chosen = np.random.default_rng(seed).permutation(len(images.train))[:count]
        labels = images.train.labels[chosen]
        split = Split(lambda i: images.train.read(chosen[i]), labels)
        pixels = next(plain_batches(split, preprocessing, count))
    shown = np.clip(levels(pixels, preprocessing) / 255, 0, 1)
    return shown.repeat(3 // preprocessing.channels, axis=-1), [images.classes[label] for label in labels]


def augment(image: tf.Tensor, augmentation: Augmentation, preprocessing: Preprocessing, seed: tf.Tensor) -> tf.Tensor:
    """One image, randomly cropped, mirrored, and normalised.

    Args:
        image: uint8 [height, width, 3].
        augmentation: what is done. Resizing is bilinear without antialiasing, as the authors do it.
        preprocessing: the model's.
        seed: int [2]; equal seeds give equal results.

    Returns:
        float32 [crop, crop, C].
    """
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image),
        bounding_boxes=tf.zeros([0, 0, 4]),
        seed=seed,
        min_object_covered=0.0,
        aspect_ratio_range=(0.75, 1.33),  # the default, which the Mixer authors leave
        area_range=augmentation.area,
        use_image_if_no_bounding_boxes=True,
    )
    side = preprocessing.crop
    image = tf.ensure_shape(tf.slice(image, begin, size), [None, None, 3])
    image = grey(image) if preprocessing.channels == 1 else image
    image = tf.image.resize(tf.cast(image, tf.float32), [side, side])
    if augmentation.flip:
        image = tf.image.stateless_random_flip_left_right(image, seed + 1)
    return (image - preprocessing.mean) / preprocessing.std


def _image(split: Split, index: tf.Tensor) -> tf.Tensor:
    """An image, uint8 [height, width, 3]."""
    # Pillow decodes outside Python's global lock, so several of these run at a time.
    image = tf.numpy_function(lambda i: np.ascontiguousarray(split.read(int(i))), [index], tf.uint8, stateful=False)
    return tf.ensure_shape(image, [None, None, 3])
