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
from utils.families.variants import BESIDE, HEADS, VARIANTS, Variant, artefact_name
from utils.settings import Settings, formats_of


@dataclass(frozen=True)
class Conversion:
    """One artefact to make. `operations` is "xla" for a ConvMixer too, which has no choice there."""

    variant: Variant
    head: str
    operations: str
    checkpoint: str
    seed: int
    formats: str = "saved_model"

    @property
    def name(self) -> str:
        """The artefact's name."""
        return artefact_name(self.variant.name, self.head, self.checkpoint, self.operations)

    @property
    def settings(self) -> dict[str, Any]:
        """What the manifest's `settings` must say."""
        settings = {"image_size": self.variant.image_size, "seed": self.seed}
        return settings | ({"operations": self.operations} if len(FAMILIES[self.variant.family].operations) > 1 else {})

    def arguments(self, output_dir: Path) -> list[str]:
        """Options of `python -m utils.convert`."""
        options = {"variant": self.variant.name, "head": self.head, "checkpoint": self.checkpoint}
        options |= {"output-dir": str(output_dir), "seed": str(self.seed), "formats": self.formats}
        if len(FAMILIES[self.variant.family].operations) > 1:
            options["operations"] = self.operations
        return [word for name, value in options.items() for word in (f"--{name}", value)]


@dataclass
class Outcome:
    """What became of a conversion. state: "was done", "converted", "failed", "interrupted" or "not started".

    manifest: of the artefact, when it was found right; else empty.
    """

    conversion: Conversion
    state: str = "not started"
    seconds: float = 0.0
    peak_mb: float = 0.0
    reason: str = ""
    manifest: Mapping[str, Any] = field(default_factory=dict)


def plan(
    variants: Sequence[str],
    heads: str,
    operations: str,
    checkpoint: str,
    seed: int,
    output_dir: Path,
    formats: str = "saved_model",
) -> list[Conversion]:
    """The conversions in order, those of one variant together, so that its checkpoint is read from memory again.

    variants: names, patterns such as "mixer_*_gsam", "convmixer", "mixer" (families), "all"; tiny ones by name.
    heads, operations: one of them, or "all". formats: as `formats_of` takes them; each conversion
    gets those that its family has, and of twins one gets more than the SavedModel.
    Raises ParameterError for what does not exist, cannot be converted, or is a format that no conversion has.
    """
    conversions = []
    named = formats_of(formats)
    for variant in _variants(variants):
        family = FAMILIES[variant.family]
        own = [key for key in named if key not in BESIDE or key in family.formats]
        kinds = family.operations if operations == "all" or len(family.operations) == 1 else (operations,)
        for kind, head in itertools.product(kinds, HEADS if heads == "all" else (heads,)):
            # What lies beside a plain twin would be what lies beside the other one.
            chosen = "saved_model" if kind == "plain" and operations == "all" else ", ".join(own)
            Settings(
                variant.name, head, checkpoint, output_dir=str(output_dir), seed=seed, operations=kind, formats=chosen
            ).check()
            conversions.append(Conversion(variant, head, kind, checkpoint, seed, chosen))
    if lost := set(named).difference(*(formats_of(conversion.formats) for conversion in conversions)):
        raise ParameterError(
            f"formats is {formats!r}, and none of these models has a .{min(lost)} file. Leave {min(lost)} out, or add "
            f"models of: {', '.join(name for name, family in FAMILIES.items() if min(lost) in family.formats)}"
        )
    return conversions


def _variants(wanted: Sequence[str]) -> list[Variant]:
    words = [word for text in wanted for word in re.split(r"[,\s]+", text) if word]
    if not words:
        raise ParameterError("variants is empty; expected all, convmixer, mixer, or names of variants")
    chosen = {word: {v.name for v in VARIANTS.values() if _matches(v, word)} for word in words}
    if unknown := [word for word, names in chosen.items() if not names]:
        raise ParameterError(
            f"variants has {unknown[0]!r}, which no variant is called; expected all, convmixer, mixer, a pattern such "
            f"as 'mixer_*_gsam', or some of {', '.join(VARIANTS)}"
        )
    return [variant for variant in VARIANTS.values() if variant.name in set().union(*chosen.values())]


def _matches(variant: Variant, word: str) -> bool:
    anything = word in ("all", variant.family) or fnmatchcase(variant.name, word)
    return word == variant.name or (anything and not variant.testing)


def look(conversion: Conversion, output_dir: Path) -> tuple[Mapping[str, Any], str]:
    """Its manifest, and nothing to say, if the artefact is there, whole, and what this conversion would make.

    Else an empty manifest, and what is not so.

    Goes by contents: name, settings, the checkpoint's SHA-256, the parity verdict, and the hashes of all files. The
    checkpoint's hash is compared with those recorded in the cache; an official file that was never downloaded to this
    cache has none, and then the manifest's is believed. A file beside it that nobody asked for may be there too.
    """
    if not (output_dir / f"{conversion.name}.json").exists():
        return {}, "not there"
    try:
        manifest = check_artefact(output_dir, conversion.name)
        hashes = recorded_hashes(conversion.variant, conversion.checkpoint, conversion.seed)
    except ConversionError as error:
        return {}, str(error)
    wanted = {"variant": conversion.variant.name, "head": conversion.head, "weights": conversion.checkpoint}
    found = {key: manifest[key] for key in wanted} | {"settings": manifest.get("settings")}
    if found != wanted | {"settings": conversion.settings}:
        return {}, f"its manifest is of another conversion: {found}"
    if manifest["source"]["sha256"] not in hashes and (hashes or conversion.checkpoint == "synthetic"):
        return {}, f"it was made from another checkpoint, of SHA-256 {manifest['source']['sha256']}"
    if lacking := [key for key in formats_of(conversion.formats) if key in BESIDE and key not in manifest]:
        return {}, f"it has no .{lacking[0]} file"
    return manifest, ""


def is_cached(conversion: Conversion) -> bool:
    """Whether the cache has a record of the checkpoint: then no conversion is going to fetch or write it."""
    try:
        return bool(recorded_hashes(conversion.variant, conversion.checkpoint, conversion.seed))
    except ConversionError:  # the conversion will tell
        return False
