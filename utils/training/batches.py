"""Batches for training and for validation, as `tf.data`: the order and the augmentation depend on seed and epoch only.

So a run that is stopped and started again in a later epoch sees the very same batches as one that was not.
"""

from __future__ import annotations

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
        image, label = _read(images, images.train, index)
        return augment(image, images.augmentation, preprocessing, seeds), label

    order = tf.data.Dataset.range(epochs.start, epochs.stop).flat_map(epoch)
    batches = order.map(example, tf.data.AUTOTUNE, deterministic=True).batch(batch_size, drop_remainder=True)
    return batches.prefetch(tf.data.AUTOTUNE)


def validation_batches(images: LabelledImages, preprocessing: Preprocessing, batch_size: int) -> tf.data.Dataset:
    """Every validation image once, in order, preprocessed as the export does; shapes as of `training_batches`."""

    def example(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image, label = _read(images, images.validation, index)
        return preprocess(image[tf.newaxis], preprocessing)[0], label

    order = tf.data.Dataset.range(len(images.validation))
    return order.map(example, tf.data.AUTOTUNE, deterministic=True).batch(batch_size).prefetch(tf.data.AUTOTUNE)


def augmented_examples(
    images: LabelledImages, preprocessing: Preprocessing, count: int, seed: int
) -> tuple[np.ndarray, list[str]]:
    """The first `count` augmented training images, RGB in [0, 1] for showing, and the names of their classes."""
    batch = min(count, len(images.train))
    pixels, labels = next(iter(training_batches(images, preprocessing, batch, seed, range(1))))
    names = [images.classes[index] for index in labels.numpy().argmax(axis=1)]
    shown = np.clip(levels(pixels.numpy(), preprocessing) / 255, 0, 1)
    return shown.repeat(3 // preprocessing.channels, axis=-1), names


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


def _read(images: LabelledImages, split: Split, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """An image, uint8 [height, width, 3], and its one-hot label."""
    # Pillow decodes outside Python's global lock, so several of these run at a time.
    image = tf.numpy_function(lambda i: np.ascontiguousarray(split.read(int(i))), [index], tf.uint8, stateful=False)
    label = tf.one_hot(tf.gather(tf.constant(split.labels), index), len(images.classes))
    return tf.ensure_shape(image, [None, None, 3]), label
