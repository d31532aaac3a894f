"""Arrays into the files that trainers read: `.npz`, and `.safetensors`. The same arrays give the same bytes."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from typing import BinaryIO

import numpy as np

METADATA = "mixers"  # of a .safetensors file: what it was made from; the only key, as the library shuffles several


def write_npz(file: BinaryIO, arrays: Iterable[tuple[str, np.ndarray]], comment: str = "") -> None:
    """Uncompressed, one array in memory at a time. comment: of the zip archive, which NumPy leaves alone."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        archive.comment = comment.encode()
        for key, array in arrays:
            # ZipFile.open with a name alone dates the member 1980: the bytes do not depend on the clock.
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def write_safetensors(file: BinaryIO, arrays: Mapping[str, np.ndarray], comment: str = "") -> None:
    """All arrays, contiguous, and the comment as `METADATA`."""
    import safetensors.numpy

    file.write(safetensors.numpy.save(dict(arrays), {METADATA: comment}))
