"""From a checkpoint, wherever it is, to a complete and checked dict of NumPy arrays.

Reading trusts nothing: every missing, surplus, misshapen, wrongly typed or non-finite entry is named.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from utils.checkpoints import synthetic
from utils.checkpoints.contents import Contents, open_contents, regular_file
from utils.checkpoints.download import Checkpoint, cached, fetch, read_record
from utils.checkpoints.entries import Entries, Problems
from utils.checkpoints.sets import Found, find
from utils.errors import CheckpointError, CheckpointUnavailable, ParameterError
from utils.families import FAMILIES
from utils.families.base import COUNTER, Family, NoMatchError, Patches, Places, Shapes
from utils.families.recipe import Recipe, completed, told_by
from utils.families.variants import MAX_CHANNELS, VARIANTS, Variant, own_variant
from utils.files import hash_file

# Of the weights, in memory at the worst moment of a conversion: float32, float64, gradients of both, TensorFlow's.
_COPIES = 9


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


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a reader of a checkpoint wants of it.

    Attributes:
        variant: the row whose sizes it should have; None where the file tells them.
        family: whose models alone are taken; None for any.
        head: "fe" needs no classifier.
        recipe: what the user tells of the training.
        weights: which of several sets of weights; "auto" where one is meant.
        use_ema: whether to take the moving average of the weights that a trainer left beside them.
        proof: whether what is open between several readings will be decided by numbers.
        names: the file's names by the model's, if a conversion has found them: they decide what is open.
    """

    variant: Variant | None = None
    family: str | None = None
    head: str = "classification"
    recipe: Recipe = field(default_factory=Recipe)
    weights: str = "auto"
    use_ema: bool = False
    proof: bool = False
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reading:
    """The model that a file holds, by its headers alone.

    variant: what the checkpoint is; of a local file, with its own number of classes and nothing that is known of the
    official weights alone. notes: what the user must see. others: readings of the same file that differ in what
    belongs to what, of which numbers alone can tell the right one; doubt: what is open, in words.
    """

    path: Path
    variant: Variant
    entries: Entries
    problems: Problems
    notes: tuple[str, ...]
    head: str
    others: tuple[Reading, ...] = ()
    doubt: str = ""

    @property
    def names(self) -> dict[str, str]:
        """The file's name of each array by the model's own."""
        return {key: place.key for key, place in self.entries.places.items()}


def read(path: Path, wanted: Wanted, custom: bool = True) -> Reading:
    """Reads a checkpoint's headers, in any format and under any names.

    Args:
        path: A regular file.
        wanted: What it should be.
        custom: A local file may have any number of classes, and counters that are missing.

    Raises:
        CheckpointError: It holds no such model, or not one alone; ParameterError for a recipe that does not fit it.
    """
    contents = open_contents(path)
    family = wanted.variant.family if wanted.variant else wanted.family
    families = sorted(FAMILIES.values(), key=lambda each: each.name != family)
    found, note = find(path, contents, families, wanted.weights, wanted.use_ema, family)
    if family not in (None, found.family.name):
        raise CheckpointError(
            f"{path}: this is a checkpoint of {found.family.title}, not {FAMILIES[family].title}. "
            f"Use {found.family.notebook} for it."
        )
    possible, doubt = found.match
    if doubt and (known := [places for places in possible if _have(places, wanted.names)]):
        possible, doubt = known, ""
    if doubt and not wanted.proof:
        raise CheckpointError(
            f"{path}: its names and its order do not tell {doubt}. Only numbers of the model's own code can "
            "tell: give them as `reference`."
        )
    notes = (note,) if note else ()
    first, *others = [_reading(path, contents, found, places, wanted, custom, notes) for places in possible]
    return replace(first, others=tuple(others), doubt=doubt)


def _have(places: Places, names: Mapping[str, str]) -> bool:
    return all(place.key == names.get(key) for key, place in places.items())


