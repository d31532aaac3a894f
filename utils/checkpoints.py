"""From a checkpoint, wherever it is, to a complete and checked dict of NumPy arrays.

Reading trusts nothing: no pickle is executed, no archive is unpacked that is bigger than it should be, and
every missing, surplus, misshapen, wrongly typed or non-finite entry is named.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from utils import synthetic
from utils.archives import format_of, regular_file
from utils.download import SUFFIXES, cache_folder, fetch, official_name, recorded_sha256, sha256_of, write_record
from utils.errors import CheckpointError, ParameterError
from utils.layouts import COUNTER, Shapes, expected_shapes, sequential_keys
from utils.npz_file import NpzFile
from utils.problems import Problems
from utils.torch_file import read_state_dict
from utils.variants import NOTEBOOKS, VARIANTS, Variant

# A trainer may put an optimiser's two moments and an average of the weights beside them, hardly more.
_TORCH_COPIES = 4
_TORCH_SLACK_BYTES = 16 << 20
_FAMILIES = {"torch": "convmixer", "torch legacy": "convmixer", "npz": "mixer"}


@dataclass(frozen=True)
class Checkpoint:
    """A local file; `weights` is "official", "synthetic" or "custom", and `url` is known if official."""

    path: Path
    weights: str
    url: str | None
    sha256: str


def resolve(
    variant: Variant,
    checkpoint: str | os.PathLike,
    seed: int,
    cache_dir: str | os.PathLike | None = None,
    progress: bool = True,
) -> Checkpoint:
    """Turns the notebook parameter ("official", "synthetic" or a path) into a local file.

    `seed` is that of synthetic weights. Raises ParameterError for a parameter that makes no sense,
    CheckpointUnavailable if the official file cannot be fetched, CheckpointError if a file is missing or not
    what it should be.
    """
    if not isinstance(checkpoint, str | os.PathLike) or not str(checkpoint).strip():
        raise ParameterError(
            f'checkpoint = {checkpoint!r} is not known. Choose "official", "synthetic" or the path of a file.'
        )
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ParameterError(f"seed = {seed!r} is not an integer from 0 to {2**32 - 1}.")
    if checkpoint == "official":
        download = fetch(variant, cache_dir, progress)
        return Checkpoint(download.path, "official", download.url, download.sha256)
    if checkpoint == "synthetic":
        return _synthetic_checkpoint(variant, seed, cache_folder(cache_dir))
    path = regular_file(checkpoint)
    return Checkpoint(path, "custom", None, sha256_of(path))


def recorded_hashes(
    variant: Variant, checkpoint: str, seed: int, cache_dir: str | os.PathLike | None = None
) -> set[str]:
    """SHA-256 that the cache has on record for "official" or "synthetic", without a look at the files; may be none."""
    folder = cache_folder(cache_dir)
    if checkpoint == "synthetic":
        paths = [folder / _synthetic_name(variant, seed)]
    else:
        paths = [folder / official_name(variant, source) for source in variant.sources]
    return {sha256 for path in paths if (sha256 := recorded_sha256(path))}


def read_convmixer(path: str | os.PathLike, variant: Variant, drop: Collection[str] = ()) -> dict[str, np.ndarray]:
    """Reads a PyTorch checkpoint, in either key layout, into the canonical keys; float32, counters int64.

    The arrays may be views of the file mapped into memory. `drop` names keys, exactly, that are neither
    needed nor returned (`layouts.HEAD_KEYS` for a feature extractor). Raises CheckpointError for anything
    that is not as the variant's architecture asks, ParameterError for an unknown key in `drop`.
    """
    path, wanted = regular_file(path), _wanted(variant, "convmixer", drop)
    _require_family(path, variant)
    # The largest of the family, so that another variant's file is told by its shapes, not by its size.
    largest = max(_bytes(expected_shapes(other)) for other in VARIANTS.values() if other.family == variant.family)
    entries = read_state_dict(path, _TORCH_COPIES * largest + _TORCH_SLACK_BYTES, _bytes(expected_shapes(variant)))
    shapes = {key: tuple(getattr(value, "shape", ())) for key, value in entries.items()}
    problems = Problems(path, variant, _resembled(variant, shapes))
    entries = _canonical(entries, variant)
    problems.compare_keys(entries, wanted, drop)
    arrays = {}
    for key in wanted:
        if key in entries:
            arrays[key] = _array(problems, key, entries[key], wanted[key])
    problems.raise_if_any()
    return arrays


def read_mixer(path: str | os.PathLike, variant: Variant, drop: Collection[str] = ()) -> dict[str, np.ndarray]:
    """Reads an .npz with flat Flax keys, one float32 array at a time; else as `read_convmixer`."""
    path, wanted = regular_file(path), _wanted(variant, "mixer", drop)
    _require_family(path, variant)
    file = NpzFile(path)
    shapes = {key: shape for key, (shape, _) in file.headers.items()}
    problems = Problems(path, variant, _resembled(variant, shapes))
    problems.compare_keys(file.headers, wanted, drop)
    for key in wanted:
        if key in file.headers:
            problems.compare_array(key, (wanted[key], "float32"), file.headers[key])
    problems.raise_if_any()  # before anything big is unpacked
    arrays = {}
    for key, array in file.read(list(wanted), _bytes(expected_shapes(variant))):
        problems.check_values(key, array)
        arrays[key] = array
    problems.raise_if_any()
    return arrays


def _synthetic_checkpoint(variant: Variant, seed: int, folder: Path) -> Checkpoint:
    """The synthetic file of this variant and seed, written at the first use, or again if it was changed."""
    write = {"convmixer": synthetic.write_convmixer, "mixer": synthetic.write_mixer}[variant.family]
    path = folder / _synthetic_name(variant, seed)
    sha256 = sha256_of(path) if path.is_file() else None
    if sha256 is None or recorded_sha256(path) != sha256:
        write(variant, path, seed)
        sha256 = sha256_of(path)
        write_record(path, f"synthetic, seed {seed}", sha256, path.stat().st_size)
    return Checkpoint(path, "synthetic", None, sha256)


def _synthetic_name(variant: Variant, seed: int) -> str:
    layout = {"convmixer": "timm", "mixer": "flax"}[variant.family]
    return f"{variant.name}.synthetic-v{synthetic.FORMAT_VERSION}-seed{seed}{SUFFIXES[layout]}"


def _wanted(variant: Variant, family: str, drop: Collection[str]) -> Shapes:
    if variant.family != family:
        raise ParameterError(
            f"variant = {variant.name!r} is of the {variant.family} family, and this reads {family} "
            f"checkpoints. Use {NOTEBOOKS[variant.family]} for it."
        )
    shapes = expected_shapes(variant)
    unknown = [key for key in drop if key not in shapes]
    if unknown:
        raise ParameterError(f"drop names keys that {variant.name} does not have: {', '.join(unknown)}.")
    return {key: shape for key, shape in shapes.items() if key not in drop}


def _require_family(path: Path, variant: Variant) -> None:
    found = format_of(path)
    if _FAMILIES[found] != variant.family:
        raise CheckpointError(
            f"{path}: this is a {'PyTorch' if 'torch' in found else 'NumPy (.npz)'} file, and {variant.name} "
            f"needs the other kind. For {_FAMILIES[found]} checkpoints use {NOTEBOOKS[_FAMILIES[found]]}."
        )


def _bytes(shapes: Shapes) -> int:
    return sum(prod(shape) * (8 if key.endswith(COUNTER) else 4) for key, shape in shapes.items())


def _canonical(entries: Mapping[str, Any], variant: Variant) -> dict[str, Any]:
    """The same entries under canonical keys; a key of neither layout stays as it is, to be reported."""
    if variant.family == "convmixer" and "0.weight" in entries:
        names = sequential_keys(variant.architecture)
        return {names.get(key, key): value for key, value in entries.items()}
    return dict(entries)


def _resembled(variant: Variant, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Names of other variants whose keys and shapes are exactly those of the file."""
    return [
        other.name
        for other in VARIANTS.values()
        if other.family == variant.family
        and expected_shapes(other) != expected_shapes(variant)
        and _canonical(shapes, other) == expected_shapes(other)
    ]


def _array(problems: Problems, key: str, value: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    """A tensor of the file as an array, or None, with the reason noted."""
    import torch

    wanted = "int64" if key.endswith(COUNTER) else "float32"
    if not isinstance(value, torch.Tensor):
        problems.add("wrongly typed", f"{key}: expected a {wanted} tensor, found {type(value).__name__}")
        return None
    found = str(value.dtype).removeprefix("torch.")
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        found += " (sparse, quantised or without values)"
    if not problems.compare_array(key, (shape, wanted), (tuple(value.shape), found)):
        return None
    array = np.ascontiguousarray(value.detach().numpy()).reshape(shape)
    problems.check_values(key, array)
    return array
