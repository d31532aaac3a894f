"""Golden inputs, and what the source framework computes on them: small enough to ride in every artefact.

`assets.extra/golden.npz` holds patterns of small integers and the source's outputs. Inputs are expanded from the
patterns by integer arithmetic and one division by a power of two, so that every machine gets the same bits, whatever
its libraries are.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.archives import ArchiveError, Refusal, open_zip, read_npy
from utils.errors import PackagingError
from utils.families.variants import MAX_CHANNELS

GOLDEN = "assets.extra/golden.npz"

# Pixels are (coarse, enlarged to the image + fine, repeated over it) / 32: coarse from photographs and noise, of which
# int8 holds +-4 (normalised photographs reach 2.7), fine so that no two pixels of a patch are alike. 29 and 31 are
# prime, so that the repetition meets no patch's.
_COARSE, _FINE, _STEPS = 32, (29, 31), 32
_MAX_OUTPUTS = 180_000  # bytes: the three images of a classifier of 1,000 classes take 12,000, two of 21,843 175,000
# A file from outside claims no more than this: numbers of all its images, bytes of the outputs and of a pattern.
_MAX_NUMBERS, _MAX_BYTES, _MAX_PATTERN = 3 << 24, 4 << 20, 4 << 20
_ARRAYS = {"coarse": ("int8", 4), "fine": ("int8", 3), "size": ("int32", 1), "outputs": ("float32", 2)}


@dataclass(frozen=True)
class Golden:
    """Patterns int8 [B, h, w, C] and [p, q, C], height and width int32 [2], the source's outputs float32 [B, units]."""

    coarse: np.ndarray
    fine: np.ndarray
    size: np.ndarray
    outputs: np.ndarray

    @property
    def inputs(self) -> np.ndarray:
        """What the outputs belong to: float32 [B, height, width, C], normalised, multiples of 1/32."""
        height, width = (int(side) for side in self.size)
        rows, columns = np.arange(height), np.arange(width)
        enlarged = self.coarse[:, rows * self.coarse.shape[1] // height][:, :, columns * self.coarse.shape[2] // width]
        repeated = self.fine[rows % self.fine.shape[0]][:, columns % self.fine.shape[1]]
        return (enlarged.astype(np.int16) + repeated).astype(np.float32) / np.float32(_STEPS)


def make_golden(
    source: Callable[[np.ndarray], np.ndarray],
    height: int,
    width: int,
    seed: int,
    photographs: Mapping[str, np.ndarray] | None = None,
    channels: int = 3,
) -> Golden:
    """Runs the source on up to two photographs and one image of noise.

    Args:
        source: float32 NHWC -> float64 or float32 [B, units].
        height: of the images, in pixels.
        width: of the images, in pixels.
        seed: of the noise.
        photographs: float32 [height, width, channels], normalised, by name.
        channels: of the images.

    Returns:
        What the source computed; of fewer images where the outputs would take too many bytes.

    Raises:
        PackagingError: where the source gives anything else, or what is not finite; and for more channels than
            `read_golden` takes.
    """
    if channels > MAX_CHANNELS:
        raise PackagingError(f"images of {channels:,} channels: expected {MAX_CHANNELS:,} at most.")
    rng = np.random.default_rng(seed)
    noise = rng.integers(-64, 64, (_COARSE, _COARSE, channels), dtype=np.int8)  # +-2
    images = [*list((photographs or {}).values())[:2], None]
    images = images[: max(1, _MAX_NUMBERS // (height * width * channels))]
    coarse = np.stack([noise if image is None else _coarse(image) for image in images])
    fine = rng.integers(-16, 16, (*_FINE, channels), dtype=np.int8)  # +-0.5
    golden = Golden(coarse, fine, np.array([height, width], np.int32), np.zeros((0, 0), np.float32))
    outputs = np.asarray(source(golden.inputs))
    if (
        outputs.dtype not in (np.float32, np.float64)
        or outputs.ndim != 2
        or len(outputs) != len(coarse)
        or not np.isfinite(outputs).all()
    ):
        raise PackagingError(
            f"golden outputs: expected finite float32 or float64 [{len(coarse)}, units] from the source model, found "
            f"{outputs.dtype} {list(outputs.shape)}. Pass the model as a function of NHWC arrays."
        )
    # Float64 rounded once is the same on every machine; what a framework's own float32 comes to is not.
    outputs = np.ascontiguousarray(outputs, dtype=np.float32)
    count = max(1, min(len(coarse), _MAX_OUTPUTS // (4 * outputs.shape[1])))
    return Golden(coarse[:count], fine, golden.size, outputs[:count])


def _coarse(photograph: np.ndarray) -> np.ndarray:
    height, width, _ = photograph.shape
    rows, columns = (np.arange(_COARSE) * side // _COARSE for side in (height, width))
    return np.clip(np.rint(photograph[rows][:, columns] * _STEPS), -112, 111).astype(np.int8)  # with fine, below +-4


def write_golden(model_dir: Path, golden: Golden) -> Path:
    """Puts the golden data into a SavedModel folder, as `GOLDEN`."""
    path = Path(model_dir) / GOLDEN
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(golden_bytes(golden))
    return path


def golden_bytes(golden: Golden) -> bytes:
    """The golden data as an .npz; the same data give the same bytes (numpy writes no time into it)."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: getattr(golden, name) for name in _ARRAYS})
    return buffer.getvalue()


def read_golden(data: bytes, where: str) -> Golden:
    """The golden data from an .npz's bytes, as if a stranger had made it. PackagingError, naming `where`."""
    expected = f"Expected golden inputs and outputs: {', '.join(_ARRAYS)}. Get the file again."
    limits = {f"{name}.npy": _MAX_BYTES if name == "outputs" else _MAX_PATTERN for name in _ARRAYS}
    with open_zip(io.BytesIO(data), Refusal(where, PackagingError, expected), limits) as archive:
        golden = Golden(**{name: read_npy(archive, name) for name in _ARRAYS})
        _check(golden)
    return golden


def _check(golden: Golden) -> None:
    for name, wanted in _ARRAYS.items():
        array = getattr(golden, name)
        if (array.dtype.name, array.ndim) != wanted:
            raise ArchiveError(f"{name} is {array.dtype} {list(array.shape)}")
    height, width = (int(side) for side in golden.size)
    count, *_, channels = golden.coarse.shape
    numbers = count * height * width * channels  # of the inputs, in float32
    if golden.size.shape != (2,) or not (height > 0 < width and numbers <= _MAX_NUMBERS):
        raise ArchiveError(f"{count} images of {golden.size.tolist()} pixels and {channels} channels make no sense")
    fits = channels == golden.fine.shape[2] and 0 not in golden.coarse.shape + golden.fine.shape
    if not fits or len(golden.coarse) != len(golden.outputs) or not golden.outputs.size:
        raise ArchiveError("its arrays do not fit each other")
    if not np.isfinite(golden.outputs).all():
        raise ArchiveError("its outputs hold NaN or Inf")