def _reading(
    path: Path,
    contents: Contents,
    found: Found,
    places: Places,
    wanted: Wanted,
    custom: bool,
    notes: tuple[str, ...],
) -> Reading:
    layout, named = found.family.layout, wanted.variant
    entries = Entries(contents, found, places)
    try:
        sizes = layout.architecture(entries.shapes)
    except NoMatchError as error:
        if not named:
            raise CheckpointError(f"{path}: {error}") from error
        sizes = None
    if custom and sizes:
        entries.find_head(found.family.head_keys, getattr(sizes, sizes.WIDTH))
        sizes = replace(sizes, classes=_classes(entries, found.family))
    entries.sort_others(getattr(sizes or named.architecture, (sizes or named.architecture).WIDTH))
    variant = named
    if custom:
        variant = _as_trained(path, contents, found, sizes or named.architecture, wanted)
    others = layout.shapes(replace(sizes, classes=variant.architecture.classes)) if sizes else variant.shapes
    problems = Problems(path, variant, sizes if others != variant.shapes else None)
    problems.compare(entries, _needed(variant, entries, wanted.head, custom))
    relatives = [row for row in VARIANTS.values() if row.family == variant.family and row.shapes != variant.shapes]
    # Before anything big is unpacked.
    problems.raise_if_any([row.name for row in relatives if sizes and row.shapes == entries.shapes])
    _require_memory(path, variant)
    notes = (*notes, *problems.notes(), *(_of_dense_patches(path, entries, sizes) if sizes else ()))
    return Reading(path, variant, entries, problems, notes, wanted.head)


def _classes(entries: Entries, family: Family) -> int:
    """Those of the head, if there is one."""
    shape = entries.shapes.get(family.head_keys[1], ())
    return shape[0] if len(shape) == 1 else 0


def _needed(variant: Variant, entries: Entries, head: str, custom: bool) -> Shapes:
    """What must be there: all, but for what a local file may lack, and a classifier that nobody asks for."""
    found, keys = entries.headers, FAMILIES[variant.family].head_keys
    ignored = {key for key in keys if head == "fe" and key not in found}
    if custom:  # timm's avg_checkpoints.py, for one, leaves counters in float32
        ignored |= {key for key in variant.shapes if key.endswith(COUNTER) and found.get(key) != ((), "int64")}
    return {key: shape for key, shape in variant.shapes.items() if key not in ignored}


def _as_trained(path: Path, contents: Contents, found: Found, sizes: Patches, wanted: Wanted) -> Variant:
    """The row of a local file: its sizes with what is given, told or assumed of its training."""
    family, row = found.family, wanted.variant
    if row:  # sizes that are not the row's, but for the classes, are named when the two are compared
        sizes = replace(row.architecture, classes=sizes.classes or row.architecture.classes)
    if not 0 < sizes.channels <= MAX_CHANNELS:
        raise CheckpointError(f"{path}: its images have {sizes.channels:,} channels; expected 1 to {MAX_CHANNELS:,}.")
    _require_mean_pooling(path, contents.args)
    given = wanted.recipe.for_channels(sizes.channels, path.name)
    told = told_by(contents.args, sizes.channels, family.layout.trained_as)
    if not family.any_size:  # the number of tokens tells it
        if not row:
            _require_side_by_side(path, sizes, told.image_size)
        given, told = replace(given, image_size=None), replace(told, image_size=sizes.image_size)
    trained = completed(given, told, _assumed(found, sizes, row))
    return own_variant(
        family.name,
        **({"name": row.name} if row else {}),
        architecture=trained.of(sizes),
        preprocessing=trained.preprocessing,
        origins=trained.origins,
    )


def _assumed(found: Found, sizes: Patches, row: Variant | None) -> Recipe:
    """The recipe of a model of which nobody tells any: its layout's, its row's, its family's."""
    family = found.family
    activation, epsilon = family.layout.assumed(found.framework_layout)
    if row and (activation, epsilon) == family.layout.assumed(next(iter(family.layout.MARKS))):
        activation, epsilon = row.architecture.activation, getattr(row.architecture, row.architecture.EPSILON)
    return Recipe(
        activation=activation,
        epsilon=epsilon,
        image_size=row.image_size if row else 224,
        crop_pct=family.crop,
        interpolation="bicubic",
        mean=_by_channel(family.mean, sizes.channels),
        std=_by_channel(family.std, sizes.channels),
    )


