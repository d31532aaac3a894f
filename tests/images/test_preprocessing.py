"""The preprocessing graph against Pillow: for every sort of size, eagerly, in tf.data and as a graph."""

import io

import impossible
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from utils.errors import ParameterError
from utils.families.variants import Preprocessing, get_variant
from utils.images.photographs import any_channels, levels, load_image, pillow_preprocess, sample_files
from utils.images.preprocessing import grey, preprocess, preprocess_bytes

VARIANTS = ("convmixer_768_32", "mixer_b16_sam")  # which crop differently
# Both sides round to whole levels after each of two passes, from numbers that differ in their seventh digit. A value
# that close to a half may fall on either side, once a pass. That is rare: about one value in ten thousand.
MAX_LEVELS, MEAN_LEVELS = 2.001, 0.005
SIZES = {
    "wide": (601, 300),
    "tall": (299, 500),
    "square": (401, 401),
    "exact": (233, 233),
    "odd borders": (263, 256),
    "very wide": (3000, 40),
    "very tall": (30, 2600),
    "smaller than the crop": (61, 47),
    "one pixel": (1, 1),
    "one row": (90, 1),
    "large": (1600, 1200),
}


def photograph(size):
    return load_image(io.BytesIO(sample_files()["coffee"])).resize(size, Image.Resampling.BICUBIC)


def difference(found, expected, settings):
    return np.abs(levels(np.asarray(found), settings) - levels(expected, settings))


def assert_alike(found, expected, settings):
    assert found.dtype == tf.float32
    assert found.shape == expected.shape
    error = difference(found, expected, settings)
    assert error.max() <= MAX_LEVELS
    assert error.mean() <= MEAN_LEVELS


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_image_of_any_size_becomes_what_pillow_makes_of_it(variant, size):
    settings, image = get_variant(variant).preprocessing, photograph(size)
    found = preprocess(np.asarray(image)[np.newaxis], settings)
    assert_alike(found[0], pillow_preprocess(image, settings), settings)


def test_jpeg_files_of_different_sizes_become_what_pillow_makes_of_them():
    settings, files = get_variant("mixer_b16_sam").preprocessing, sample_files()
    found = preprocess_bytes(tf.constant(list(files.values())), settings)
    for image, file in zip(found, files.values(), strict=True):
        assert_alike(image, pillow_preprocess(load_image(io.BytesIO(file)), settings), settings)


def test_random_sizes_are_rounded_and_cropped_as_pillow_s():
    """Another rounding of the longer side or of the border shifts the whole image: no tolerance would hide it."""
    rng, settings = np.random.default_rng(0), Preprocessing(33, 28, (0.0,) * 3, (1.0,) * 3)
    for width, height in rng.integers(20, 200, (20, 2)):
        image = photograph((width, height))
        found = preprocess(np.asarray(image)[np.newaxis], settings)
        assert_alike(found[0], pillow_preprocess(image, settings), settings)


def test_bilinear_is_pillow_s_too():
    settings, image = Preprocessing(60, 50, (0.0,) * 3, (1.0,) * 3, "bilinear"), photograph((333, 222))
    assert_alike(preprocess(np.asarray(image)[None], settings)[0], pillow_preprocess(image, settings), settings)


GREY = Preprocessing(60, 50, (120.0,), (60.0,))


def test_every_colour_becomes_pillow_s_grey():
    levels = np.arange(256, dtype=np.uint8)
    for red in range(256):
        colours = np.stack(np.broadcast_arrays(np.uint8(red), levels[:, None], levels), axis=-1)
        np.testing.assert_array_equal(grey(colours)[..., 0], np.asarray(Image.fromarray(colours).convert("L")))


@pytest.mark.parametrize("size", [SIZES["wide"], SIZES["tall"], SIZES["one pixel"], SIZES["smaller than the crop"]])
def test_for_a_model_of_one_channel_an_image_is_made_grey_first(size):
    image = photograph(size)
    expected = pillow_preprocess(image, GREY)
    assert expected.shape == (50, 50, 1)
    np.testing.assert_array_equal(pillow_preprocess(image.convert("L"), GREY), expected)
    assert_alike(preprocess(np.asarray(image)[None], GREY)[0], expected, GREY)
    assert_alike(preprocess_bytes(tf.constant([encoded(image, "PNG")]), GREY)[0], expected, GREY)
    grey_file = encoded(image.convert("L"), "PNG")
    assert_alike(preprocess_bytes(tf.constant([grey_file]), GREY)[0], expected, GREY)


def test_grey_last_would_be_another_image():
    rgb, image = Preprocessing(60, 50, (0.0,) * 3, (1.0,) * 3), photograph((333, 222))
    last = np.asarray(Image.fromarray(pillow_preprocess(image, rgb).astype(np.uint8)).convert("L"))
    assert np.count_nonzero(levels(pillow_preprocess(image, GREY), GREY)[..., 0].round() != last) > 100


def test_inputs_for_comparing_have_a_photograph_s_channels_again_and_again():
    mean, std = tuple(map(float, range(10, 15))), tuple(map(float, range(1, 6)))
    settings, image = Preprocessing(60, 50, mean, std), photograph((333, 222))
    rgb = pillow_preprocess(image, Preprocessing(60, 50, (0.0,) * 3, (1.0,) * 3))
    found = any_channels(image, settings)
    for channel, (m, s) in enumerate(zip(mean, std, strict=True)):
        np.testing.assert_allclose(found[..., channel], (rgb[..., channel % 3] - m) / s, rtol=1e-6)
    np.testing.assert_array_equal(any_channels(image, GREY), pillow_preprocess(image, GREY))


