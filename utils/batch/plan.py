"""Which conversions a batch is to make, and which of them are there already."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from utils.artefact.contents import check_artefact
from utils.checkpoints.loading import recorded_hashes
from utils.errors import ConversionError, ParameterError
from utils.families import FAMILIES
from utils.families.variants import BESIDE, HEADS, VARIANTS, Variant, artefact_name, get_variant
from utils.settings import Settings, formats_of


@dataclass(eq=False)
class Outcome:
    """A conversion, and what became of it.

    state: "not started", "running", "converted", "failed", "interrupted" or "was done". reason: why it has to be made,
    or why it failed. manifest: of the artefact, when it was found right; else empty.
    """

    settings: Settings
    state: str = "not started"
    reason: str = ""
    seconds: float = 0.0
    peak_mb: float = 0.0
    manifest: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The artefact's name."""
        made = self.settings
        return artefact_name(made.variant, made.head, made.checkpoint, made.operations)

    @property
    def variant(self) -> str:
        """The variant's name."""
        return self.settings.variant

    @property
    def is_open(self) -> bool:
        """Whether it runs, or may still be started."""
        return self.state in ("not started", "running")


def plan(variants: Sequence[str], heads: str, operations: str, formats: str, **common: Any) -> list[Outcome]:
    """The conversions in order, those of one variant together.

    Args:
        variants: names, patterns such as "mixer_*_gsam", "convmixer", "mixer" (families), "all"; tiny ones where
            nothing else has such a name.
        heads: one of them, or "all".
        operations: one of them, or "all"; a family of one kind has that kind.
        formats: as `formats_of` takes them. Each conversion gets those that its family has, and of twins one gets more
            than the SavedModel.
        common: the fields of `Settings` that are the same for all.

    Raises:
        ParameterError: for what does not exist, cannot be converted, or is a format that no conversion has.
    """
    found = []
    named = formats_of(formats)
    for variant in _variants(variants):
        family = FAMILIES[variant.family]
        kinds = family.operations if operations == "all" or len(family.operations) == 1 else (operations,)
        for kind, head in itertools.product(kinds, HEADS if heads == "all" else (heads,)):
            # What lies beside a plain twin would be what lies beside the other one.
            had = () if kind == "plain" and operations == "all" else family.formats
            own = ", ".join(key for key in named if key not in BESIDE or key in had)
            settings = Settings(variant.name, head, operations=kind, formats=own, **common)
            settings.check()
            found.append(Outcome(settings))
    if lost := set(named).difference(*(formats_of(outcome.settings.formats) for outcome in found)):
        raise ParameterError(
            f"formats is {formats!r}, and none of these models has a .{min(lost)} file. Leave {min(lost)} out, or add "
            f"models of: {', '.join(name for name, family in FAMILIES.items() if min(lost) in family.formats)}"
        )
    return found


def _variants(wanted: Sequence[str]) -> list[Variant]:
    words = [word for text in wanted for word in re.split(r"[,\s]+", text) if word]
    if not words:
        raise ParameterError("variants is empty; expected all, convmixer, mixer, or names of variants")
    chosen = {word: _named(word) for word in words}
    if unknown := [word for word, names in chosen.items() if not names]:
        raise ParameterError(
            f"variants has {unknown[0]!r}, which is the name of no variant and a pattern of none; expected all, "
            f"convmixer, mixer, a pattern such as 'mixer_*_gsam', or some of {', '.join(VARIANTS)}"
        )
    return [variant for variant in VARIANTS.values() if variant.name in set().union(*chosen.values())]


def _named(word: str) -> set[str]:
    """The variants that a word stands for; tiny ones, which have no official weights, where it stands for no others."""
    found = [
        variant for variant in VARIANTS.values() if word in ("all", variant.family) or fnmatchcase(variant.name, word)
    ]
    return {variant.name for variant in found if not variant.testing} or {variant.name for variant in found}


def look(settings: Settings) -> tuple[Mapping[str, Any], str]:
    """The artefact's manifest and "", if it is there, whole, and what this conversion would make; else {} and why not.

    Goes by contents: name, settings, the checkpoint's SHA-256, the parity verdict, and the hashes of all files. The
    checkpoint's hash is compared with those recorded in the cache; an official file that was never downloaded to this
    cache has none, and then the manifest's is believed. A file beside it that nobody asked for may be there too.
    """
    variant, name = get_variant(settings.variant), Outcome(settings).name
    folder = Path(settings.output_dir)
    if not (folder / f"{name}.json").exists():
        return {}, "not there"
    try:
        manifest = check_artefact(folder, name)
        hashes = recorded_hashes(variant, settings.checkpoint, settings.seed)
    except ConversionError as error:
        return {}, str(error)
    kept = {"image_size": settings.size(variant), "seed": settings.seed}
    if len(FAMILIES[variant.family].operations) > 1:
        kept["operations"] = settings.operations
    wanted = {"variant": variant.name, "head": settings.head, "weights": settings.checkpoint, "settings": kept}
    found = {key: manifest.get(key) for key in wanted}
    if found != wanted:
        return {}, f"its manifest is of another conversion: {found}"
    if manifest["source"]["sha256"] not in hashes and (hashes or settings.checkpoint == "synthetic"):
        return {}, f"it was made from another checkpoint, of SHA-256 {manifest['source']['sha256']}"
    if lacking := [key for key in formats_of(settings.formats) if key in BESIDE and key not in manifest]:
        return {}, f"it has no .{lacking[0]} file"
    return manifest, ""
