"""From a checkpoint, wherever it is, to a complete and checked dict of NumPy arrays.

Reading trusts nothing (see `entries`): every missing, surplus, misshapen, wrongly typed or non-finite entry is named.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from utils.checkpoints import synthetic
from utils.checkpoints.archives import regular_file
from utils.checkpoints.download import (
    SUFFIXES,
    Checkpoint,
    cache_folder,
    fetch,
    official_name,
    recorded_sha256,
    write_record,
)
from utils.checkpoints.entries import Entries, open_entries
from utils.checkpoints.problems import Problems
from utils.errors import CheckpointUnavailable, CheckpointWarning, ParameterError
from utils.families import FAMILIES
from utils.families.base import COUNTER
from utils.families.variants import VARIANTS, Variant, customised
from utils.files import hash_file


def resolve(
    variant: Variant,
    checkpoint: str | os.PathLike,
    seed: int,
    cache_dir: str | os.PathLike | None = None,
    progress: bool = True,
) -> Checkpoint:
    """Turns the notebook parameter ("auto", "official", "synthetic" or a path) into a local file.

    "auto" is the official file, or synthetic weights where that cannot be had, with the reason. One that arrived, but
    is not what was recorded, is no reason to take other weights.

    `seed` is that of synthetic weights. Raises ParameterError for a parameter that makes no sense,
    CheckpointUnavailable if the official file cannot be fetched, CheckpointError if a file is missing or not
    what it should be.
    """
    if not isinstance(checkpoint, str | os.PathLike) or not str(checkpoint).strip():
        raise ParameterError(
            f'checkpoint = {checkpoint!r} is not known. Choose "auto", "official", "synthetic" or the path of a file.'
        )
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ParameterError(f"seed = {seed!r} is not an integer from 0 to {2**32 - 1}.")
    reason = ""
    if checkpoint == "auto" and not variant.sources:
        reason = "there is none, as this variant is for tests and dry runs."
    elif checkpoint in ("auto", "official"):
        try:
            return fetch(variant, cache_dir, progress)
        except CheckpointUnavailable as error:
            if checkpoint == "official":
                raise
            reason = str(error)
    if reason or checkpoint == "synthetic":
        return replace(_synthetic_checkpoint(variant, seed, cache_folder(cache_dir)), reason=reason)
    path = regular_file(checkpoint)
    return Checkpoint(path, "custom", None, hash_file(path))


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


@dataclass(frozen=True)
class Loaded:
    """Checked arrays under canonical keys, the variant that they are, and notes that the user must see.

    arrays: float32, counters int64; they may be views of the file mapped into memory. variant: of a local file, the
    row with the file's own number of classes, and nothing that is known of the official weights alone.
    """

    arrays: dict[str, np.ndarray]
    variant: Variant
    notes: tuple[str, ...]


def load(checkpoint: Checkpoint, variant: Variant, head: str = "classification", use_ema: bool = False) -> Loaded:
    """Reads a checkpoint for a head; "fe" leaves the classifier's arrays out.

    A local file may have any number of classes. `use_ema` takes the moving average of the weights that a trainer left
    beside them. Raises CheckpointError for anything that is not as the architecture asks.
    """
    drop = FAMILIES[variant.family].head_keys if head == "fe" else ()
    return _read(checkpoint.path, variant, drop, use_ema, custom=checkpoint.weights == "custom")


def read(path: str | os.PathLike, variant: Variant, drop: Collection[str] = ()) -> dict[str, np.ndarray]:
    """Reads a file of the variant's family, in any of its formats and key layouts, with the variant's own classes.

    `drop` names keys, exactly, that are neither needed nor returned (`Family.head_keys` for a feature extractor).
    Raises CheckpointError for anything that is not as the variant's architecture asks, ParameterError for an unknown
    key in `drop`; what `Loaded` has as notes is a CheckpointWarning.
    """
    loaded = _read(path, variant, drop)
    for note in loaded.notes:
        warnings.warn(note, CheckpointWarning, stacklevel=2)
    return loaded.arrays


def _read(
    path: str | os.PathLike, variant: Variant, drop: Collection[str], use_ema: bool = False, custom: bool = False
) -> Loaded:
    path = regular_file(path)
    if unknown := [key for key in drop if key not in variant.shapes]:
        raise ParameterError(f"drop names keys that {variant.name} does not have: {', '.join(unknown)}.")
    entries = open_entries(path, variant, use_ema)
    if custom:
        variant = customised(variant, _classes(entries, variant))
    uncounted = _uncounted(entries, variant.shapes) if custom else []
    wanted = {key: shape for key, shape in variant.shapes.items() if key not in (*drop, *uncounted)}
    problems = Problems(path, variant, _resembled(variant, entries))
    problems.compare(entries.headers, wanted, [*drop, *uncounted])
    problems.raise_if_any()  # before anything big is unpacked
    arrays = {}
    for key, array in entries.read(list(wanted)):
        if array.dtype.kind == "f":
            with np.errstate(over="ignore"):  # infinity is named below
                array = array.astype(np.float32, copy=False)
        problems.check_values(key, array)
        arrays[key] = array
    problems.raise_if_any()
    arrays |= {key: np.zeros((), np.int64) for key in uncounted}
    notes = [*entries.notes, *problems.notes()]
    if uncounted:
        notes.append(
            f"{path.name}: {len(uncounted)} counters of batches ({COUNTER}) are missing or no int64 numbers. Nothing "
            "is computed with them: they were set to 0."
        )
    if custom and entries.layout == "timm_mixer":
        notes.append(
            f"{path.name}: timm's Mixer has the exact (erf) GELU; what is made here is the authors' model, which has "
            "the tanh approximation. If timm trained this file, its outputs there differ slightly from those here."
        )
    return Loaded(arrays, variant, tuple(notes))


def _classes(entries: Entries, variant: Variant) -> int:
    """As many as the file's head has, if it is one that the family could have; else the variant's own."""
    weight, bias = (entries.headers.get(key, ((), ""))[0] for key in FAMILIES[variant.family].head_keys)
    classes = variant.architecture.classes
    own = len(bias) == 1 and bias[0] > 0 and len(weight) == 2
    return bias[0] if own and weight[FAMILIES[variant.family].head_axis] == bias[0] else classes


def _uncounted(entries: Entries, wanted: Collection[str]) -> list[str]:
    """The counters that are missing, or no int64 numbers: timm's avg_checkpoints.py, for one, leaves float32."""
    return [key for key in wanted if key.endswith(COUNTER) and entries.headers.get(key) != ((), "int64")]


def _synthetic_checkpoint(variant: Variant, seed: int, folder: Path) -> Checkpoint:
    """The synthetic file of this variant and seed, written at the first use, or again if it was changed."""
    path = folder / _synthetic_name(variant, seed)
    sha256 = hash_file(path) if path.is_file() else None
    if sha256 is None or recorded_sha256(path) != sha256:
        synthetic.write(variant, path, seed)
        sha256 = hash_file(path)
        write_record(path, f"synthetic, seed {seed}", sha256, path.stat().st_size)
    return Checkpoint(path, "synthetic", None, sha256)


def _synthetic_name(variant: Variant, seed: int) -> str:
    layout = FAMILIES[variant.family].synthetic_layout
    return f"{variant.name}.synthetic-v{synthetic.FORMAT_VERSION}-seed{seed}{SUFFIXES[layout]}"


def _resembled(variant: Variant, entries: Entries) -> list[str]:
    """Names of other variants whose keys and shapes are exactly those of the file."""
    return [
        other.name
        for other in VARIANTS.values()
        if other.family == variant.family
        and other.shapes != variant.shapes
        and entries.as_variant(other) == other.shapes
    ]
