"""Image files to arrays, by the Pillow reference."""

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import impossible
import numpy as np
import pytest
from PIL import Image

from utils.errors import ParameterError
from utils.images.photographs import load_image, pillow_preprocess
from utils.models.variants import VARIANTS, Preprocessing

IMAGES = Path(__file__).parents[2] / "assets" / "images"
PLAIN = Preprocessing(resize=8, crop=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def gradient(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards: shows any shift, flip or swap of axes."""
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([columns * 255 // max(width - 1, 1), rows * 255 // max(height - 1, 1), rows * 0], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def png_claiming(width: int, height: int) -> bytes:
    """A small PNG whose header claims a huge picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("variant", ["convmixer_768_32", "mixer_b16_sam", "convmixer_tiny"])
@pytest.mark.parametrize("path", sorted(IMAGES.glob("*.jpg")), ids=lambda path: path.stem)
def test_photographs_become_what_torchvision_transforms_make_of_them(path, variant):
    """The rules of torchvision 0.2x, spelt out apart from the code under test."""
    settings = VARIANTS[variant].preprocessing
    image = load_image(path)
    width, height = image.size
    if width < height:
        size = (settings.resize, int(settings.resize * height / width))
    else:
        size = (int(settings.resize * width / height), settings.resize)
    resized = np.asarray(image.resize(size, Image.Resampling.BICUBIC), dtype=np.float64)  # all are wide
    top = round((resized.shape[0] - settings.crop) / 2.0)
    left = round((resized.shape[1] - settings.crop) / 2.0)
    cropped = resized[top : top + settings.crop, left : left + settings.crop]
    expected = (cropped - np.array(settings.mean)) / np.array(settings.std)

    found = pillow_preprocess(image, settings)

    assert found.dtype == np.float32
    assert found.shape == (settings.crop, settings.crop, 3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("crop", [32, 96, 224, 288])
def test_any_crop_size_works(crop):
    settings = Preprocessing(resize=crop + 9, crop=crop, mean=(127.5,) * 3, std=(127.5,) * 3)
    found = pillow_preprocess(gradient(301, 200), settings)
    assert found.shape == (crop, crop, 3)
    assert -1 <= found.min() < found.max() <= 1


def test_rows_stay_rows_and_the_crop_is_central():
    found = pillow_preprocess(gradient(400, 100), Preprocessing(100, 50, (0.0,) * 3, (1.0,) * 3))
    red, green = found[..., 0], found[..., 1]
    assert (np.diff(red, axis=1) >= 0).all()
    assert (np.diff(red, axis=0) == 0).all()
    assert (np.diff(green, axis=0) >= 0).all()
    assert (np.diff(green, axis=1) == 0).all()
    assert red.mean() == pytest.approx(127.5, abs=1)
    assert green.mean() == pytest.approx(127.5, abs=2)
    assert np.ptp(red) < np.ptp(green) / 3  # an eighth of the width, half of the height


def test_an_odd_border_is_split_with_halves_to_the_even_number():
    image = gradient(13, 8)  # (13 - 8) / 2 = 2.5 -> 2
    found = pillow_preprocess(image, PLAIN)
    np.testing.assert_array_equal(found, np.asarray(image, dtype=np.float32)[:, 2:10])


def test_shrinking_averages_so_that_a_fine_pattern_turns_grey():
    checks = (np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)
    found = pillow_preprocess(Image.fromarray(np.stack([checks] * 3, axis=-1)), PLAIN)
    assert np.abs(found - 127.5).max() < 3  # without antialiasing every value would be 0 or 255


def test_exif_rotation_is_applied(tmp_path):
    image, path = gradient(16, 8), tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    image.save(path, exif=exif, quality=95)
    loaded = load_image(path)
    assert loaded.size == (8, 16)
    assert np.asarray(loaded)[:, :, 0].std(axis=0).mean() > 50  # red now grows downwards


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_other_pixel_types_become_rgb(tmp_path, mode):
    path = tmp_path / ("image.tiff" if mode == "CMYK" else "image.png")
    gradient(12, 10).convert(mode).save(path)
    loaded = load_image(path)
    assert loaded.mode == "RGB"
    assert loaded.size == (12, 10)
    assert np.ptp(np.asarray(loaded)) > 100


def test_sixteen_bit_grey_keeps_its_shades(tmp_path):
    path = tmp_path / "grey16.png"
    Image.fromarray(np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)).save(path)
    loaded = np.asarray(load_image(path))[..., 0]
    assert np.unique(loaded).size == 64
    assert loaded.max() == 255


def bad_files() -> dict[str, bytes]:
    photograph = (IMAGES / "chelsea.jpg").read_bytes()
    return {
        "empty.jpg": b"",
        "page.jpg": b"<!DOCTYPE html><html>Not Found</html>",
        "truncated.jpg": photograph[: len(photograph) // 2],
        "header_only.jpg": photograph[:40],
        "script.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "hollow.png": png_claiming(20, 20),
        "bomb.png": png_claiming(10_000, 10_000),  # above the limit: Pillow only warns
        "large_bomb.png": png_claiming(60_000, 60_000),  # above twice the limit: Pillow refuses
    }


@pytest.mark.parametrize("name", bad_files())
def test_a_bad_image_file_is_an_error_that_names_it(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(bad_files()[name])
    with pytest.raises(ParameterError, match=name) as caught:
        load_image(path)
    assert ("pixels" in str(caught.value)) == ("bomb" in name)


def test_a_format_that_starts_another_program_is_not_even_opened(tmp_path):
    path = tmp_path / "script.eps"
    path.write_bytes(bad_files()["script.eps"])
    with pytest.raises(ParameterError, match="Expected one of: JPEG"):  # Pillow itself would know it as EPS
        load_image(path)


def test_a_missing_image_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ParameterError, match=r"nowhere\.jpg"):
        load_image(tmp_path / "nowhere.jpg")


def test_a_long_thin_image_is_refused_before_it_fills_the_memory():
    with pytest.raises(ParameterError, match="too long and thin"):
        pillow_preprocess(Image.new("RGB", (500_000, 1)), VARIANTS["convmixer_768_32"].preprocessing)


@pytest.mark.parametrize(("settings", "message"), impossible.PREPROCESSING)
def test_impossible_settings_are_errors(settings, message):
    with pytest.raises(ParameterError, match=message):
        pillow_preprocess(gradient(9, 9), settings)


def test_importing_photographs_imports_no_framework():
    code = "import sys, utils.images.photographs; print({'tensorflow', 'torch', 'jax'} & set(sys.modules))"
    root = Path(__file__).parents[2]
    assert subprocess.check_output([sys.executable, "-c", code], cwd=root, text=True).strip() == "set()"
