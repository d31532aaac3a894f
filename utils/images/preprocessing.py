"""From pixels or image bytes to what a model takes, as a TensorFlow graph: eagerly, in `tf.data`, in a SavedModel.

Held to `photographs.pillow_preprocess`, which the source projects' evaluations use: the same sizes, and like Pillow
first the columns, then the rows, each rounded to whole levels. What is left is float32 against Pillow's fixed point:
a value within rounding of a half may end one level off, so each of the two passes can move a pixel by one.
"""

from __future__ import annotations

import tensorflow as tf

from utils.families.variants import Preprocessing

# Pillow's filters under TensorFlow's names; its cubic has a = -0.5, which is Keys' choice.
_KERNELS = {"bicubic": "keyscubic", "bilinear": "triangle"}
_SUPPORT = 2  # of the wider one, in pixels of whichever of input and output has fewer


def preprocess(images: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    """Resizes, crops and normalises a batch: uint8 [B, H, W, 3], RGB of any size -> float32 [B, crop, crop, C].

    Shorter side to `resize`, antialiased; the centre crop; (x - mean) / std by channel. An image smaller than the
    crop is enlarged. For a model of one channel they are made grey first. Raises ParameterError for settings that make
    no sense, and for a model of other channels than 1 or 3.
    """
    preprocessing.check_photographs()
    return _normalised(_cropped(images, preprocessing), preprocessing)


def preprocess_bytes(image_bytes: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    """Decodes, then as `preprocess`: string [B], a JPEG or PNG each, of its own size -> float32 [B, crop, crop, C].

    Grey, palette and CMYK become RGB, 16 bits are cut to 8, and alpha is dropped. InvalidArgumentError, at run time,
    for bytes that are no whole JPEG or PNG.
    """
    preprocessing.check_photographs()
    image_bytes = tf.convert_to_tensor(image_bytes, tf.string)
    return _normalised(tf.cast(_decoded_and_cropped(image_bytes, preprocessing), tf.float32), preprocessing)


@tf.function(autograph=False)  # also for eager callers: only in a graph do the turns of the loop run side by side
def _decoded_and_cropped(image_bytes: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    """String [B] -> uint8 [B, crop, crop, C]. Each image has its own size: before the crop there is no batch."""

    def one(encoded: tf.Tensor) -> tf.Tensor:
        return tf.cast(_cropped(decode(encoded)[tf.newaxis], preprocessing)[0], tf.uint8)

    signature = tf.TensorSpec([preprocessing.crop, preprocessing.crop, preprocessing.channels], tf.uint8)
    return tf.map_fn(one, image_bytes, fn_output_signature=signature, parallel_iterations=32)


def decode(encoded: tf.Tensor) -> tf.Tensor:
    """One JPEG or PNG, a string scalar -> uint8 [H, W, 3], RGB."""
    # This operation reads PNG as well. The accurate transform is what Pillow decodes with; TensorFlow's default is not.
    return tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")


def grey(images: tf.Tensor) -> tf.Tensor:
    """Uint8 [..., 3], RGB -> uint8 [..., 1], rounded as by Pillow's `convert("L")`."""
    red, green, blue = tf.unstack(tf.cast(images, tf.int32), axis=-1)
    levels = (19595 * red + 38470 * green + 7471 * blue + 0x8000) // 0x10000
    return tf.cast(levels, tf.uint8)[..., tf.newaxis]


def _cropped(images: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    """Resized and cropped, whole levels as float32. What the crop leaves out is never computed."""
    crop, kernel = preprocessing.crop, _KERNELS[preprocessing.interpolation]
    size = tf.cast(tf.shape(images)[1:3], tf.int64)
    resized = preprocessing.resize * size // tf.reduce_min(size)
    border = resized - crop
    first = border // 2 + border % 2 * (border // 2 % 2)  # half of it, halves to the even number

    # The part of the image that the crop depends on, with a pixel to spare. Positions in float64: an image may be long.
    step = tf.cast(size, tf.float64) / tf.cast(resized, tf.float64)
    reach = _SUPPORT * tf.maximum(step, 1.0) + 1
    start = tf.maximum(tf.cast(tf.floor(tf.cast(first, tf.float64) * step - reach), tf.int64), 0)
    end = tf.minimum(tf.cast(tf.math.ceil(tf.cast(first + crop, tf.float64) * step + reach), tf.int64), size)
    images = images[:, start[0] : end[0], start[1] : end[1]]
    if preprocessing.channels == 1:
        images = grey(images)

    scale = tf.cast(1 / step, tf.float32)
    offset = tf.cast(tf.cast(start, tf.float64) / step - tf.cast(first, tf.float64), tf.float32)
    # Columns first, as Pillow. They are turned into rows: TensorFlow adds up rows whole, and columns number by number.
    x = _first_axis(tf.transpose(images, [0, 2, 1, 3]), crop, scale[1], offset[1], kernel)
    return _first_axis(tf.transpose(x, [0, 2, 1, 3]), crop, scale[0], offset[0], kernel)


def _first_axis(x: tf.Tensor, size: int, scale: tf.Tensor, offset: tf.Tensor, kernel: str) -> tf.Tensor:
    """[B, N, M, C] -> [B, size, M, C], by whole levels: position p goes to scale * p + offset."""
    length, width, channels = tf.shape(x)[1], tf.shape(x)[2], x.shape[3]
    resampled = tf.raw_ops.ScaleAndTranslate(
        images=tf.reshape(x, [-1, length, 1, width * channels]),  # all else is channels to it
        size=[size, 1],
        scale=[scale, 1.0],
        translation=[offset, 0.0],
        kernel_type=kernel,
        antialias=True,
    )
    # Halves up, as Pillow does; a cubic overshoots. Exact halves, common where the scale is a ratio of small numbers,
    # come out of float32 up to 3e-5 too low.
    levels = tf.clip_by_value(tf.floor(resampled + (0.5 + 5e-5)), 0.0, 255.0)
    return tf.reshape(levels, [-1, size, width, channels])


def _normalised(pixels: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    return (pixels - tf.constant(preprocessing.mean)) / tf.constant(preprocessing.std)
