"""Where the photograph to classify comes from: the repository's samples, a path, a URL, or an upload in Colab."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

from utils.errors import ParameterError
from utils.images.photographs import sample_files

UPLOAD = "upload"
MAX_BYTES = 64 << 20  # far above any photograph
_TIMEOUT_SECONDS = (10, 30)  # to connect, and between two pieces
_CHUNK_BYTES = 1 << 16


def read_image_file(image: str) -> tuple[str, io.BytesIO]:
    """A title and the file's bytes, for `photographs.load_image`.

    image: the name of a sample photograph ("chelsea", "coffee", "rocket"), a path, an http or https URL, or "upload",
    which asks for a file in Colab. Raises ParameterError, saying what is not available and why.
    """
    if image in (samples := sample_files()):
        return image, io.BytesIO(samples[image])
    if image == UPLOAD:
        return _uploaded()
    if "://" in image:
        return image.rsplit("/", 1)[-1].split("?")[0] or image, _downloaded(image)
    path = Path(image).expanduser()
    try:
        return path.stem, io.BytesIO(path.read_bytes())
    except OSError as error:
        raise ParameterError(
            f"image {image!r} cannot be read ({error.strerror}). Pass the path or the URL of an image file, or one of: "
            f"{', '.join(samples)}."
        ) from error


def _downloaded(url: str) -> io.BytesIO:
    content = io.BytesIO()
    download(url, content, MAX_BYTES, f"image {url!r}")
    content.seek(0)
    return content


def download(url: str, file: BinaryIO, limit: int, what: str) -> None:
    """Writes what an http or https address answers with to a file, with a bar where it is long.

    Args:
        url: The address.
        file: Open for writing.
        limit: The most bytes that are taken.
        what: Begins the message of a ParameterError: no answer, a bad one, or one that is longer.
    """
    import requests
    from tqdm.auto import tqdm

    try:
        with requests.get(url, stream=True, timeout=_TIMEOUT_SECONDS) as response:
            response.raise_for_status()
            total = int(response.headers.get("Content-Length") or 0)
            with tqdm(total=total, unit="B", unit_scale=True, disable=total < MAX_BYTES) as bar:
                for piece in response.iter_content(_CHUNK_BYTES):
                    file.write(piece)
                    bar.update(len(piece))
                    if file.tell() > limit:
                        raise ParameterError(f"{what} has more than {limit >> 20:,} MiB. Pass a smaller one.")
    except (requests.RequestException, ValueError, OSError) as error:
        if isinstance(error, ParameterError):
            raise
        raise ParameterError(
            f"{what} could not be fetched: {error}. Check the address, or save the file and pass its path."
        ) from error


def _uploaded() -> tuple[str, io.BytesIO]:
    try:
        from google.colab import files
    except ImportError as error:
        raise ParameterError(f"image = {UPLOAD!r} works in Colab only. Pass the path of an image file.") from error
    chosen = files.upload()
    if len(chosen) != 1:
        raise ParameterError(f"image = {UPLOAD!r}: {len(chosen)} files were chosen. Run the cell again and choose one.")
    ((name, content),) = chosen.items()
    return Path(name).stem, io.BytesIO(content)
