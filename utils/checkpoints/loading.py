"""From a checkpoint, wherever it is, to a complete and checked dict of NumPy arrays.

Reading trusts nothing: every missing, surplus, misshapen, wrongly typed or non-finite entry is named.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from utils.checkpoints import synthetic
from utils.checkpoints.contents import open_contents, regular_file
from utils.checkpoints.download import Checkpoint, cached, fetch, read_record
from utils.checkpoints.entries import Entries, Problems
from utils.errors import CheckpointError, CheckpointUnavailable, ParameterError
from utils.families import FAMILIES
from utils.families.base import COUNTER
from utils.families.variants import VARIANTS, Variant, own_variant
from utils.files import hash_file

# Of the largest model: the weights, an average of them and an optimiser's two moments make four, in float64 eight.
_TORCH_COPIES = 9
_TORCH_SLACK_BYTES = 16 << 20


def resolve(variant: Variant, checkpoint: str | os.PathLike, seed: int) -> Checkpoint:
    """Turns the notebook parameter ("auto", "official", "synthetic" or a path) into a local file.

    "auto" is the official file, or synthetic weights of this seed, with the reason, if it cannot be fetched. A file
    that arrived, but is not what was recorded, is no reason to take other weights. Raises ParameterError for a
    parameter that makes no sense, CheckpointUnavailable if the official file cannot be fetched, CheckpointError if a
    file is missing or not what it should be.
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
            return fetch(variant)
        except CheckpointUnavailable as error:
            if checkpoint == "official":
                raise
            reason = str(error)
    if reason or checkpoint == "synthetic":
        return replace(synthetic.checkpoint(variant, seed), reason=reason)
    path = regular_file(checkpoint)
    return Checkpoint(path, "custom", None, hash_file(path))


def recorded_hashes(variant: Variant, checkpoint: str, seed: int) -> set[str]:
    """SHA-256 that the cache has on record for "official" or "synthetic", without a look at the files; may be none."""
    if checkpoint == "synthetic":
        paths = [synthetic.cached(variant, seed)]
    else:
        paths = [cached(variant, source) for source in variant.sources]
    return {record["sha256"] for path in paths if (record := read_record(path))}


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
    """Reads a checkpoint, in any format and key layout of the variant's family.

    Args:
        checkpoint: A local file ("custom") may have any number of classes, and counters that are missing.
        variant: The model that it should be of.
        head: "fe" leaves the classifier's arrays out.
        use_ema: Whether to take the moving average of the weights that a trainer left beside them.

    Raises:
        CheckpointError: Anything is not as the architecture asks.
    """
    path, custom, family = checkpoint.path, checkpoint.weights == "custom", FAMILIES[variant.family]
    relatives = [other for other in VARIANTS.values() if other.family == variant.family]
    # By the family's largest model, so that another variant's file is recognised by its shapes, not by its size.
    limit = _TORCH_COPIES * max(map(_size, relatives)) + _TORCH_SLACK_BYTES
    contents = open_contents(path, limit, use_ema, True)
    entries = Entries(contents, variant)
    if entries.family not in (None, variant.family):
        found = FAMILIES[entries.family]
        raise CheckpointError(
            f"{path}: this is a checkpoint of {found.title}, which {variant.name} is not. Use {found.notebook} for it."
        )
    uncounted = []
    if custom:
        bias_shape, _ = entries.headers.get(family.head_keys[1], ((), ""))
        own_classes = len(bias_shape) == 1 and bias_shape[0]
        architecture = replace(variant.architecture, classes=own_classes or variant.architecture.classes)
        variant = own_variant(
            variant.family, name=variant.name, architecture=architecture, preprocessing=variant.preprocessing
        )
        # timm's avg_checkpoints.py, for one, leaves float32.
        uncounted = [k for k in variant.shapes if k.endswith(COUNTER) and entries.headers.get(k) != ((), "int64")]
    ignored = [*uncounted, *(family.head_keys if head == "fe" else ())]
    wanted = {key: shape for key, shape in variant.shapes.items() if key not in ignored}
    problems = Problems(path, variant)
    problems.compare(entries.headers, wanted, ignored)
    others = [other for other in relatives if other.shapes != variant.shapes]
    # Before anything big is unpacked.
    problems.raise_if_any([other.name for other in others if Entries(contents, other).shapes == other.shapes])
    arrays = {}
    for key, array in entries.read(wanted):
        if array.dtype.kind == "f":
            with np.errstate(over="ignore"):  # infinity is named below
                array = array.astype(np.float32, copy=False)
        problems.check_values(key, array)
        arrays[key] = array
    problems.raise_if_any()
    arrays |= {key: np.zeros((), np.int64) for key in uncounted}
    notes = [*contents.notes, *problems.notes()]
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


def _size(variant: Variant) -> int:
    return 4 * sum(map(prod, variant.shapes.values()))
