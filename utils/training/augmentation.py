"""Random crops and flips, in TensorFlow, the same for the same seed: what a resumed run needs to go on as it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from utils.models.variants import Preprocessing

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True)
class Augmentation:
    """Share of the image's area that a crop may have, its aspect ratio (width / height), and whether to mirror."""

    area: tuple[float, float]
    aspect: tuple[float, float]
    flip: bool


# The Mixer authors': vit_jax/input_pipeline.py in google-research/vision_transformer, `inception_crop`; the aspect
# ratio there is the default of `tf.image.sample_distorted_bounding_box`.
STANDARD = Augmentation(area=(0.05, 1.0), aspect=(0.75, 1.33), flip=True)
# Where a small part does not tell the class, and a mirror image is another or none: digits and letters.
GENTLE = Augmentation(area=(0.7, 1.0), aspect=(0.75, 1.33), flip=False)


def augment(image: tf.Tensor, augmentation: Augmentation, preprocessing: Preprocessing, seed: tf.Tensor) -> tf.Tensor:
    """One uint8 [height, width, 3] image -> float32 [crop, crop, 3], randomly cropped, mirrored, and normalised.

    seed: int [2]; equal seeds give equal results. Resizing is bilinear without antialiasing, as the authors do it.
    """
    import tensorflow as tf

    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image),
        bounding_boxes=tf.zeros([0, 0, 4]),
        seed=seed,
        min_object_covered=0.0,
        aspect_ratio_range=augmentation.aspect,
        area_range=augmentation.area,
        use_image_if_no_bounding_boxes=True,
    )
    side = preprocessing.crop
    image = tf.ensure_shape(tf.slice(image, begin, size), [None, None, 3])
    image = tf.image.resize(tf.cast(image, tf.float32), [side, side])
    if augmentation.flip:
        image = tf.image.stateless_random_flip_left_right(image, seed + 1)
    return (image - preprocessing.mean) / preprocessing.std