def _require_mean_pooling(path: Path, args: Mapping[str, Any]) -> None:
    """CheckpointError if timm's trainer was told to pool otherwise, which no tensor shows."""
    if (pool := args.get("gp")) not in (None, "", "avg", "fast", "fastavg"):
        raise CheckpointError(f"{path}: its trainer pooled by {pool!r} (gp). Models here pool by the mean.")


def _require_side_by_side(path: Path, sizes: Patches, image_size: int | None) -> None:
    """CheckpointError if there are more or fewer tokens than an image of the trainer's size has patches."""
    if image_size and sizes.positions(image_size, image_size) != sizes.tokens:
        raise CheckpointError(
            f"{path}: its trainer says images of {image_size} pixels, but {sizes.tokens} tokens are patches of "
            f"{sizes.patch_size} pixels for {sizes.image_size}: they overlap or have gaps. Models here have patches "
            "side by side."
        )


def _of_dense_patches(path: Path, entries: Entries, sizes: Patches) -> Iterator[str]:
    """A note on what the columns of a dense layer leave open: channels and patch."""
    for place in entries.places.values():
        if place.shape and len(place.shape) == 4:
            yield (
                f"{path.name}: {place.key} takes {math.prod(place.shape[1:])} numbers a patch. ASSUMED are "
                f"{sizes.channels} channels, so patches of {sizes.patch_size} pixels and images of {sizes.image_size}; "
                "more channels and smaller patches would have the same form. `reference` tells."
            )


def _by_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """RGB's numbers for as many channels; of other channels their mean, as nothing better is known."""
    return values if channels == len(values) else (round(sum(values) / len(values), 6),) * channels


def _require_memory(path: Path, variant: Variant) -> None:
    """CheckpointError before anything is allocated that would not fit."""
    import psutil

    needed = _COPIES * 4 * sum(map(math.prod, variant.shapes.values()))
    available = psutil.virtual_memory().available
    if needed > available:
        raise CheckpointError(
            f"{path}: a model of {variant.architecture} needs about {needed / 1e9:,.1f} GB of memory to convert, and "
            f"{available / 1e9:,.1f} GB are free. Use a machine with more."
        )


@dataclass(frozen=True)
class Loaded:
    """Checked arrays under canonical keys, the variant that they are, and notes that the user must see.

    arrays: float32, counters int64; they may be views of the file mapped into memory.
    """

    arrays: dict[str, np.ndarray]
    variant: Variant
    notes: tuple[str, ...]
    reading: Reading


def load(checkpoint: Checkpoint, wanted: Wanted) -> Loaded:
    """Reads a checkpoint whole; raises as `read` and `load_arrays`."""
    return load_arrays(read(checkpoint.path, wanted, custom=checkpoint.weights == "custom"))


def load_arrays(reading: Reading, classifier: bool = False) -> Loaded:
    """The arrays of what was read.

    classifier: whether to read its arrays for the head "fe" too. Raises CheckpointError for values that no model has.
    """
    variant, path, found = reading.variant, reading.path, reading.entries.headers
    dropped = FAMILIES[variant.family].head_keys if reading.head == "fe" and not classifier else ()
    uncounted = [key for key in variant.shapes if key.endswith(COUNTER) and found.get(key) != ((), "int64")]
    keys = [key for key in variant.shapes if key in found and key not in (*dropped, *uncounted)]
    problems, arrays = reading.problems, {}
    for key, array in reading.entries.read(keys):
        if array.dtype.kind == "f":
            with np.errstate(over="ignore"):  # infinity is named below
                array = array.astype(np.float32, copy=False)
        problems.check_values(reading.entries.key(key), array)
        arrays[key] = array
    problems.raise_if_any()
    arrays |= {key: np.zeros((), np.int64) for key in uncounted}
    notes = reading.notes
    if uncounted:
        notes += (
            f"{path.name}: {len(uncounted)} counters of batches ({COUNTER}) are missing or no int64 numbers. Nothing "
            "is computed with them: they were set to 0.",
        )
    return Loaded(arrays, variant, notes, reading)
