"""From an image file to the array that a model takes: the Pillow reference, as the source projects evaluate.

Image files come from anywhere, so reading them is guarded: known formats only, no decompression bombs.
"""

from __future__ import annotations

import io
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pillow_heif
from PIL import ExifTags, Image

from utils.errors import ParameterError
from utils.families.variants import Preprocessing
from utils.text import printed

SAMPLES = Path(__file__).resolve().parents[2] / "assets" / "images"
# Pillow also opens formats that start another program (EPS starts Ghostscript) or hold no photographs.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "QOI", "AVIF", "HEIF")
pillow_heif.register_heif_opener()
# MPO: several JPEG pictures in one file, as some cameras write them.
SUFFIXES = tuple(ending for ending, kind in Image.registered_extensions().items() if kind in (*FORMATS, "MPO"))
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
# By the EXIF orientation: what turns the stored picture upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def sample_files() -> dict[str, bytes]:
    """The photographs that come with the repository as JPEG files, by name; no two have the same size."""
    return {path.stem: path.read_bytes() for path in sorted(SAMPLES.glob("*.jpg"))}


def sample_photographs(count: int | None = None) -> dict[str, Image.Image]:
    """The first `count` of them, or all, read; none is square."""
    return {name: load_image(io.BytesIO(file)) for name, file in list(sample_files().items())[:count]}


def load_image(file: str | PathLike | BinaryIO, name: str = "") -> Image.Image:
    """Reads a photograph as an upright RGB image: EXIF orientation applied, alpha dropped, 16 bits cut to 8.

    Of a moving picture, the first frame. name: what errors call the file, if it is not a path. ParameterError for a
    missing file, one that is no image, a damaged one, or one of more pixels than Pillow's limit
    (`Image.MAX_IMAGE_PIXELS`), beyond which it suspects a decompression bomb.
    """
    name = printed(name or str(file))
    try:
        with Image.open(file, formats=FORMATS) as image:
            # Between one and two times its limit Pillow only warns; here that is as much an error as beyond.
            if image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise Image.DecompressionBombError
            image.load()
            return _to_rgb(_upright(image))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ParameterError(f"image {name}: no such file. Pass the path of an image file.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ParameterError(
            f"image {name} has more than {Image.MAX_IMAGE_PIXELS:,} pixels, the most that is safe to decode. "
            "Pass a smaller copy."
        ) from error
    except Image.UnidentifiedImageError as error:
        raise ParameterError(
            f"image {name} is not an image that can be read. Expected one of: {', '.join(FORMATS)}."
        ) from error
    except Exception as error:  # for damaged files Pillow raises about anything, by format and by where the damage is
        raise ParameterError(
            f"image {name} cannot be decoded ({type(error).__name__}: {printed(str(error))}): damaged, incomplete, or "
            "of a rare kind. Fetch it again or pass another file."
        ) from error


def _upright(image: Image.Image) -> Image.Image:
    """Turned as EXIF says. `ImageOps.exif_transpose` would write all other tags anew, and fail where it cannot."""
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # whatever is wrong with what is said of the pixels, they are there
        return image
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow would clip 16-bit greys at 255, which turns most of them white.
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"pixel type {image.mode!r} has no defined range")
    return image.convert("RGB")


def pillow_preprocess(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Resizes, crops and normalises a photograph: float32 [crop, crop, channels], (x - mean) / std by channel.

    For a model of one channel, made grey first by `convert("L")`. Shorter side to `resize` with Pillow's antialiased
    filter, the longer one to floor(resize * long / short); then the centre crop, whose first row is
    round((height - crop) / 2) with halves to the even number (likewise columns). Both are the rules of torchvision's
    `Resize` and `CenterCrop`, which timm evaluates with.

    ParameterError for settings that make no sense, a model of other channels, or an image too long and thin to resize.
    """
    preprocessing.check_photographs()
    return _normalised(_cropped(image, preprocessing), preprocessing)


def any_channels(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """For comparing a model with its source: as `pillow_preprocess`, and for a model of whatever other channels, too.

    To that, a photograph's three are repeated until there are enough: float32 [crop, crop, channels].
    """
    if preprocessing.takes_photographs:
        return pillow_preprocess(image, preprocessing)
    preprocessing.check()
    rgb = replace(preprocessing, mean=(0.0,) * 3, std=(1.0,) * 3)
    return _normalised(_cropped(image, rgb)[..., np.arange(preprocessing.channels) % 3], preprocessing)


def _cropped(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Levels, float32 [crop, crop, 1 or 3]."""
    width, height = _resized(image.size, preprocessing.resize)
    crop = preprocessing.crop
    # Columns, then rows, as Pillow did when these models came out; since version 13 it takes tall images the other
    # way round, which rounds other values.
    resampling = _RESAMPLING[preprocessing.interpolation]
    image = image.convert("RGB")
    if preprocessing.channels == 1:
        image = image.convert("L")
    resized = image.resize((width, image.height), resampling).resize((width, height), resampling)
    left, top = round((width - crop) / 2), round((height - crop) / 2)
    pixels = np.asarray(resized.crop((left, top, left + crop, top + crop)), dtype=np.float32)
    return pixels.reshape(crop, crop, -1)


def _normalised(pixels: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    mean, std = (np.asarray(values, dtype=np.float32) for values in (preprocessing.mean, preprocessing.std))
    return (pixels - mean) / std


def levels(normalised: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Back from what a model takes to levels of 0 to 255, in which people understand a difference."""
    return normalised * np.float32(preprocessing.std) + np.float32(preprocessing.mean)


def _resized(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    short, long = min(size), max(size)
    longer = int(shorter * long / short)
    if shorter * longer > Image.MAX_IMAGE_PIXELS:
        raise ParameterError(
            f"an image of {size[0]} x {size[1]} pixels is too long and thin: with its shorter side at "
            f"{shorter} the longer one would be {longer:,} pixels. Crop the image first."
        )
    return (shorter, longer) if size[0] <= size[1] else (longer, shorter)
