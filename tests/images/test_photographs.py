"""Image files to arrays, by the Pillow reference."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from utils.errors import ParameterError
from utils.families.variants import VARIANTS, Preprocessing
from utils.images.photographs import SUFFIXES, load_image, pillow_preprocess

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


@pytest.mark.parametrize("variant", ["convmixer_768_32", "mixer_b16_sam"])
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


def test_an_odd_border_is_split_with_halves_to_the_even_number():
    image = gradient(13, 8)  # (13 - 8) / 2 = 2.5 -> 2
    found = pillow_preprocess(image, PLAIN)
    np.testing.assert_array_equal(found, np.asarray(image, dtype=np.float32)[:, 2:10])


def test_exif_rotation_is_applied(tmp_path):
    image, path = gradient(16, 8), tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    image.save(path, exif=exif, quality=95)
    loaded = load_image(path)
    assert loaded.size == (8, 16)
    assert np.asarray(loaded)[:, :, 0].std(axis=0).mean() > 50  # red now grows downwards


def exif_of(orientation: int, tags: list[tuple[int, int, int]]) -> bytes:
    """Little-endian EXIF with these tags, each (tag, type, count), of nonsense, beside the orientation."""
    entries = [(0x0112, struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0))]
    entries += [(tag, struct.pack("<HHII", tag, kind, count, 8)) for tag, kind, count in tags]
    directory = b"".join(entry for _, entry in sorted(entries))
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(64)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of the damage
@pytest.mark.parametrize("orientation", range(1, 9))
def test_no_other_tag_of_exif_keeps_a_photograph_from_being_read_upright(orientation):
    stored, plain = gradient(16, 8), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(plain, "PNG", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(plain)))
    for tag in (0x010F, 0x0100, 0x0132, 0x8769, 0x8825, 0x9286, 0xA005, 0xC4A5):
        for kind in range(14):
            for count in (0, 1, 3, 2**31):
                file = io.BytesIO()
                stored.save(file, "PNG", exif=exif_of(orientation, [(tag, kind, count)]))
                np.testing.assert_array_equal(np.asarray(load_image(file)), expected, err_msg=f"{tag, kind, count}")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("exif", [b"", b"Exif", b"Exif\0\0II*\0\xff\xff\xff\xff", exif_of(77, []), b"\0" * 9])
def test_damaged_exif_leaves_the_photograph_as_it_is(exif):
    file = io.BytesIO()
    gradient(16, 8).save(file, "PNG", exif=exif)
    assert load_image(file).size == (16, 8)


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        *(
            (".heic", "HEIF"),
            (".HEIF", "HEIF"),
            (".avif", "AVIF"),
            (".jfif", "JPEG"),
            (".jpe", "JPEG"),
            (".ppm", "PPM"),
        ),
        *((".jp2", "JPEG2000"), (".qoi", "QOI"), (".mpo", "MPO")),
    ],
)
def test_the_photographs_of_phones_and_tools_are_read(tmp_path, ending, kind):
    assert ending.lower() in SUFFIXES
    path = tmp_path / f"photograph{ending}"
    gradient(64, 32).save(path, kind)
    np.testing.assert_allclose(np.asarray(load_image(path)), np.asarray(gradient(64, 32)), atol=40)


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


PHOTOGRAPH = (IMAGES / "chelsea.jpg").read_bytes()
BAD_FILES = {
    "absent.jpg": (None, "no such file"),
    "empty.jpg": (b"", "not an image that can be read"),
    "page.jpg": (b"<!DOCTYPE html><html>Not Found</html>", "not an image that can be read"),
    "truncated.jpg": (PHOTOGRAPH[: len(PHOTOGRAPH) // 2], "cannot be decoded"),
    "header_only.jpg": (PHOTOGRAPH[:40], "cannot be decoded|not an image"),
    # Pillow would know it, and start Ghostscript.
    "script.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "Expected one of: JPEG"),
    "hollow.png": (png_claiming(20, 20), "cannot be decoded"),
    "bomb.png": (png_claiming(10_000, 10_000), "pixels"),  # above the limit: Pillow only warns
    "large_bomb.png": (png_claiming(60_000, 60_000), "pixels"),  # above twice the limit: Pillow refuses
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_image_file_is_an_error_that_names_it(tmp_path, name):
    content, message = BAD_FILES[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ParameterError, match=f"{name}.*({message})"):
        load_image(tmp_path / name)


def test_a_long_thin_image_is_refused_before_it_fills_the_memory():
    with pytest.raises(ParameterError, match="too long and thin"):
        pillow_preprocess(Image.new("RGB", (500_000, 1)), VARIANTS["convmixer_768_32"].preprocessing)