def test_a_batch_is_its_images_one_by_one():
    settings = get_variant("convmixer_tiny").preprocessing
    images = np.stack([np.asarray(photograph((90, 70))), np.asarray(photograph((90, 70)).rotate(180))])
    together = preprocess(images, settings)
    for image, found in zip(images, together, strict=True):
        np.testing.assert_array_equal(found, preprocess(image[np.newaxis], settings)[0])
    assert preprocess(images[:0], settings).shape == (0, 48, 48, 3)
    assert preprocess_bytes(tf.constant([], tf.string), settings).shape == (0, 48, 48, 3)


def test_in_tf_data_and_as_a_graph_it_is_the_same_as_eagerly():
    settings, files = get_variant("convmixer_tiny").preprocessing, list(sample_files().values())
    eager = preprocess_bytes(tf.constant(files), settings).numpy()
    data = tf.data.Dataset.from_tensor_slices(files).batch(2).map(lambda files: preprocess_bytes(files, settings))
    # In a graph the division by a constant becomes a multiplication: a rounding step.
    np.testing.assert_allclose(np.concatenate([batch.numpy() for batch in data]), eager, rtol=1e-6)
    graph = tf.function(lambda files: preprocess_bytes(files, settings))
    np.testing.assert_allclose(graph(tf.constant(files)), eager, rtol=1e-6)
    assert next(iter(data)).shape[1:] == (48, 48, 3)
    assert data.element_spec.shape.as_list() == [None, 48, 48, 3]  # static, as models want it


@pytest.mark.parametrize(("settings", "message"), impossible.PREPROCESSING)
def test_impossible_settings_are_errors(settings, message):
    for prepare, images in (
        (preprocess, np.zeros((1, 9, 9, 3), np.uint8)),
        (preprocess_bytes, tf.constant([b""])),
        (pillow_preprocess, photograph((9, 9))),
    ):
        with pytest.raises(ParameterError, match=message):
            prepare(images, settings)


def encoded(image, form, **options):
    image.save(file := io.BytesIO(), form, **options)
    return file.getvalue()


def rotated():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    return encoded(photograph((90, 60)), "JPEG", exif=exif, quality=95)


def sixteen_bit_grey():
    ramp = np.linspace(0, 65535, 60 * 90).astype(np.uint16).reshape(60, 90)
    return encoded(Image.fromarray(ramp), "PNG")


ODD_FILES = {
    "progressive JPEG": lambda: encoded(photograph((90, 60)), "JPEG", progressive=True),
    "grey JPEG": lambda: encoded(photograph((90, 60)).convert("L"), "JPEG"),
    "CMYK JPEG": lambda: encoded(photograph((90, 60)).convert("CMYK"), "JPEG"),
    "JPEG of 4:4:4": lambda: encoded(photograph((91, 61)), "JPEG", subsampling=0),
    "PNG": lambda: encoded(photograph((90, 60)), "PNG"),
    "black and white PNG": lambda: encoded(photograph((90, 60)).convert("1"), "PNG"),
    "palette PNG": lambda: encoded(photograph((90, 60)).quantize(32), "PNG"),
    "palette with transparency": lambda: encoded(photograph((90, 60)).quantize(32), "PNG", transparency=3),
    "alpha": lambda: encoded(
        Image.merge("RGBA", (*photograph((90, 60)).split(), Image.linear_gradient("L").resize((90, 60)))), "PNG"
    ),
    "grey and alpha": lambda: encoded(photograph((90, 60)).convert("LA"), "PNG"),
    "16-bit grey": sixteen_bit_grey,
    "GIF": lambda: encoded(photograph((90, 60)).quantize(32), "GIF"),
}


@pytest.mark.parametrize("file", ODD_FILES.values(), ids=ODD_FILES)
def test_odd_files_as_bytes_are_what_pillow_reads(file):
    settings, content = get_variant("convmixer_tiny").preprocessing, file()
    found = preprocess_bytes([content], settings)[0]
    assert_alike(found, pillow_preprocess(load_image(io.BytesIO(content)), settings), settings)


def test_bytes_are_taken_as_stored_whatever_exif_says_of_their_orientation():
    """The known difference from Pillow's way, which turns them: docs/serving.md says so."""
    settings, content = get_variant("convmixer_tiny").preprocessing, rotated()
    found = preprocess_bytes([content], settings)[0]
    assert_alike(found, pillow_preprocess(Image.open(io.BytesIO(content)), settings), settings)
    assert difference(found, pillow_preprocess(load_image(io.BytesIO(content)), settings), settings).mean() > 10


def moving():
    frames = [photograph((90, 60)).quantize(32), photograph((90, 60)).rotate(180).quantize(32)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    "file",
    [
        *(lambda form=form: encoded(photograph((90, 60)), form) for form in ("BMP", "WEBP", "TIFF")),
        moving,
        *(lambda content=content: content for content in (b"", b"no image", sample_files()["rocket"][:2000])),
    ],
    ids=["BMP", "WEBP", "TIFF", "moving GIF", "empty", "no image", "cut short"],
)
def test_bytes_of_other_formats_or_of_no_whole_image_are_refused(file):
    with pytest.raises(tf.errors.InvalidArgumentError):
        preprocess_bytes([file()], get_variant("convmixer_tiny").preprocessing)
