"""What an artefact was made from; and that none takes the place of one that was made from something else."""

from __future__ import annotations

import hashlib
import os
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path, PurePath
from typing import Any

from utils.artefact.contents import architecture_of, placed_names, preprocessing_of, read_manifest
from utils.artefact.manifest import UNLISTED, model_facts
from utils.errors import PackagingError
from utils.families.variants import Preprocessing, Variant
from utils.images.labels import FILE as LABELS, Label, labels_text

# Of a manifest's `settings` and `training`: what is no part of the source. Synthetic weights tell the seed by SHA-256.
_NO_SOURCE = ("seed", "history", "best_epoch", "val_accuracy", "results")


def outline(
    variant: Variant, preprocessing: Preprocessing, labels: Sequence[Label] | None, **fields: Any
) -> dict[str, Any]:
    """As much of a manifest as says what it is made from, before there are any files.

    Args:
        variant: The model's.
        preprocessing: What the artefact expects.
        labels: Of the classes, if they have names.
        fields: `name`, `head`, `weights` and `source` of `Manifest`, with `settings` and `training` as they will be.
    """
    named = labels and fields["head"] == "classification"
    files = {LABELS: hashlib.sha256(labels_text(labels).encode()).hexdigest()} if named else {}
    return {**fields, "model": model_facts(variant, preprocessing), "files": files}


def require_same_source(output_dir: Path, manifest: Mapping[str, Any]) -> None:
    """PackagingError if what has this name in `output_dir` was made from something else, or is no artefact of ours.

    manifest: of what is to take its place, or an `outline`.
    """
    name = manifest["name"]
    if any(os.path.lexists(output_dir / each) for each in placed_names(name)):
        there = _manifest_there(output_dir / f"{name}.json", output_dir / name / UNLISTED[0])
        _require_same(
            output_dir / name,
            there,
            manifest,
            "Choose another name (name = '...'; with make: NAME=...) or another output_dir, or let this one replace it "
            "(overwrite = True; with make: OVERWRITE=1).",
        )


def require_same_origin(lite: Path, manifest: Mapping[str, Any]) -> None:
    """The same of a .tflite file that is to be made from the artefact of `manifest`."""
    beside = lite.with_name(f"{lite.name}.json")
    if os.path.lexists(lite) or os.path.lexists(beside):
        advice = "Choose another folder (--output-dir), or let this one replace it (--overwrite)."
        _require_same(lite, _manifest_there(beside), manifest, advice)


def _require_same(path: Path, there: Mapping[str, Any], here: Mapping[str, Any], advice: str) -> None:
    """PackagingError, which ends in `advice`, unless what lies at `path` was made from the same.

    there: its manifest, {} if it has none. here: of what is to take its place.
    """
    if there and _source_of(there) == _source_of(here):
        return
    found = _compared(there, here) if there else "it is no artefact of this project, or its manifest is damaged"
    raise PackagingError(
        f"{path} is there already, and was not made from the same: {found}. Nothing was replaced. {advice}"
    )


def _manifest_there(*paths: Path) -> dict[str, Any]:
    """The first manifest that is there and that this version can read; else {}."""
    for path in paths:
        with suppress(PackagingError):
            manifest = read_manifest(path)
            architecture_of(manifest)
            return manifest
    return {}


def _compared(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    old, new = _source_of(there), _source_of(here)
    fields = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return "; ".join(
        [f"there is {_checkpoint(there)}, and here {_checkpoint(here)}"]
        + [f"{key} is {reprlib.repr(old.get(key))} there, and {reprlib.repr(new.get(key))} here" for key in fields]
    )


def _checkpoint(manifest: Mapping[str, Any]) -> str:
    source = manifest["source"]
    file = PurePath(source.get("path") or source.get("url") or "a checkpoint").name
    return f"{file} of SHA-256 {source['sha256']}"


def _source_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The checkpoint, and all that changes what is computed from it."""
    parts = {
        "architecture": asdict(architecture_of(manifest)),
        "preprocessing": asdict(preprocessing_of(manifest)),
        **{part: manifest.get(part) or {} for part in ("settings", "training")},
    }
    kept = {part: {k: v for k, v in values.items() if k not in _NO_SOURCE} for part, values in parts.items()}
    return {
        "SHA-256": manifest["source"]["sha256"],
        "weights": manifest["weights"],
        "head": manifest["head"],
        "labels": manifest.get("derived_from", manifest)["files"].get(LABELS),
        **{key: value for part, values in kept.items() for key, value in _leaves(part, values)},
    }


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        yield key, value
        return
    for inner, item in value.items():
        yield from _leaves(f"{key}.{inner}", item)
